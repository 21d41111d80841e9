"""Requests outlive connections, and a write is never done twice."""

from __future__ import annotations

import asyncio
import os

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Conflict, NotFound, Unavailable
from dataplatform.client.connection import PAUSE_S, PAUSE_S_MAX
from dataplatform.client.runtime import run
from dataplatform.client.window import Window

from .fakes import (
    LOST_AFTER,
    LOST_BEFORE,
    FakeBlockingRuntime,
    FakeServer,
    async_channel,
    blocking_channel,
)

STAT = METHODS["Namespace.Stat"]
PUT = METHODS["Tables.Put"]


@pytest.fixture
def server() -> FakeServer:
    server = FakeServer()
    server.answer("Namespace.Stat", pb.Node(inode=7))
    server.answer("Tables.Put", pb.VersionReply(version=3))
    server.answer("Files.Open", pb.Node())
    return server


def ids(server: FakeServer, name: str = "Tables.Put") -> list[tuple[int, int]]:
    return [(m.request.slot, m.request.sequence) for m in server.received(name)]


@pytest.mark.parametrize("fault", [LOST_BEFORE, LOST_AFTER, Unavailable("busy")])
def test_a_retry_keeps_the_request_id(server: FakeServer, fault: str | Unavailable) -> None:
    channel = blocking_channel(server)
    server.fail("Tables.Put", fault, fault)
    reply, _ = run(channel.call(PUT, pb.PutRequest(key=b"k"), b"data"))
    assert reply.version == 3
    assert set(ids(server)) == {(0, 1)}
    assert {m.request.session for m in server.received("Tables.Put")} == {b"s" * 16}
    assert all(data == b"data" for _, _, data in server.calls)


@pytest.mark.parametrize("fault", [LOST_BEFORE, LOST_AFTER, Unavailable("busy")])
def test_a_started_write_is_repeated_with_its_id(
    server: FakeServer, fault: str | Unavailable
) -> None:
    async def work() -> None:
        first = await channel.start(PUT, pb.PutRequest(key=b"1"))
        second = await channel.start(PUT, pb.PutRequest(key=b"2"))
        assert (await first)[0].version == (await second)[0].version == 3

    channel = blocking_channel(server)
    server.fail("Tables.Put", fault)
    run(work())
    assert {(m.key, m.request.slot, m.request.sequence) for m in server.received("Tables.Put")} == {
        (b"1", 0, 1),
        (b"2", 1, 1),
    }


def test_slots_are_used_again_with_higher_sequences(server: FakeServer) -> None:
    channel = blocking_channel(server)
    for _ in range(3):
        run(channel.call(PUT, pb.PutRequest()))
    assert ids(server) == [(0, 1), (0, 2), (0, 3)]


def test_an_answered_error_frees_the_slot(server: FakeServer) -> None:
    channel = blocking_channel(server)
    server.fail("Tables.Put", Conflict("other version"))
    with pytest.raises(Conflict):
        run(channel.call(PUT, pb.PutRequest()))
    run(channel.call(PUT, pb.PutRequest()))
    assert ids(server) == [(0, 2)]  # the first was answered before it was recorded


def test_a_slot_with_an_unknown_outcome_comes_last(server: FakeServer) -> None:
    channel = blocking_channel(server, patience_s=0.0)
    server.fail("Tables.Put", LOST_AFTER)
    with pytest.raises(Unavailable):
        run(channel.call(PUT, pb.PutRequest()))
    run(channel.call(PUT, pb.PutRequest()))
    assert ids(server) == [(0, 1), (1, 1)]


def test_reads_carry_no_request_id(server: FakeServer) -> None:
    run(blocking_channel(server).call(STAT, pb.StatRequest()))
    assert not hasattr(server.received("Namespace.Stat")[0], "request")


def test_patience_ends_with_a_clear_error(server: FakeServer) -> None:
    server.refuse_opens = 10_000
    channel = blocking_channel(server, patience_s=5.0)
    with pytest.raises(Unavailable, match="gave up after trying for 5 s"):
        run(channel.call(STAT, pb.StatRequest()))
    runtime = channel.runtime
    assert isinstance(runtime, FakeBlockingRuntime)
    assert sum(runtime.slept) == pytest.approx(5.0)
    assert runtime.slept[:3] == pytest.approx([PAUSE_S, PAUSE_S * 2, PAUSE_S * 4])
    assert max(runtime.slept) <= PAUSE_S_MAX


