"""What peers do wrong, on purpose or not, and what the server keeps doing for the others."""

import asyncio
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import ErrorKind, Unavailable
from dataplatform.base.limits import FRAME_BYTES_MAX, KIB, MIB
from dataplatform.transport.connections import AsyncConnection
from dataplatform.transport.frames import HEADER, PROTOCOL, FrameKind, encode
from dataplatform.transport.serving import FrameServer, ServerConnection, ServingLimits

from .fakes import (
    FETCH,
    GET,
    PING,
    PUT,
    READ,
    STAT,
    WRITE,
    FakeHandler,
    RawClient,
    serving,
    until,
)


def only(server: FrameServer) -> ServerConnection:
    (connection,) = server.connections
    return connection


# ------------------------------------------------------------------ requests that make no sense


async def test_unknown_methods_and_bad_messages_are_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, address):
        client = await RawClient.open(address)
        client.send(*encode(FrameKind.REQUEST, 60_000, 1))
        client.send(*encode(FrameKind.REQUEST, GET.number, 2, b"\xff\xff\xff"))
        client.send(*encode(FrameKind.REQUEST, PING.number, 3, b"", b"bulk"))
        client.send(*encode(FrameKind.CANCEL, 0, 99))
        client.request(PING, 4, pb.Empty())
        for call in (1, 2, 3):
            frame = await client.frame()
            info = pb.ErrorInfo.FromString(frame.message)
            assert (frame.kind, frame.call) == (FrameKind.ERROR, call)
            assert info.kind == ErrorKind.INVALID.value
        frame = await client.frame()
        assert (frame.kind, frame.call) == (FrameKind.REPLY, 4)
        client.close()


