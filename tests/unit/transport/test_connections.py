"""Both connections against the same made-up server."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import (
    Conflict,
    Exhausted,
    Internal,
    Invalid,
    NotFound,
    PlatformError,
    Unavailable,
)
from dataplatform.base.limits import FRAME_BYTES_MAX, MIB
from dataplatform.transport.addresses import Address, parse
from dataplatform.transport.connections import AsyncConnection, BlockingConnection
from dataplatform.transport.frames import FrameKind, encode
from dataplatform.transport.serving import ServingLimits

from .fakes import (
    FETCH,
    GET,
    PATIENCE_S,
    PING,
    READ,
    STAT,
    WRITE,
    ServerThread,
    drive,
    serving,
    until,
)

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def stat(path: str) -> pb.StatRequest:
    return pb.StatRequest(target=pb.Target(path=path))


# ------------------------------------------------------------------------- both


async def check_calls(connection: Any) -> None:
    assert connection.welcome.cluster == "fake"
    reply, data = await connection.call(GET, pb.GetRequest(keys=[b"k", b"l"]))
    assert (reply.end, bytes(data)) == (True, b"kl")
    reply, data = await connection.call(WRITE, pb.WriteRequest(), [b"abc", memoryview(b"de")])
    assert (reply.size, data) == (5, b"")
    bulk = bytes(8 * MIB)
    reply, _ = await connection.call(WRITE, pb.WriteRequest(), bulk, timeout_s=PATIENCE_S)
    assert reply.size == len(bulk)
    reply, data = await connection.call(READ, pb.ReadRequest(length=8 * MIB))
    assert data == bulk


async def check_errors(connection: Any) -> None:
    with pytest.raises(NotFound) as not_found:
        await connection.call(STAT, stat("/missing"))
    assert (not_found.value.os_errno, not_found.value.facts["path"]) == (20, "/missing")
    with pytest.raises(Conflict):
        await connection.call(STAT, stat("/conflict"))
    with pytest.raises(Internal):
        await connection.call(STAT, stat("/bug"))
    with pytest.raises(Exhausted):
        connection.start(WRITE, pb.WriteRequest(), bytes(FRAME_BYTES_MAX))
    with pytest.raises(Exhausted):
        await connection.call(READ, pb.ReadRequest(length=FRAME_BYTES_MAX))
    await connection.call(PING, pb.Empty())


async def check_pipelining(connection: Any) -> None:
    started = [connection.start(GET, pb.GetRequest(keys=[b"%d" % n])) for n in range(2000)]
    await connection.drain()
    for n in reversed(range(2000)):
        assert bytes((await started[n])[1]) == b"%d" % n
    assert connection.calls_under_way == 0
    # More bytes both ways than any socket buffer holds, while nobody reads.
    bulk = bytes(MIB)
    started = [connection.start(WRITE, pb.WriteRequest(), bulk) for _ in range(8)]
    started += [connection.start(READ, pb.ReadRequest(length=MIB)) for _ in range(40)]
    started += [connection.start(WRITE, pb.WriteRequest(), bulk) for _ in range(8)]
    sizes = [(await s)[0].size for s in started]
    assert sizes == [MIB] * 56


async def check_closing(connection: Any) -> None:
    await connection.close()
    await connection.close()
    assert connection.closed
    with pytest.raises(Unavailable):
        await connection.call(PING, pb.Empty())


CHECKS = [check_calls, check_errors, check_pipelining, check_closing]
BUG = pytest.mark.allow_warnings("request failed. method=`Namespace.Stat`")


@BUG
@pytest.mark.parametrize("check", CHECKS)
async def test_async(tmp_path: Path, check: Any) -> None:
    async with serving(tmp_path) as (_, _, address):
        connection = await AsyncConnection.open(address)
        await check(connection)
        await connection.close()


@BUG
@pytest.mark.parametrize("check", CHECKS)
def test_blocking(tmp_path: Path, check: Any) -> None:
    with ServerThread(tmp_path) as server:
        connection = drive(BlockingConnection.open(server.address))
        drive(check(connection))
        drive(connection.close())


UNREACHABLE = [
    ("dp://127.0.0.1:{closed}", "dp server start"),
    ("dp+unix:///nonexistent/dp.sock", "dp server start"),
    ("dp://name.invalid", "resolved"),
]


@pytest.mark.parametrize(("text", "hint"), UNREACHABLE)
@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
async def test_nobody_there(kind: Any, text: str, hint: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        address = parse(text.format(closed=unused.getsockname()[1]))
        with pytest.raises(Unavailable, match=hint) as caught:
            await kind.open(address)
    assert str(address) in str(caught.value)


@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
async def test_a_server_that_says_nothing(kind: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        address = Address("dp+unix", path=str(tmp_path / "s"))
        with pytest.raises(Unavailable, match="no answer"):
            await kind.open(address, timeout_s=0.05)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"".join(encode(FrameKind.REPLY, 1, 1)),
        b"".join(encode(FrameKind.HELLO_REPLY, 0, 0, b"\xff\xff")),
        b"",
    ],
    ids=["http", "reply", "garbage", "nothing"],
)
@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
def test_another_protocol_is_there(kind: Any, answer: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        opening = kind.open(Address("dp+unix", path=str(tmp_path / "s")), timeout_s=PATIENCE_S)
        with pytest.raises((Unavailable, Invalid)):
            asyncio.run(opening)
        thread.join()


@pytest.mark.parametrize("kind", [AsyncConnection, BlockingConnection])
async def test_grpc_is_not_spoken_here(kind: Any) -> None:
    with pytest.raises(Invalid):
        await kind.open(parse("grpc://127.0.0.1:1"))


# ------------------------------------------------------------------------- async


async def test_a_cancelled_call_tells_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, handler, address):
        connection = await AsyncConnection.open(address)
        call = asyncio.create_task(connection.call(FETCH, pb.FetchRequest()))
        await until(lambda: handler.started == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: handler.cancelled == 1)
        await connection.call(PING, pb.Empty())
        assert connection.calls_under_way == 0
        await connection.close()


async def test_a_late_reply_is_a_timeout(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, handler, address):
        connection = await AsyncConnection.open(address)
        with pytest.raises(Unavailable, match="in time"):
            await connection.call(FETCH, pb.FetchRequest(), timeout_s=0.01)
        await until(lambda: handler.cancelled == 1)
        await connection.call(PING, pb.Empty(), timeout_s=PATIENCE_S)
        await connection.close()


async def test_losing_the_server_fails_every_call(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, handler, address):
        connection = await AsyncConnection.open(address)
        started = [connection.start(FETCH, pb.FetchRequest()) for _ in range(10)]
        await until(lambda: handler.started == 10)
        next(iter(server.connections)).abort()
        for call in started:
            with pytest.raises(Unavailable, match="lost"):
                await call
        assert connection.closed


async def test_a_connection_refused_in_the_handshake_says_why(tmp_path: Path) -> None:
    async with serving(tmp_path, ServingLimits(connections_max=1)) as (_, _, address):
        first = await AsyncConnection.open(address)
        with pytest.raises(Exhausted, match="too many connections"):
            await AsyncConnection.open(address)
        await first.close()


async def test_the_hello_arrives(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, handler, address):
        hello = pb.Hello(program="test", session=b"s" * 16)
        connection = await AsyncConnection.open(address, hello)
        assert handler.hello is not None
        assert (handler.hello.program, handler.hello.session) == ("test", b"s" * 16)
        await connection.close()


# ---------------------------------------------------------------------- blocking


def test_blocking_timeouts(tmp_path: Path) -> None:
    with ServerThread(tmp_path) as server:
        connection = drive(BlockingConnection.open(server.address))
        for _ in range(3):
            with pytest.raises(Unavailable, match="in time"):
                drive(connection.call(FETCH, pb.FetchRequest(), timeout_s=0.01))
        assert drive(connection.call(GET, pb.GetRequest(keys=[b"x"])))[1] == b"x"
        server.run(until(lambda: server.handler.cancelled == 3))
        drive(connection.close())


def test_a_dropped_call_is_forgotten(tmp_path: Path) -> None:
    with ServerThread(tmp_path) as server:
        connection = drive(BlockingConnection.open(server.address))
        connection.start(FETCH, pb.FetchRequest())
        connection.start(PING, pb.Empty())
        drive(connection.call(PING, pb.Empty()))
        assert connection.calls_under_way == 0
        assert not connection._arrived
        server.run(until(lambda: server.handler.cancelled == 1))
        drive(connection.close())


def test_closing_wakes_the_thread_that_waits(tmp_path: Path) -> None:
    with ServerThread(tmp_path) as server:
        connection = drive(BlockingConnection.open(server.address))
        failures: list[PlatformError] = []

        def wait() -> None:
            try:
                drive(connection.call(FETCH, pb.FetchRequest()))
            except PlatformError as e:
                failures.append(e)

        thread = threading.Thread(target=wait)
        thread.start()
        server.run(until(lambda: server.handler.started == 1))
        drive(connection.close())
        thread.join(PATIENCE_S)
        assert [type(f) for f in failures] == [Unavailable]


def test_blocking_loses_the_server(tmp_path: Path) -> None:
    with ServerThread(tmp_path) as server:
        connection = drive(BlockingConnection.open(server.address))
        started = connection.start(FETCH, pb.FetchRequest())
        server.run(until(lambda: server.handler.started == 1))
        server.run(abort_all(server))
        with pytest.raises(Unavailable):
            drive(awaiting(started))
        assert connection.closed
        with pytest.raises(Unavailable):
            connection.start(PING, pb.Empty())


async def abort_all(server: ServerThread) -> None:
    for connection in list(server.server.connections):
        connection.abort()


async def awaiting(started: Any) -> Any:
    return await started
