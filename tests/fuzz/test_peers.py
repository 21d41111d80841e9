"""Very many peers, peers that never read, peers that never finish a sentence: each stalls only
itself, and the server's memory stays bounded."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplatform
from dataplatform import aio
from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.limits import IO_BYTES_MAX, MIB
from dataplatform.transport.frames import HEADER, FrameKind, encode

from .subjects import Subject, under_attack

THOUSAND = 1000


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Enough for both ends of a thousand connections; the server inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def idle(subject: Subject, count: int) -> list[socket.socket]:
    """Connections that shook hands and say nothing more."""
    path = subject.server.address.removeprefix("dp+unix://")
    connections = []
    for number in range(count):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(path)
        hello = pb.Hello(protocol=1, session=b"%16d" % number)
        stream.sendall(b"".join(encode(FrameKind.HELLO, 0, 0, hello.SerializeToString())))
        connections.append(stream)
    for stream in connections:
        assert stream.recv(4096)
    return connections


async def test_a_thousand_clients_do_mixed_things(tmp_path: Path, seed: int) -> None:
    """Beside a thousand connections that are idle."""
    with under_attack(tmp_path) as subject:
        before_bytes = subject.process.memory_info().rss
        silent = idle(subject, THOUSAND)
        async with aio.connect(subject.server.address) as dp:
            await dp.mkdir("/many")
            await dp.create_table("/many/rows")
            stream = await dp.create_stream("/many/events", partitions=4)
            await stream.create_topic("t")

        async def work(number: int) -> None:
            rng = random.Random(seed + number)
            async with aio.connect(subject.server.address) as dp:
                path = f"/many/{number}"
                for _ in range(2):
                    choice = rng.randrange(4)
                    if choice == 0:
                        await dp.write_file(path, b"%d" % number)
                        assert await dp.read_file(path) == b"%d" % number
                    elif choice == 1:
                        table = await dp.table("/many/rows")
                        await table.put(str(number), {"n": number})
                        row = await table.get(str(number))
                        assert row is not None
                        assert row.columns == {"n": number}
                    elif choice == 2:
                        await (await dp.stream("/many/events")).append("t", b"%d" % number)
                    else:
                        assert (await dp.stat("/many")).kind == "directory"
                        with pytest.raises(dataplatform.NotFound):
                            await dp.stat(f"{path}-none")

        await asyncio.gather(*(work(number) for number in range(THOUSAND)))
        subject.sample()
        grown_bytes = subject.memory_bytes_max - before_bytes
        assert grown_bytes < 256 * MIB, f"{grown_bytes >> 20} MiB for {THOUSAND} clients"
        for stream_socket in silent:
            stream_socket.close()


@pytest.mark.system
def test_clients_that_do_not_read_large_replies(tmp_path: Path) -> None:
    """Each asks for far more than it reads: nothing more is read from it, nobody else waits."""
    with under_attack(tmp_path) as subject:
        with dataplatform.connect(subject.server.address) as dp:
            dp.write_file("/large", bytes(IO_BYTES_MAX))
        before_bytes = subject.process.memory_info().rss
        target = pb.Target(path="/large")
        ask = pb.ReadRequest(target=target, length=IO_BYTES_MAX).SerializeToString()
        read = METHODS["Files.Read"].number
        greedy = idle(subject, 30)
        for stream in greedy:
            stream.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for call in range(1, 200):
                    stream.send(b"".join(encode(FrameKind.REQUEST, read, call, ask)))
        with dataplatform.connect(subject.server.address) as dp:
            for _ in range(10):  # served meanwhile, the same file too
                assert len(dp.read_file("/large")) == IO_BYTES_MAX
                subject.sample()
        grown_bytes = subject.memory_bytes_max - before_bytes
        assert grown_bytes < 768 * MIB, f"{grown_bytes >> 20} MiB for replies that nobody reads"
        for stream in greedy:
            stream.close()


@pytest.mark.system
def test_senders_that_never_finish(tmp_path: Path) -> None:
    """Large frames that begin and do not end, and small ones byte by byte."""
    with under_attack(tmp_path) as subject:
        before_bytes = subject.process.memory_info().rss
        slow = idle(subject, 60)
        size = 16 * MIB
        head = HEADER.pack(size, FrameKind.REQUEST, 0, METHODS["Files.Write"].number, 1, 10)
        for stream in slow:
            stream.sendall(head + b"x")
        for byte in head[:10]:  # which is no help to those that now send byte by byte
            for stream in slow[:30]:
                with contextlib.suppress(OSError):
                    stream.send(bytes([byte]))
        with dataplatform.connect(subject.server.address) as dp:
            for number in range(20):
                dp.write_file(f"/fast-{number}", bytes(MIB))
                subject.sample()
        grown_bytes = subject.memory_bytes_max - before_bytes
        assert grown_bytes < 512 * MIB, f"{grown_bytes >> 20} MiB for frames that do not arrive"
        for stream in slow:
            stream.close()


@pytest.mark.system
def test_who_does_not_shake_hands_is_closed(tmp_path: Path) -> None:
    """The server says why after the time it gives (10 s), whatever trickles in meanwhile."""
    with under_attack(tmp_path) as subject:
        path = subject.server.address.removeprefix("dp+unix://")
        selector = selectors.DefaultSelector()
        for sent in (b"", b"\x20", HEADER.pack(60_000, FrameKind.HELLO, 0, 0, 0, 10)):
            stream = socket.socket(socket.AF_UNIX)
            stream.connect(path)
            stream.sendall(sent)
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(60)
            assert ready, "nobody was closed"
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                if not key.fileobj.recv(4096):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