@pytest.mark.allow_warnings("request failed. method=`Namespace.Stat`")
async def test_a_handler_that_fails_is_internal(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _, address):
        client = await RawClient.open(address)
        client.request(STAT, 1, pb.StatRequest())
        assert (await client.error()).kind == ErrorKind.INTERNAL.value
        client.request(PING, 2, pb.Empty())
        assert (await client.frame()).kind == FrameKind.REPLY
        client.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(16),
        HEADER.pack(FRAME_BYTES_MAX + 1, 3, 0, 1, 1, 0),
        b"".join(encode(FrameKind.REPLY, 1, 1)),
        b"".join(encode(FrameKind.HELLO, 0, 0)),
        b"".join(encode(FrameKind.REQUEST, 1, 0)),
        b"".join(encode(FrameKind.REQUEST, FETCH.number, 1)) * 2,
    ],
    ids=["http", "zeros", "oversize", "reply", "second-hello", "call-0", "same-call"],
)
async def test_garbage_is_answered_and_closed(tmp_path: Path, garbage: bytes) -> None:
    async with serving(tmp_path) as (server, _, address):
        client = await RawClient.open(address)
        other = await AsyncConnection.open(address)
        client.send(garbage)
        assert (await client.error()).kind == ErrorKind.INVALID.value
        assert await client.closed()
        await until(lambda: len(server.connections) == 1)
        assert server.budget.used_bytes == 0
        await other.call(PING, pb.Empty())
        await other.close()


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans())
async def test_random_bytes_harm_nobody(chunks: list[bytes], hello: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        async with serving(Path(directory)) as (server, _, address):
            client = await RawClient.open(address, hello=hello)
            for chunk in chunks:
                client.send(chunk)
            client.writer.write_eof()
            assert await client.closed()
            client.close()
            await until(lambda: not server.connections)
            assert server.budget.used_bytes == 0


@pytest.mark.parametrize("hello", [pb.Hello(protocol=99), None], ids=["version", "undecodable"])
async def test_a_wrong_hello_is_refused(tmp_path: Path, hello: pb.Hello | None) -> None:
    async with serving(tmp_path) as (_, handler, address):
        client = await RawClient.open(address, hello=False)
        message = b"\xff" if hello is None else hello.SerializeToString()
        client.send(*encode(FrameKind.HELLO, 0, 0, message))
        assert (await client.error()).kind == ErrorKind.INVALID.value
        assert await client.closed()
        assert handler.hello is None


async def test_before_the_hello_nothing_is_done_and_little_is_held(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, handler, address):
        client = await RawClient.open(address, hello=False)
        client.request(PING, 1, pb.Empty())
        client.send(*encode(FrameKind.HELLO, 0, 0, pb.Hello(protocol=PROTOCOL).SerializeToString()))
        assert (await client.frame()).kind == FrameKind.HELLO_REPLY
        assert (await client.frame()).kind == FrameKind.REPLY  # it was only early
        client.close()
        large = await RawClient.open(address, hello=False)
        large.request(WRITE, 1, pb.WriteRequest(), bytes(MIB))
        assert (await large.error()).message == "frame too large"
        assert handler.started == 1


async def test_a_handshake_that_never_comes_ends(tmp_path: Path) -> None:
    async with serving(tmp_path, ServingLimits(handshake_s=0.02)) as (server, _, address):
        client = await RawClient.open(address, hello=False)
        assert "no Hello" in (await client.error()).message
        assert await client.closed()
        await until(lambda: not server.connections)


# ------------------------------------------------------------------ bounds


async def test_requests_beyond_the_limit_wait_in_the_socket(tmp_path: Path) -> None:
    limits = ServingLimits(requests_max=4)
    async with serving(tmp_path, limits) as (server, handler, address):
        connection = await AsyncConnection.open(address)
        started = [connection.start(FETCH, pb.FetchRequest()) for _ in range(5000)]
        await until(lambda: handler.started == 4)
        await asyncio.sleep(0)
        assert only(server).requests_under_way == 4
        handler.release.set()
        await asyncio.gather(*started)
        assert handler.started == 5000
        assert server.budget.used_bytes == 0
        await connection.close()


async def test_an_urgent_request_does_not_wait_for_others(tmp_path: Path) -> None:
    """It stands behind more than one read brings of those that may wait for it."""
    async with serving(tmp_path, ServingLimits(requests_max=4)) as (server, handler, address):
        client = await RawClient.open(address)
        for call in range(1, 2000):
            client.request(FETCH, call, pb.FetchRequest())
        await until(lambda: handler.started == 4)
        client.request(METHODS["Namespace.Watch"], 5000, pb.WatchRequest())
        await until(lambda: handler.started == 5)
        handler.release.set()
        await until(lambda: handler.started == 2000)
        client.close()
        await until(lambda: not server.connections)
        assert server.budget.used_bytes == 0


async def test_a_waiting_request_can_be_cancelled(tmp_path: Path) -> None:
    async with serving(tmp_path, ServingLimits(requests_max=1)) as (_, handler, address):
        connection = await AsyncConnection.open(address)
        first = connection.start(FETCH, pb.FetchRequest())
        second = asyncio.ensure_future(connection.start(FETCH, pb.FetchRequest()))
        second.cancel()  # both leave in one write
        await until(lambda: handler.started == 1)
        handler.release.set()
        await first
        await connection.call(PING, pb.Empty())
        assert handler.started == 2
        await connection.close()


async def test_a_client_that_stops_reading_stalls_only_itself(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, handler, address):
        client = await RawClient.open(address)
        client.writer.transport.pause_reading()
        connection = only(server)
        before = _memory_peak()
        for call in range(1, 1000):
            client.request(READ, call, pb.ReadRequest(length=MIB))
        await until(lambda: not connection.writable)
        other = await AsyncConnection.open(address)
        for _ in range(10):
            await other.call(PING, pb.Empty())
        assert handler.started < 30  # and not a thousand
        assert connection.charged_bytes < 3 * MIB
        assert _memory_peak() - before < 100 * MIB
        client.writer.transport.abort()
        await until(lambda: len(server.connections) == 1)
        assert server.budget.used_bytes == 0
        await other.close()


async def test_a_client_that_never_reads_again_is_closed(tmp_path: Path) -> None:
    limits = ServingLimits(stall_s=0.05, bytes_per_s_min=100 * KIB)
    async with serving(tmp_path, limits) as (server, _, address):
        client = await RawClient.open(address)
        client.writer.transport.pause_reading()
        client.request(READ, 1, pb.ReadRequest(length=8 * MIB))
        await until(lambda: not server.connections)
        assert server.budget.used_bytes == 0
        client.close()


async def test_a_client_that_reads_again_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, handler, address):
        client = await RawClient.open(address)
        client.writer.transport.pause_reading()
        for call in range(1, 101):
            client.request(READ, call, pb.ReadRequest(length=MIB))
        await until(lambda: not only(server).writable)
        client.writer.transport.resume_reading()
        for call in range(1, 101):
            frame = await client.frame()
            assert (frame.call, len(frame.data)) == (call, MIB)
        assert handler.started == 100
        assert server.budget.used_bytes == 0
        client.close()


