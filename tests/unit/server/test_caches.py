"""Two clients of one server, of which one keeps what it is answered: docs/wire.md, "Caches"."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.clock import ManualClock
from dataplatform.base.errors import Conflict, ErrorKind, NotFound, PlatformError
from dataplatform.core import orphans
from dataplatform.keyspace.records import ROOT_VOLUME
from dataplatform.transport.connections import AsyncConnection
from dataplatform_server.servers import Server
from tests.unit.transport.fakes import until

from .servers import connect, running

ROOT = pb.Target(volume=ROOT_VOLUME, inode=1)


def in_root(name: str) -> pb.Target:
    return pb.Target(volume=ROOT_VOLUME, inode=1, path=name)


def itself(node: pb.Node) -> pb.Target:
    return pb.Target(volume=node.volume, inode=node.inode)


class Client:
    """One client: a session, and a number for each change."""

    def __init__(self, connection: AsyncConnection, session: bytes) -> None:
        self.connection = connection
        self.session = session
        self.acknowledged = 0
        self._slots = itertools.count()
        self._sequences = itertools.count(1)

    async def call(self, name: str, message: Any, data: bytes = b"") -> Any:
        return (await self.connection.call(METHODS[name], message, data))[0]

    async def change(self, name: str, message: Any, data: bytes = b"") -> Any:
        """With a request id, which stays in the message."""
        message.request.session = self.session
        message.request.slot = next(self._slots) % 64
        message.request.sequence = next(self._sequences)
        return await self.call(name, message, data)

    async def stat(self, target: pb.Target) -> pb.Node:
        return await self.call("Namespace.Stat", pb.StatRequest(target=target))  # type: ignore[no-any-return]

    async def create(self, name: str, **fields: Any) -> pb.Node:
        request = pb.CreateRequest(target=in_root(name), kind=pb.FILE, **fields)
        return await self.change("Namespace.Create", request)  # type: ignore[no-any-return]

    async def write(self, node: pb.Node, data: bytes, **fields: Any) -> pb.WriteReply:
        request = pb.WriteRequest(target=itself(node), **fields)
        return await self.change("Files.Write", request, data)  # type: ignore[no-any-return]

    async def read(self, node: pb.Node) -> bytes:
        request = pb.ReadRequest(target=itself(node), length=1000)
        return bytes((await self.connection.call(METHODS["Files.Read"], request))[1])

    async def remove(self, name: str, **fields: Any) -> pb.NamesReply:
        request = pb.RemoveRequest(target=in_root(name), **fields)
        return await self.change("Namespace.Remove", request)  # type: ignore[no-any-return]

    async def watch(self, wait_ms: int = 0, **fields: Any) -> pb.WatchReply:
        request = pb.WatchRequest(acknowledged=self.acknowledged, wait_ms=wait_ms, **fields)
        return await self.call("Namespace.Watch", request)  # type: ignore[no-any-return]

    async def begin(self) -> None:
        self.acknowledged = (await self.watch(begin=True)).sequence

    async def hear(self) -> list[pb.WatchReply.Broken]:
        """What there is to hear within a few seconds, not acknowledged yet."""
        reply = await self.watch(5000)
        assert not reply.everything
        self.acknowledged = reply.sequence
        return list(reply.broken)


@contextlib.asynccontextmanager
async def two(path: Path, clock: Any = None) -> AsyncIterator[tuple[Server, Client, Client]]:
    """A server, a client that keeps what it is answered, and another one."""
    async with running(path, clock) as server:
        clients = []
        for letter in (b"k", b"o"):
            session = letter * 16
            hello = pb.Hello(protocol=1, program="a test", session=session)
            clients.append(Client(await connect(server, hello), session))
        await clients[0].begin()
        yield server, clients[0], clients[1]
        for client in clients:
            await client.connection.close()


async def test_it_is_told_before_the_change_is_answered(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, keeper, other):
        node = await other.create("f")
        await keeper.stat(in_root("f"))
        change = asyncio.create_task(
            other.change(
                "Namespace.SetAttributes", pb.SetAttributesRequest(target=itself(node), mode=0)
            )
        )
        (broken,) = await keeper.hear()
        assert (broken.volume, broken.inode) == (node.volume, node.inode)
        await other.call("System.Ping", pb.Empty())
        assert not change.done()
        await keeper.watch()
        assert (await change).mode == 0


async def test_what_was_missing_is_told_of_when_it_comes(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, keeper, other):
        with pytest.raises(NotFound):
            await keeper.stat(in_root("f"))
        change = asyncio.create_task(other.create("f"))
        (broken,) = await keeper.hear()
        assert (broken.inode, broken.entries, list(broken.names)) == (1, True, ["f"])
        assert not change.done()
        await keeper.watch()
        assert (await keeper.stat(in_root("f"))).inode == (await change).inode


async def test_everything_that_is_answered_is_promised(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, keeper, other):
        opened = await other.create("opened")
        await keeper.change("Files.Open", pb.OpenRequest(target=itself(opened)))
        change = asyncio.create_task(other.write(opened, b"new"))
        assert [b.inode for b in await keeper.hear()] == [opened.inode]
        await keeper.watch()
        await change
        listed = opened
        await keeper.call("Namespace.List", pb.ListRequest(target=ROOT))
        created = await keeper.create("created")
        written = await keeper.change(
            "Files.WriteFile", pb.WriteFileRequest(target=in_root("written")), b"x"
        )
        linked = await keeper.change(
            "Namespace.Link", pb.LinkRequest(existing=in_root("written"), target=in_root("linked"))
        )
        assert linked.inode == written.inode
        for node in (listed, created, written):
            change = asyncio.create_task(other.write(node, b"new"))
            (broken,) = await keeper.hear()
            assert (broken.inode, broken.data) == (node.inode, True)
            await keeper.watch()
            await change


async def test_a_retry_is_answered_with_what_is_promised(tmp_path: Path) -> None:
    """The reply was lost, somebody else has changed the file, and the client asks again."""
    async with two(tmp_path) as (_, keeper, other):
        request = pb.CreateRequest(target=in_root("f"), kind=pb.FILE)
        node = await keeper.change("Namespace.Create", request)
        change = asyncio.create_task(other.write(node, b"new"))
        assert len(await keeper.hear()) == 1
        await keeper.watch()
        await change
        again = await keeper.call("Namespace.Create", request)
        assert (again.inode, again.size) == (node.inode, 3)
        change = asyncio.create_task(other.write(node, b"newer"))
        assert len(await keeper.hear()) == 1
        await keeper.watch()
        await change


async def test_a_removed_file_can_still_be_opened(tmp_path: Path) -> None:
    async with two(tmp_path) as (server, keeper, other):
        node = await other.create("f")
        await other.write(node, b"bytes")
        await keeper.stat(in_root("f"))
        removal = asyncio.create_task(other.remove("f"))
        told = await keeper.hear()
        assert [b.unlinked for b in told if b.inode == node.inode] == [True]
        volume = next(v for v in server.platform.volumes if v.id == ROOT_VOLUME)
        assert await orphans.run_once(volume) == 0
        assert (await keeper.change("Files.Open", pb.OpenRequest(target=itself(node)))).links == 0
        await keeper.watch()
        await removal
        assert await orphans.run_once(volume) == 0
        assert await keeper.read(node) == b"bytes"
        await keeper.call("Files.Close", pb.StatRequest(target=itself(node)))
        assert await orphans.run_once(volume) == 1
        with pytest.raises(NotFound):
            await keeper.read(node)


@pytest.mark.parametrize("how", ["remove", "rename"])
async def test_what_the_remover_has_open_stays(how: str, tmp_path: Path) -> None:
    async with two(tmp_path) as (_, keeper, _other):
        node = await keeper.create("f")
        await keeper.write(node, b"bytes")
        await keeper.create("new")
        message: Any
        if how == "remove":
            message = pb.RemoveRequest(target=in_root("f"), keep_open=True)
        else:
            message = pb.RenameRequest(source=in_root("new"), target=in_root("f"), keep_open=True)
        method = f"Namespace.{how.title()}"
        reply = await keeper.change(method, message)
        assert reply.kept_open
        assert await keeper.call(method, message) == reply  # its reply was lost
        assert await keeper.read(node) == b"bytes"
        await keeper.call("Files.Close", pb.StatRequest(target=itself(node)))


async def test_a_client_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    clock = ManualClock()  # no lease ever runs out
    async with two(tmp_path, clock) as (server, keeper, other):
        node = await other.create("f")
        await keeper.stat(in_root("f"))
        change = asyncio.create_task(other.write(node, b"new"))
        await until(lambda: server.platform.promises.broken_count)
        assert not change.done()
        await keeper.connection.close()
        await change
        assert not server.platform.promises


async def test_a_client_that_comes_back_hears_that_everything_is_over(tmp_path: Path) -> None:
    async with two(tmp_path) as (server, keeper, other):
        node = await other.create("f")
        await keeper.stat(in_root("f"))
        await keeper.connection.close()
        await other.write(node, b"new")
        hello = pb.Hello(protocol=1, session=keeper.session)
        keeper.connection = await connect(server, hello)
        reply = await keeper.watch()
        assert reply.everything
        assert reply.lease_ms == 10_000


async def test_two_that_change_what_the_other_keeps(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, one, other):
        await other.begin()
        first, second = await one.create("f"), await other.create("g")
        changes = [
            asyncio.create_task(one.write(second, b"x")),
            asyncio.create_task(other.write(first, b"x")),
        ]
        for client in (one, other):
            while not any(b.data for b in await client.hear()):
                await client.watch()
        assert not any(change.done() for change in changes)
        await one.watch()
        await other.watch()
        await asyncio.gather(*changes)


async def test_more_changes_than_a_connection_may_have_under_way(tmp_path: Path) -> None:
    """Each client's changes wait for the other's acknowledgement, which comes behind its own."""
    clock = ManualClock()  # no lease ever runs out
    async with two(tmp_path, clock) as (_, one, other):
        await other.begin()
        nodes = [[await c.create(f"{c.session[0]}-{n}") for n in range(300)] for c in (one, other)]
        await one.begin()
        await other.begin()
        for client, mine in zip((one, other), nodes, strict=True):
            for node in mine:
                await client.stat(itself(node))
        changes = [
            asyncio.create_task(client.call("Files.Write", pb.WriteRequest(target=itself(n)), b"x"))
            for client, theirs in ((one, nodes[1]), (other, nodes[0]))
            for n in theirs
        ]

        async def acknowledge(client: Client) -> None:
            while True:
                await client.hear()

        watching = [asyncio.create_task(acknowledge(client)) for client in (one, other)]
        await asyncio.gather(*changes)
        for task in watching:
            task.cancel()


async def test_whoever_writes_is_told_of_what_others_write(tmp_path: Path) -> None:
    """It keeps what it wrote until that is durable, to send it again: not over what is newer."""
    async with two(tmp_path) as (_, one, other):
        node = await one.create("f")
        writing = asyncio.create_task(other.write(node, b"theirs"))
        assert [broken.inode for broken in await one.hear()] == [node.inode]
        await one.watch()
        await writing
        await one.write(node, b"ours")
        writing = asyncio.create_task(other.write(node, b"theirs"))
        (broken,) = await one.hear()
        assert broken.inode == node.inode
        assert broken.data
        await one.watch()
        await writing


async def test_a_write_that_expects_a_size(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, one, other):
        node = await one.create("f")
        await one.write(node, b"abc", offset=0, expected_size=0)
        with pytest.raises(Conflict) as error:
            await other.write(node, b"x", offset=0, expected_size=0)
        assert error.value.kind == ErrorKind.CONFLICT
        assert int(error.value.facts["size"]) == 3
        with pytest.raises(PlatformError):
            await other.write(node, b"x", append=True, expected_size=0)
        assert (await one.write(node, b"d", append=True, expected_size=3)).size == 4
        await one.write(node, b"e", offset=4, expected_size=4, mtime_ns=2**62)
        assert (await one.stat(in_root("f"))).mtime_ns == 2**62


@pytest.mark.parametrize("mode", [None, 0, 0o600])
async def test_a_mode_of_nothing(mode: int | None, tmp_path: Path) -> None:
    async with two(tmp_path) as (_, keeper, _other):
        fields = {} if mode is None else {"mode": mode}
        assert (await keeper.create("f", **fields)).mode == (0o644 if mode is None else mode)


async def test_the_status_tells_of_mounts(tmp_path: Path) -> None:
    async with two(tmp_path) as (server, keeper, other):
        report = pb.MountReport(mountpoint="/mnt", path="/", host="here", pid=7, requests=10)
        await keeper.watch(report=report)
        await keeper.watch()
        (mount,) = (await other.call("System.Status", pb.Empty())).mounts
        assert (mount.mountpoint, mount.requests) == ("/mnt", 10)
        assert mount.session == keeper.session.hex()
        await keeper.connection.close()
        await until(lambda: not server.platform.promises)
        assert not (await other.call("System.Status", pb.Empty())).mounts
