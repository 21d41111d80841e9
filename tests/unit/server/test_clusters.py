"""Servers in one loop that know each other: links come and go with their clients, and nobody keeps
what somebody else changed elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import dataplatform.aio
from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Unavailable
from dataplatform.core.units import SYSTEM
from dataplatform.engine.memory import MemoryStorages
from dataplatform.transport.addresses import parse
from dataplatform.transport.connections import AsyncConnection
from dataplatform_server.clusters import remotes
from dataplatform_server.servers import Server
from dataplatform_server.settings import Settings

WATCH, STAT, WRITE = METHODS["Namespace.Watch"], METHODS["Namespace.Stat"], METHODS["Files.Write"]


async def start(directory: Path, name: str, port: int = 0) -> Server:
    directory.mkdir(exist_ok=True)
    settings = Settings(
        data=directory,
        store=None,
        cluster=name,
        listen=("127.0.0.1", port),
        grpc=None,
        http=None,
        socket=directory / "dp.sock",
        socket_is_default=False,
        insecure=False,
        log_level="info",
    )
    return await Server.start(settings, MemoryStorages())


@contextlib.asynccontextmanager
async def two(directory: Path) -> AsyncIterator[tuple[Server, Server]]:
    home, east = await start(directory / "home", "home"), await start(directory / "east", "east")
    try:
        identities = east.platform.identities
        await identities.create_user(SYSTEM, "link", is_admin=True)
        token = identities.text_of(
            await identities.create_token(SYSTEM, "link", ttl_s=600, may_speak=True)
        )
        async with dataplatform.aio.connect(home.endpoints.socket) as dp:
            await dp.add_cluster("east", east.endpoints.frames, token=token)
        async with dataplatform.aio.connect(east.endpoints.socket) as dp:
            await dp.write_file("/f", b"one")
        yield home, east
    finally:
        await home.stop(0)
        await east.stop(0)


async def until(found: Any, limit_s: float = 10) -> None:
    async with asyncio.timeout(limit_s):
        while not found():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def sessions_of_clients(east: Server) -> int:
    """Without those that only find out whether it is there."""
    return sum(1 for c in east.frames._server.connections if c.session is not None)


async def test_links_end_with_their_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "IDLE_S", 0.1)
    monkeypatch.setattr(remotes, "PING_EVERY_S", 0.02)
    async with two(tmp_path) as (home, east):
        assert sessions_of_clients(east) == 0, "nothing is connected before somebody asks"
        clients = [await dataplatform.aio.connect(home.endpoints.socket) for _ in range(3)]
        for client in clients:
            assert await client.read_file("/east/f") == b"one"
        assert sessions_of_clients(east) == 4
        file = await clients[0].open("/east/f", "rb")
        await clients[0].remove("/east/f")
        await asyncio.sleep(0.2)  # longer than a cluster stays connected without links
        assert await file.read() == b"one", "a link stays while its client is there"
        await file.close()
        for client in clients:
            await client.close()
        await until(lambda: sessions_of_clients(east) == 0)


@pytest.mark.allow_warnings("a cluster is away")
async def test_a_watcher_is_told_before_others_are_answered(tmp_path: Path) -> None:
    async with two(tmp_path) as (home, east):
        mount = await AsyncConnection.open(parse(home.endpoints.socket), pb.Hello())
        reply, _ = await mount.call(WATCH, pb.WatchRequest(begin=True))
        stat = pb.StatRequest(target=pb.Target(path="/east/f"))
        node, _ = await mount.call(STAT, stat)
        assert node.volume >> 48 == 1
        async with dataplatform.aio.connect(east.endpoints.socket) as there:
            changing = asyncio.create_task(there.write_file("/f", b"two"))
            told, _ = await mount.call(
                WATCH, pb.WatchRequest(acknowledged=reply.sequence, wait_ms=5000)
            )
            (broken,) = [b for b in told.broken if (b.volume, b.inode) == (node.volume, node.inode)]
            assert broken.data or broken.unlinked
            await asyncio.sleep(0.1)
            assert not changing.done(), "it waits until the mount has acknowledged"
            acknowledged = pb.WatchRequest(acknowledged=told.sequence)
            await mount.call(WATCH, acknowledged)
            async with asyncio.timeout(5):
                await changing
        # Nothing is believed any more when the cluster is not heard.
        await mount.call(STAT, stat)
        await east.stop(0)
        async with asyncio.timeout(10):
            while True:
                acknowledged.wait_ms = 1000
                told, _ = await mount.call(WATCH, acknowledged)
                if told.everything:
                    break
                acknowledged.acknowledged = told.sequence
        with pytest.raises(Unavailable):
            await mount.call(STAT, stat)
        await mount.close()
