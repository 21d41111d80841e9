"""Token buckets with a clock that stands still, and that limits hold through the server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.clock import ManualClock
from dataplatform.base.errors import Unavailable
from dataplatform.transport.turns import WEIGHT_MAX
from dataplatform_server.grpc_listener import SESSION_METADATA
from dataplatform_server.limits import Bucket, Limiter, Limits

from .servers import admin_token, connect, running

WRITE_FILE, READ, STAT, LOCATE = (
    METHODS[n] for n in ("Files.WriteFile", "Files.Read", "Namespace.Stat", "Files.Locate")
)
CREATE, SET, INFO = (METHODS[f"Volumes.{n}"] for n in ("Create", "Set", "Info"))


def test_a_bucket_gives_its_rate_and_a_burst() -> None:
    bucket = Bucket(10, 0.0)
    for _ in range(10):
        assert bucket.ready_in(1, 0.0) == 0
        bucket.take(1)
    assert bucket.ready_in(1, 0.0) == pytest.approx(0.1)
    assert bucket.ready_in(1, 0.1) == 0
    given = 0
    for tick in range(1, 1001):
        while bucket.ready_in(1, tick / 100) == 0:
            bucket.take(1)
            given += 1
    assert given == 100
    assert bucket.ready_in(10, 1000.0) == 0  # a burst, and no more, however long it was idle
    bucket.take(10)
    assert bucket.ready_in(1, 1000.0) > 0


def test_what_is_owed_is_paid_before_anything_is_given() -> None:
    bucket = Bucket(100, 0.0)
    bucket.take(600)
    assert bucket.ready_in(0, 0.0) == pytest.approx(5)
    assert bucket.ready_in(50, 5.0) == pytest.approx(0.5)
    assert bucket.ready_in(5000, 5.0) == pytest.approx(1)  # more than the burst: all of it
    bucket.set_rate(1000, 5.0)
    assert bucket.ready_in(50, 5.0) == pytest.approx(0.05)


async def admitted(limiter: Limiter, count: int, size_bytes: int = 0) -> list[asyncio.Task[None]]:
    tasks = [asyncio.ensure_future(limiter.admit(size_bytes)) for _ in range(count)]
    await turn()
    return tasks


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def done(tasks: list[asyncio.Task[None]]) -> list[bool]:
    return [task.done() for task in tasks]


async def test_who_waits_comes_in_order_and_may_be_cancelled() -> None:
    clock = ManualClock()
    limiter = Limiter(clock, 2, 0)
    tasks = await admitted(limiter, 5)
    assert done(tasks) == [True, True, False, False, False]
    tasks[2].cancel()
    await turn()
    clock.advance(0.5)
    limiter.run_once()
    await turn()
    assert done(tasks) == [True, True, True, True, False]
    limiter.close()
    with pytest.raises(Unavailable):
        await tasks[4]


async def test_bytes_of_replies_make_the_next_ones_wait() -> None:
    clock = ManualClock()
    limiter = Limiter(clock, 0, 1000)
    await limiter.admit(100)
    limiter.charge(2900)
    (task,) = await admitted(limiter, 1)
    assert not task.done()
    clock.advance(1.9)
    limiter.run_once()
    await turn()
    assert not task.done()
    clock.advance(0.1)
    limiter.run_once()
    await task


async def test_a_limit_that_is_lifted_lets_everybody_go() -> None:
    limits = Limits(ManualClock())
    assert limits.of(7, 0, 0) is None
    limiter = limits.of(7, 1, 0)
    assert limiter is not None
    tasks = await admitted(limiter, 4)
    assert limits.waiting == {7: 3}
    limits.of(7, 0, 0)
    await asyncio.gather(*tasks)
    assert not limits.limiters


# ------------------------------------------------------------- through a server


async def limited(connection: Any, **settings: int) -> None:
    request = pb.VolumeRequest(target=pb.Target(path="/v"), settings=pb.VolumeSettings(**settings))
    await connection.call(CREATE, request)


async def test_every_door_waits_and_other_volumes_do_not(tmp_path: Path) -> None:
    clock = ManualClock()
    async with running(tmp_path, clock) as server:
        connection = await connect(server)
        await limited(connection, iops=3)
        stat = pb.StatRequest(target=pb.Target(path="/v"), follow=True)
        for _ in range(3):
            await connection.call(STAT, stat)
        waits = asyncio.ensure_future(connection.call(STAT, stat))
        write = pb.WriteFileRequest(target=pb.Target(path="/v/a"))
        also = asyncio.ensure_future(connection.call(WRITE_FILE, write, b"x"))
        root = pb.StatRequest(target=pb.Target(path="/"))
        for _ in range(5):
            await connection.call(STAT, root)
        info, _ = await connection.call(INFO, pb.VolumeRequest(target=pb.Target(path="/v")))
        assert info.settings.iops == 3
        assert not waits.done()
        assert not also.done()
        assert sum(server.dispatcher.limits.waiting.values()) == 2
        change = pb.VolumeRequest(
            target=pb.Target(path="/v"), settings=pb.VolumeSettings(iops=0, bandwidth=10**9)
        )
        await connection.call(SET, change)
        await waits
        await also
        await connection.close()


async def test_what_is_read_past_the_server_is_not_offered(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        connection = await connect(server)
        await limited(connection, bandwidth=1 << 30)
        write = pb.WriteFileRequest(target=pb.Target(path="/v/a"))
        await connection.call(WRITE_FILE, write, bytes(1 << 20))
        read = pb.ReadRequest(target=pb.Target(path="/v/a"), length=1 << 20)
        reply, _ = await connection.call(LOCATE, read)
        assert reply.elsewhere
        assert not reply.pieces
        _, data = await connection.call(READ, read)
        assert len(data) == 1 << 20
        await connection.close()


async def test_bytes_are_those_of_replies_too(tmp_path: Path) -> None:
    clock = ManualClock()
    async with running(tmp_path, clock) as server:
        connection = await connect(server)
        await limited(connection, bandwidth=1 << 20)
        write = pb.WriteFileRequest(target=pb.Target(path="/v/a"))
        await connection.call(WRITE_FILE, write, bytes(1 << 19))
        read = pb.ReadRequest(target=pb.Target(path="/v/a"), length=1 << 19)
        await connection.call(READ, read)
        (limiter,) = server.dispatcher.limits.limiters.values()
        waits = asyncio.ensure_future(connection.call(READ, read))
        while not limiter.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        clock.advance(1)
        limiter.run_once()
        await waits
        await connection.close()


async def test_a_server_that_stops_tells_those_who_wait(tmp_path: Path) -> None:
    async with running(tmp_path, ManualClock()) as server:
        connection = await connect(server)
        await limited(connection, iops=1)
        write = pb.WriteFileRequest(target=pb.Target(path="/v/a"))
        await connection.call(WRITE_FILE, write, b"x")
        waits = asyncio.ensure_future(connection.call(WRITE_FILE, write, b"y"))
        while not sum(server.dispatcher.limits.waiting.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await server.stop()
        with pytest.raises(Unavailable):
            await waits


# ------------------------------------------------------------- over gRPC


@contextlib.asynccontextmanager
async def grpc_calls(server: Any) -> AsyncIterator[Callable[[Any, Any], Awaitable[Any]]]:
    """By an administrator."""
    token = await admin_token(server)
    metadata = (("authorization", f"Bearer {token}"), (SESSION_METADATA, b"s" * 16))
    target = server.endpoints.grpc.removeprefix("grpc://")
    async with grpc.aio.insecure_channel(target) as channel:

        async def call(method: Any, message: Any) -> Any:
            return await channel.unary_unary(
                method.grpc_path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )(message, metadata=metadata)

        yield call


async def test_limits_hold_over_grpc(tmp_path: Path) -> None:
    clock = ManualClock()
    async with (
        running(tmp_path, clock, grpc=("127.0.0.1", 0)) as server,
        grpc_calls(server) as call,
    ):
        v = pb.Target(path="/v")
        settings = pb.VolumeSettings(iops=2, bandwidth=1 << 20)
        await call(CREATE, pb.VolumeRequest(target=v, settings=settings))
        write = pb.WriteFileRequest(target=pb.Target(path="/v/a"), data=bytes(1 << 20))
        await call(WRITE_FILE, write)  # all the bytes of a second, and one of two operations
        (limiter,) = server.dispatcher.limits.limiters.values()
        read = asyncio.ensure_future(call(READ, pb.ReadRequest(target=write.target, length=4)))
        await until(lambda: limiter.waiting == 1)
        await call(STAT, pb.StatRequest(target=pb.Target(path="/")))  # another volume
        assert not read.done()
        clock.advance(1.1)
        limiter.run_once()
        assert (await read).data == bytes(4)


async def test_grpc_takes_turns_with_frames(tmp_path: Path) -> None:
    async with running(tmp_path, grpc=("127.0.0.1", 0)) as server, grpc_calls(server) as call:
        await call(CREATE, pb.VolumeRequest(target=pb.Target(path="/v")))
        stat = pb.StatRequest(target=pb.Target(path="/v"), follow=True)
        volume = (await call(STAT, stat)).volume
        await call(STAT, pb.StatRequest(target=pb.Target(path="/")))
        await call(STAT, stat)
        turns = server.frames.turns
        assert turns.is_contended  # that was two volumes, in turn
        works = [turns.begun(volume) for _ in range(WEIGHT_MAX)]
        waits = asyncio.ensure_future(call(STAT, stat))
        await until(lambda: turns.waiting == 1)
        assert not waits.done()
        works.pop().end()
        await waits


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
