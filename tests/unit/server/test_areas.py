"""What the server maps of a client's memory, what it refuses, and writes whose bytes lie there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Denied, ErrorKind, Invalid, PlatformError, Stale
from dataplatform.base.limits import IO_BYTES_MAX, KIB
from dataplatform.keyspace.records import ROOT_VOLUME
from dataplatform.transport.addresses import parse
from dataplatform.transport.connections import AsyncConnection
from dataplatform_server.areas import AREA_BYTES_MAX, area_of, open_area
from tests.sharing import memfd
from tests.unit.transport.fakes import until

from .servers import connect, running

SIZE = 256 * KIB
SESSION = b"session-16-bytes"


@pytest.fixture
def descriptor() -> Iterator[int]:
    descriptor = memfd(SIZE)
    yield descriptor
    os.close(descriptor)


def ask(descriptor: int, size: int = SIZE, area: int = 1) -> pb.ShareRequest:
    return pb.ShareRequest(area=area, descriptor=descriptor, size=size)


def test_the_memory_is_the_clients(descriptor: int) -> None:
    area = open_area(os.getpid(), os.getuid(), ask(descriptor))
    os.pwrite(descriptor, b"written later", 1000)
    os.close(os.dup(descriptor))
    assert area.part(1000, 13) == b"written later"
    assert area.view.readonly
    assert area_of(area, 1) is area
    for other in (None, area):
        with pytest.raises(Stale):
            area_of(other, 2)


def test_ranges_stay_within_it(descriptor: int) -> None:
    area = open_area(os.getpid(), os.getuid(), ask(descriptor))
    assert len(area.part(0, SIZE)) == SIZE
    assert len(area.part(SIZE, 0)) == 0
    for start, length in ((0, SIZE + 1), (SIZE, 1), (2**64 - 1, 2), (2**63, 0)):
        with pytest.raises(Invalid):
            area.part(start, length)


def test_only_memory_whose_size_is_sealed_is_mapped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(bytes(SIZE))
    flags = os.O_PATH
    found = {
        "open": memfd(SIZE, seals=0),
        "shrinks": memfd(SIZE, seals=fcntl.F_SEAL_GROW),
        "smaller": memfd(SIZE - 1),
        "larger": memfd(SIZE + 1),
        "fifo": os.open(tmp_path / "fifo", os.O_RDWR),
        "fifo unopened": os.open(tmp_path / "fifo", flags),
        "file": os.open(tmp_path / "file", os.O_RDWR),
        "directory": os.open(tmp_path, os.O_RDONLY),
        "device": os.open("/dev/null", flags),
    }
    before = len(os.listdir("/proc/self/fd"))
    for name, descriptor in found.items():
        with pytest.raises(Invalid):
            print(name, open_area(os.getpid(), os.getuid(), ask(descriptor)))  # noqa: T201
    assert len(os.listdir("/proc/self/fd")) == before
    for descriptor in found.values():
        os.close(descriptor)


def test_what_cannot_be_opened_is_denied(descriptor: int) -> None:
    with pytest.raises(Denied):
        open_area(os.getpid(), os.getuid(), ask(999_999))
    with pytest.raises(Denied):
        open_area(2**22 + 1, os.getuid(), ask(descriptor))  # no such process
    for pid, request in (
        (0, ask(descriptor)),
        (os.getpid(), ask(descriptor, area=0)),
        (os.getpid(), ask(descriptor, size=0)),
        (os.getpid(), ask(descriptor, size=AREA_BYTES_MAX + 1)),
    ):
        with pytest.raises(Invalid):
            open_area(pid, os.getuid(), request)


async def call(connection: AsyncConnection, name: str, message: Any, data: bytes = b"") -> Any:
    return (await connection.call(METHODS[name], message, data))[0]


async def test_writes_name_ranges_of_it(tmp_path: Path, descriptor: int) -> None:
    memory = os.urandom(SIZE)
    os.pwrite(descriptor, memory, 0)
    hello = pb.Hello(protocol=1, session=SESSION)
    async with running(tmp_path) as server:
        connection = await connect(server, hello)
        target = pb.Target(volume=ROOT_VOLUME, inode=1, path="f")
        node = await call(
            connection, "Namespace.Create", pb.CreateRequest(target=target, kind=pb.FILE)
        )
        target = pb.Target(volume=node.volume, inode=node.inode)
        write = pb.WriteRequest(target=target, offset=10, area=7, at=1, length=100 * KIB)
        with pytest.raises(Stale):
            await call(connection, "Files.Write", write)
        await call(connection, "Files.Share", ask(descriptor, area=7))
        await call(connection, "Files.Write", write)
        parts = pb.WriteRequest(target=target, area=7)
        parts.parts.add(offset=5, length=3, at=200)
        parts.parts.add(offset=150 * KIB, length=70 * KIB, at=4096)
        await call(connection, "Files.Write", parts)
        append = pb.WriteRequest(target=target, append=True, area=7, at=9, length=65 * KIB)
        await call(connection, "Files.Write", append)
        read = pb.ReadRequest(target=target, length=SIZE * 2)
        _, data = await connection.call(METHODS["Files.Read"], read)
        expected = bytearray(285 * KIB)
        expected[10 : 10 + 100 * KIB] = memory[1 : 1 + 100 * KIB]
        expected[5:8] = memory[200:203]
        expected[150 * KIB : 220 * KIB] = memory[4096 : 4096 + 70 * KIB]
        expected[220 * KIB :] = memory[9 : 9 + 65 * KIB]
        assert bytes(data) == expected

        for wrong, kind in (
            (pb.WriteRequest(target=target, area=8, length=1), ErrorKind.STALE),
            (pb.WriteRequest(target=target, area=7, at=SIZE, length=1), ErrorKind.INVALID),
            (pb.WriteRequest(target=target, area=7, length=2**32 - 1), ErrorKind.INVALID),
            (pb.WriteRequest(target=target, area=7, at=2**64 - 1), ErrorKind.INVALID),
        ):
            with pytest.raises(PlatformError) as caught:
                await call(connection, "Files.Write", wrong)
            assert caught.value.kind is kind
        with pytest.raises(Invalid):
            await call(connection, "Files.Write", write, b"and bytes")
        many = pb.WriteRequest(target=target, area=7)
        for _ in range(IO_BYTES_MAX // SIZE + 1):
            many.parts.add(length=SIZE)
        with pytest.raises(Invalid):
            await call(connection, "Files.Write", many)  # the same bytes over and over
        await connection.close()


async def test_it_ends_with_the_last_connection(tmp_path: Path, descriptor: int) -> None:
    hello = pb.Hello(protocol=1, session=SESSION)
    async with running(tmp_path) as server:
        first, second = await connect(server, hello), await connect(server, hello)
        await call(first, "Files.Share", ask(descriptor))
        (session,) = server.sessions._sessions.values()
        await first.close()
        await until(lambda: session.connections == 1)
        assert session.area is not None
        await second.close()
        await until(lambda: session.connections == 0)
        assert session.area is None


async def test_another_takes_its_place(tmp_path: Path, descriptor: int) -> None:
    async with running(tmp_path) as server:
        connection = await connect(server)
        await call(connection, "Files.Share", ask(descriptor, area=1))
        await call(connection, "Files.Share", ask(descriptor, area=2))
        (session,) = server.sessions._sessions.values()
        assert session.area is not None
        assert session.area.number == 2
        await connection.close()


async def test_not_over_tcp(tmp_path: Path, descriptor: int) -> None:
    async with running(tmp_path) as server:
        connection = await AsyncConnection.open(parse(server.endpoints.frames))
        with pytest.raises(Invalid):
            await call(connection, "Files.Share", ask(descriptor))
        await connection.close()