def test_other_errors_are_not_retried(server: FakeServer) -> None:
    server.fail("Namespace.Stat", NotFound("no such file"))
    with pytest.raises(NotFound):
        run(blocking_channel(server).call(STAT, pb.StatRequest()))
    assert server.received("Namespace.Stat") == []


def test_the_session_stays_over_connections(server: FakeServer) -> None:
    channel = blocking_channel(server)
    server.fail("Namespace.Stat", LOST_BEFORE, LOST_AFTER)
    run(channel.call(STAT, pb.StatRequest()))
    assert [hello.session for hello in server.opened] == [b"s" * 16] * 3


def test_files_are_opened_again_after_a_restart(server: FakeServer) -> None:
    channel = blocking_channel(server)
    run(channel.call(STAT, pb.StatRequest()))
    channel.file_opened(1, 5)
    channel.file_opened(1, 5)
    channel.file_opened(1, 6)
    channel.file_closed(1, 6)
    server.fail("Namespace.Stat", LOST_BEFORE)
    run(channel.call(STAT, pb.StatRequest()))
    assert server.received("Files.Open") == []  # the same server: it knows the session
    server.instance = b"second"
    server.fail("Namespace.Stat", LOST_BEFORE)
    run(channel.call(STAT, pb.StatRequest()))
    assert [(m.target.volume, m.target.inode) for m in server.received("Files.Open")] == [
        (1, 5)
    ] * 2


def test_what_follows_a_lost_request_waits_for_its_repetition(server: FakeServer) -> None:
    async def work() -> None:
        first = await channel.start(PUT, pb.PutRequest(key=b"1"))
        second = await channel.start(PUT, pb.PutRequest(key=b"2"), after=first)
        third = await channel.start(PUT, pb.PutRequest(key=b"3"), after=second)
        for pending in first, second, third:
            await pending

    channel = blocking_channel(server)
    server.fail("Tables.Put", LOST_BEFORE)
    run(work())
    assert [m.key for m in server.received("Tables.Put")] == [b"1", b"2", b"3"]


def test_a_window_raises_the_first_error_and_ends_empty(server: FakeServer) -> None:
    async def work() -> None:
        for number in range(5):
            await window.start(PUT, pb.PutRequest(key=b"%d" % number))
        await window.drain()

    channel = blocking_channel(server)
    window = Window(channel, 2)
    server.fail("Tables.Put", Conflict("first"), Conflict("second"))
    with pytest.raises(Conflict, match="first"):
        run(work())
    run(window.drain())


async def test_more_writes_than_slots_wait_for_each_other(server: FakeServer) -> None:
    channel = async_channel(server)
    await asyncio.gather(*(channel.call(PUT, pb.PutRequest()) for _ in range(3000)))
    seen = ids(server)
    assert len(seen) == len(set(seen)) == 3000


async def test_a_cancelled_write_keeps_its_slot_away_from_the_next(server: FakeServer) -> None:
    channel = async_channel(server)
    server.refuse_opens = 10_000
    never = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await never.wait()

    channel.runtime.sleep = sleep  # type: ignore[method-assign]
    task = asyncio.create_task(channel.call(PUT, pb.PutRequest()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.refuse_opens = 0
    await channel.call(PUT, pb.PutRequest())
    assert ids(server) == [(1, 1)]


def test_a_forked_child_has_a_session_of_its_own(server: FakeServer) -> None:
    channel = blocking_channel(server)
    run(channel.call(PUT, pb.PutRequest()))
    reader, writer = os.pipe()
    if os.fork() == 0:
        run(channel.call(PUT, pb.PutRequest()))
        os.write(writer, server.opened[-1].session + bytes(channel.session == b"s" * 16))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        session = pipe.read()
    os.wait()
    assert len(session) == 16
    assert session != channel.session == b"s" * 16
    run(channel.call(PUT, pb.PutRequest()))
    assert len(server.opened) == 1


def test_a_closed_client_says_so(server: FakeServer) -> None:
    channel = blocking_channel(server)
    run(channel.close())
    with pytest.raises(ValueError, match="closed"):
        run(channel.call(STAT, pb.StatRequest()))