async def test_large_frames_share_one_budget(tmp_path: Path) -> None:
    limits = ServingLimits(total_bytes_max=8 * MIB)
    async with serving(tmp_path, limits) as (server, _, address):
        hogs = [await RawClient.open(address) for _ in range(10)]
        raw = b"".join(encode(FrameKind.REQUEST, WRITE.number, 1, b"", bytes(3 * MIB)))
        for hog in hogs:
            hog.send(raw[: 100 * KIB])  # and no more
        await until(lambda: server.arriving.used_bytes > 4 * MIB)
        victim = await AsyncConnection.open(address)
        written = asyncio.create_task(victim.call(WRITE, pb.WriteRequest(), bytes(3 * MIB)))
        assert server.budget.used_bytes < 7 * MIB
        hogs[0].send(raw[100 * KIB :])
        hogs[1].send(raw[100 * KIB :])
        for hog in hogs:
            hog.writer.close()
        assert (await written)[0].size == 3 * MIB
        await until(lambda: server.budget.used_bytes == 0)
        assert server.arriving.used_bytes == 0
        await victim.close()


async def test_half_sent_frames_keep_nobody_else_waiting(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _, address):
        hogs = [await RawClient.open(address) for _ in range(40)]
        for hog in hogs:
            hog.send(HEADER.pack(FRAME_BYTES_MAX, FrameKind.REQUEST, 0, WRITE.number, 1, 10))
            hog.send(bytes(1000))
        await until(lambda: not server.arriving.has_room)
        assert server.budget.used_bytes <= server.limits.total_bytes_max // 2 + FRAME_BYTES_MAX
        other = await AsyncConnection.open(address)
        await other.call(PING, pb.Empty())
        assert len((await other.call(READ, pb.ReadRequest(length=8 * MIB)))[1]) == 8 * MIB
        await other.close()
        for hog in hogs:
            hog.writer.transport.abort()
        await until(lambda: not server.connections)
        assert server.budget.used_bytes == server.arriving.used_bytes == 0


async def test_small_requests_have_a_reserve(tmp_path: Path) -> None:
    limits = ServingLimits(total_bytes_max=4 * MIB)
    async with serving(tmp_path, limits) as (server, handler, address):
        hog, other = [await AsyncConnection.open(address) for _ in range(2)]
        polls = [hog.start(FETCH, pb.FetchRequest(size_bytes=2 * MIB)) for _ in range(3)]
        await until(lambda: not server.budget.has_room)
        await other.call(PING, pb.Empty())
        read = other.start(READ, pb.ReadRequest(length=MIB))
        handler.release.set()
        assert len((await read)[1]) == MIB
        await asyncio.gather(*polls)
        await hog.close()
        await other.close()


async def test_a_sender_is_closed_when_it_becomes_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = {}
    monkeypatch.setattr(
        ServerConnection, "_later", lambda _, name, delay_s, look: looks.update({name: look})
    )
    limits = ServingLimits(arrival_s=30.0, pressed_s=30.0, bytes_per_s_min=10 * KIB)
    raw = b"".join(encode(FrameKind.REQUEST, WRITE.number, 1, b"", bytes(MIB)))
    async with serving(tmp_path, limits) as (server, _, address):
        client = await RawClient.open(address)
        decoder = only(server).decoder
        client.send(raw[:1000])
        await until(lambda: "frame" in looks)
        for end in (301 * KIB, 602 * KIB, 603 * KIB):
            client.send(raw[decoder.large_received_bytes : end])
            await until(lambda end=end: decoder.large_received_bytes == end)
            looks["frame"]()
        assert "did not arrive" in (await client.error()).message
        assert await client.closed()
        await until(lambda: server.arriving.used_bytes == 0)


