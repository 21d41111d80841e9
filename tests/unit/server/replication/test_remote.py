"""Reading from another cluster: rights, pins, links that are cut, and no more than may come."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.clock import ManualClock
from dataplatform.base.errors import Denied, ErrorKind, Invalid, PlatformError, Stale, Unavailable
from dataplatform.core.clusters import Access
from dataplatform.core.principals import Principal
from dataplatform.core.replication.seam import LEASE_S, PinLost
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME
from dataplatform.transport.addresses import parse
from dataplatform_server.replication import remote, wires
from dataplatform_server.replication.remote import RemoteSource
from dataplatform_server.replication.wires import FramesWire, GrpcWire, Wire
from dataplatform_server.servers import Server
from tests.integration.relays import Relay
from tests.unit.server.servers import admin_token, running

XATTRS = keys.prefix_range(keys.XATTR)
KINDS = ("frames", "grpc")


def wire_to(kind: str, port: int, token: str) -> Wire:
    if kind == "grpc":
        return GrpcWire(parse(f"grpc://127.0.0.1:{port}"), token)
    return FramesWire(Access("other", f"dp://127.0.0.1:{port}", token, "", b"", 0), "mine")


def port_of(server: Server, kind: str) -> int:
    return parse(server.endpoints.grpc if kind == "grpc" else server.endpoints.frames).port


@contextlib.asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[tuple[Server, str]]:
    async with running(tmp_path, grpc=("127.0.0.1", 0), insecure=True) as server:
        yield server, await admin_token(server)


async def fill(server: Server, values: int, size_bytes: int) -> None:
    volume = await server.platform.acquire(ROOT_VOLUME)

    async def work(unit: Unit) -> None:
        for number in range(values):
            unit.put(keys.xattr(ROOT_INODE, b"user.%04d" % number), b"%04d" % number * size_bytes)

    await volume.run(SYSTEM, work, durable=True)
    server.platform.release(volume)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cut_that_is_mended_is_only_late(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "AGAIN_S", 30.0)
    async with serving(tmp_path) as (server, token):
        await fill(server, 50, 1)
        with Relay("127.0.0.1", ("127.0.0.1", port_of(server, kind))) as relay:
            source = RemoteSource(wire_to(kind, relay.port, token), "/")
            pin = await source.pin()
            before = await pin.scan(*XATTRS)
            assert len(before) == 50
            relay.abort()
            assert await pin.scan(*XATTRS) == before
            relay.cut()
            asking = asyncio.ensure_future(pin.scan(*XATTRS))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asking), 0.3)
            relay.mend()
            assert await asking == before
            await source.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_link_that_is_silently_gone_is_noticed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "PING_EVERY_S", 0.5)
    monkeypatch.setattr(wires, "PING_ANSWER_S", 0.5)
    monkeypatch.setattr(remote, "AGAIN_S", 0.1)
    # By pings over frames; those of gRPC are ten seconds apart, and its deadline is sooner.
    monkeypatch.setattr(remote, "CALL_S", 2.0 if kind == "grpc" else 60.0)
    monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_S", 1 << 30)
    monkeypatch.setattr(remote, "UNPIN_S", 0.5)
    async with serving(tmp_path) as (server, token):
        with Relay("127.0.0.1", ("127.0.0.1", port_of(server, kind))) as relay:
            source = RemoteSource(wire_to(kind, relay.port, token), "/")
            pin = await source.pin()
            relay.cut()
            began_s = time.monotonic()
            with pytest.raises(Unavailable):
                await pin.scan(*XATTRS)
            assert time.monotonic() - began_s < 30
            await pin.close()
            relay.abort()
            relay.mend()
            assert (await source.describe()).cluster == "test"
            await source.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AGAIN_S", 0.1)
    source = RemoteSource(wire_to(kind, 1, "token"), "/")
    with pytest.raises(Unavailable):
        await source.describe()
    await source.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_who_may(kind: str, tmp_path: Path) -> None:
    """Administrators, also by tokens that only read, or that are good for this volume alone."""
    async with serving(tmp_path) as (server, _):
        identities = server.platform.identities
        await identities.create_user(SYSTEM, "root2", is_admin=True)
        await identities.create_user(SYSTEM, "ana")
        for user, more, wanted in (
            ("root2", {}, None),
            ("root2", {"is_read_only": True}, None),
            ("root2", {"roots": [(ROOT_VOLUME, ROOT_INODE)], "paths": ["/"]}, None),
            ("root2", {"roots": [(77, ROOT_INODE)], "paths": ["/x"]}, ErrorKind.DENIED),
            ("ana", {}, ErrorKind.DENIED),
        ):
            token = identities.text_of(
                await identities.create_token(SYSTEM, user, ttl_s=60, **more)  # type: ignore[arg-type]
            )
            source = RemoteSource(wire_to(kind, port_of(server, kind), token), "/")
            found: ErrorKind | None = None
            try:
                async with await source.pin() as pin:
                    await pin.scan(*XATTRS)
            except PlatformError as error:
                found = error.kind
            assert found == wanted, (user, more)
            await source.close()


async def test_a_pin_is_its_holders(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, token):
        identities = server.platform.identities
        await identities.create_user(SYSTEM, "root2", is_admin=True)
        other = identities.text_of(await identities.create_token(SYSTEM, "root2", ttl_s=60))
        port = port_of(server, "frames")
        mine = RemoteSource(wire_to("frames", port, token), "/")
        theirs = RemoteSource(wire_to("frames", port, other), "/")
        async with await mine.pin() as pin, await theirs.pin() as second:
            second._number = pin._number
            with pytest.raises(PinLost):
                await second.scan(*XATTRS)
            assert await pin.scan(*XATTRS) == []
            await identities.set_user(SYSTEM, "tester", is_admin=False)
            with pytest.raises(Denied):
                await pin.scan(*XATTRS)
        for source in (mine, theirs):
            await source.close()


async def test_only_roots_of_volumes(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, token):
        source = RemoteSource(wire_to("frames", port_of(server, "frames"), token), "/.audit")
        with pytest.raises((Invalid, PlatformError)):
            await source.describe()
        await source.close()


async def test_another_store_behind_the_address(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, token):
        wire = wire_to("frames", port_of(server, "frames"), token)
        source = RemoteSource(wire, "/", store=b"another")
        with pytest.raises(Stale):
            await source.describe()
        with pytest.raises(Stale):
            await source.pin()
        assert not server.platform.pins
        await source.close()


async def test_pins_that_nobody_uses_go(tmp_path: Path) -> None:
    clock = ManualClock()
    async with running(tmp_path, clock, insecure=True) as server:
        platform = server.platform
        access = Access("other", server.endpoints.socket, "", "", b"", 0)
        source = RemoteSource(FramesWire(access, "mine"), "/")
        pin, used = await source.pin(), await source.pin()
        assert len(platform.pins) == 2
        clock.advance(LEASE_S - 1)
        assert platform.pins.run_once() == 0
        await used.scan(*XATTRS)
        clock.advance(2)
        assert platform.pins.run_once() == 1
        with pytest.raises(PinLost):
            await pin.scan(*XATTRS)
        assert await used.scan(*XATTRS) == []
        assert len(server.platform.pins) == 1
        await source.close()
        assert len(platform.pins) == 0
        volume = await platform.acquire(ROOT_VOLUME)
        assert not volume.views
        platform.release(volume)


async def test_pins_go_with_their_session(tmp_path: Path) -> None:
    clock = ManualClock()
    async with running(tmp_path, clock, insecure=True) as server:
        access = Access("other", server.endpoints.socket, "", "", b"", 0)
        wire = FramesWire(access, "mine")
        await RemoteSource(wire, "/").pin()
        assert len(server.platform.pins) == 1
        await wire.close()  # and nothing else: as when its process was killed
        await _until(lambda: server.frames.connections == 0)
        clock.advance(61)
        server.sessions.run_once()
        assert len(server.platform.pins) == 0


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_throttled_reader_takes_its_time(kind: str, tmp_path: Path) -> None:
    """Two megabytes at one per second, of which the first comes at once."""
    async with serving(tmp_path) as (server, token):
        await fill(server, 500, 1000)
        wire = wire_to(kind, port_of(server, kind), token)
        source = RemoteSource(wire, "/", bytes_per_s=1_000_000)
        async with await source.pin() as pin:
            began_s = time.monotonic()
            at, found = XATTRS[0], 0
            while page := await pin.scan(at, XATTRS[1]):
                found += len(page)
                at = page[-1][0] + b"\x00"
            took_s = time.monotonic() - began_s
        assert found == 500
        assert source.received_bytes > 2_000_000
        assert took_s > 0.9
        await source.close()


async def test_the_audit_of_reads_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as (server, token):
        volume = await server.platform.acquire(ROOT_VOLUME)
        volume.settings.audit = "all"
        told: list[tuple[str, str]] = []
        observed = server.platform.audit.observed
        read = observed.read

        def record(principal: Principal, *args: Any, **options: Any) -> None:
            told.append((principal.name, args[3]))
            read(principal, *args, **options)

        monkeypatch.setattr(observed, "read", record)
        source = RemoteSource(wire_to("frames", port_of(server, "frames"), token), "/")
        for _ in range(3):
            async with await source.pin() as pin:
                await pin.scan(*XATTRS)
        assert told == [("tester", "replicated")]
        volume.settings.audit = ""
        server.platform.release(volume)
        await source.close()