async def test_a_frame_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    limits = ServingLimits(arrival_s=0.01, bytes_per_s_min=100 * MIB)
    async with serving(tmp_path, limits) as (server, _, address):
        client = await RawClient.open(address)
        raw = b"".join(encode(FrameKind.REQUEST, WRITE.number, 1, b"", bytes(MIB)))
        client.send(raw[:-1])
        assert "did not arrive" in (await client.error()).message
        assert await client.closed()
        await until(lambda: server.budget.used_bytes == 0)


async def test_replies_to_come_count(tmp_path: Path) -> None:
    limits = ServingLimits(connection_bytes_max=10 * MIB)
    async with serving(tmp_path, limits) as (server, handler, address):
        connection = await AsyncConnection.open(address)
        request = pb.FetchRequest(size_bytes=4 * MIB)
        started = [connection.start(FETCH, request) for _ in range(50)]
        await until(lambda: handler.started == 3)
        await asyncio.sleep(0)
        assert only(server).requests_under_way == 3
        handler.release.set()
        assert sum(len(data) for _, data in await asyncio.gather(*started)) == 200 * MIB
        await connection.close()


async def test_a_thousand_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        async with serving(tmp_path) as (server, handler, address):
            connections = []
            for _ in range(10):
                opening = [AsyncConnection.open(address) for _ in range(100)]
                connections += await asyncio.gather(*opening)
            assert len(server.connections) == 1000
            message = pb.GetRequest(keys=[b"k"])
            replies = await asyncio.gather(*(c.call(GET, message) for c in connections))
            assert all(data == b"k" for _, data in replies)
            await asyncio.gather(*(c.close() for c in connections))
            await until(lambda: not server.connections)
            assert handler.finished == 1000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ------------------------------------------------------------------ leaving


async def test_a_lost_client_ends_its_polls_but_not_its_writes(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, handler, address):
        client = await RawClient.open(address)
        client.request(FETCH, 1, pb.FetchRequest())
        client.request(PUT, 2, pb.PutRequest(), b"row")
        await until(lambda: handler.started == 2)
        client.writer.transport.abort()
        await until(lambda: handler.cancelled == 1)
        await until(lambda: not server.connections)
        assert handler.finished == 1
        handler.release.set()
        await until(lambda: handler.finished == 2)
        assert handler.cancelled == 1
        await until(lambda: server.budget.used_bytes == 0)


async def test_closing_lets_writes_finish_and_ends_polls(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, handler, address):
        connection = await AsyncConnection.open(address)
        poll = connection.start(FETCH, pb.FetchRequest())
        write = connection.start(PUT, pb.PutRequest(), b"row")
        await until(lambda: handler.started == 2)
        closing = asyncio.create_task(server.close(grace_s=30))
        with pytest.raises(Unavailable, match="stopping"):
            await poll
        with pytest.raises(Unavailable, match="stopping"):
            await connection.call(PING, pb.Empty())
        with pytest.raises(Unavailable):
            await AsyncConnection.open(address)
        handler.release.set()
        assert (await write)[0].version == 3
        await closing
        await until(lambda: connection.closed)


async def test_closing_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, handler, address):
        connection = await AsyncConnection.open(address)
        write = connection.start(PUT, pb.PutRequest(), b"row")
        await until(lambda: handler.started == 1)
        await server.close(grace_s=0.01)
        with pytest.raises(Unavailable, match="lost"):
            await write
        handler.release.set()
        await until(lambda: handler.finished == 1)


async def test_farewell_follows_every_welcome(tmp_path: Path) -> None:
    handler, gone = FakeHandler(), []
    server = FrameServer(handler.handle, handler.welcome, gone.append)
    await server.listen_unix(str(tmp_path / "s"))
    host, port = await server.listen_tcp("127.0.0.1", 0)
    from dataplatform.transport.addresses import Address

    tcp = await AsyncConnection.open(Address("dp", host=host, port=port))
    unix = await AsyncConnection.open(Address("dp+unix", path=str(tmp_path / "s")))
    uids = {c.peer_uid for c in server.connections}
    assert None in uids
    assert len(uids) == 2
    await tcp.close()
    await until(lambda: len(gone) == 1)
    await unix.close()
    await server.close()
    assert len(gone) == 2


def _memory_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
