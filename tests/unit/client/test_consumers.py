"""Consumers: every record once, from where they should begin, and commits of what was read."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from dataplatform.base.errors import Invalid, NotFound, Stale
from dataplatform.client import consumers, fetching
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.sync import Client, Stream

from .fakes import LOST_AFTER, LOST_BEFORE, async_channel, blocking_channel
from .streaming import Streaming


@pytest.fixture
def server() -> Streaming:
    return Streaming(t=2, empty=1)


@pytest.fixture
def stream(server: Streaming) -> Stream:
    stream = Client(AsyncClient(blocking_channel(server))).stream("/s")
    for first in range(0, 30, 5):
        with stream.producer() as producer:
            for n in range(first, first + 5):
                producer.send("t", b"%02d" % n, timestamp=1000 + n, partition=n % 2)
    server.calls.clear()
    return stream


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what background work does."""
    done = threading.Event()
    for _ in range(2000):
        if condition():
            return
        done.wait(0.005)
    raise AssertionError("it never happened")


def test_all_partitions_from_the_beginning(stream: Stream) -> None:
    with stream.consumer("t", follow=False) as consumer:
        records = list(consumer)
        assert consumer.assignment() == [("t", 0), ("t", 1)]
    for partition in 0, 1:
        found = [record.value for record in records if record.partition == partition]
        assert found == [b"%02d" % n for n in range(partition, 30, 2)]


@pytest.mark.parametrize(
    ("start", "partition", "first"),
    [
        ("earliest", 0, b"00"),
        (7, 0, b"14"),
        (datetime.fromtimestamp(1.013, UTC), 1, b"13"),
        (datetime.fromtimestamp(1.014, UTC), 1, b"15"),
        ("latest", 0, None),
        (datetime.fromtimestamp(99, UTC), 0, None),
    ],
)
def test_starts(
    stream: Stream, start: str | int | datetime, partition: int, first: bytes | None
) -> None:
    with stream.consumer("t", start=start, partitions=[partition], follow=False) as consumer:
        record = next(iter(consumer), None)
    assert (record and record.value) == first


def test_an_abandoned_iteration_goes_on_where_it_was(stream: Stream) -> None:
    with stream.consumer("t", partitions=[0], follow=False) as consumer:
        first = list(itertools.islice(consumer, 3))
        polled = consumer.poll(0.0, max_records=2)
        rest = list(consumer)
    assert [r.offset for r in first + polled + rest] == list(range(15))


def test_a_poll_for_nothing_skips_nothing(stream: Stream) -> None:
    with stream.consumer("t", partitions=[0], follow=False) as consumer:
        assert [r.offset for r in consumer.poll(0.0, max_records=2)] == [0, 1]
        assert consumer.poll(0.0, max_records=0) == []
        assert consumer.poll(0.0, max_records=2)[0].offset == 2


def test_poll_gives_what_is_there(stream: Stream) -> None:
    with stream.consumer("t", start="latest") as consumer:
        assert consumer.poll(0.0) == []
        stream.append("t", b"new", partition=1)
        assert [record.value for record in consumer.poll(0.0)] == [b"new"]
        assert consumer.poll(0.0) == []


def test_a_poll_takes_all_that_was_fetched(
    server: Streaming, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "CHUNK_BYTES", 1)
    with stream.consumer("t") as consumer:
        first = consumer.poll(0.0, max_records=4)
        rest = consumer.poll(0.0)
        positions = [consumer.position("t", partition) for partition in (0, 1)]
    assert len(first) == 4
    for partition in 0, 1:
        found = [r.offset for r in first + rest if r.partition == partition]
        assert found == list(range(positions[partition]))


def test_partitions_that_were_added_are_read(
    server: Streaming, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "COUNT_S", 0.0)
    with (
        stream.consumer("t", start="latest") as consumer,
        stream.consumer("t", start="latest", partitions=[0, 1]) as fixed,
    ):
        assert consumer.poll(0.0) == fixed.poll(0.0) == []
        server.topics["t"] = 3
        stream.append("t", b"new", partition=2)
        assert [record.value for record in consumer.poll(0.0)] == [b"new"]
        assert consumer.assignment() == [("t", 0), ("t", 1), ("t", 2)]
        assert fixed.poll(0.0) == []


def test_positions_within_a_chunk(stream: Stream) -> None:
    with stream.consumer("t", partitions=[0], follow=False) as consumer:
        for number, record in enumerate(consumer, 1):
            assert consumer.position("t", 0) == record.offset + 1 == number
        consumer.seek("t", 0, 3)
        records = iter(consumer)
        assert next(records).offset == 3
        consumer.seek("t", 0, 14)
        assert [record.offset for record in records] == [14]
        assert consumer.position("t", 0) == 15


def test_positions_and_seeks(stream: Stream) -> None:
    with stream.consumer("t", partitions=[0], follow=False) as consumer:
        assert consumer.position("t", 0) == 0
        for record in consumer:
            if record.offset == 4:
                break
        assert consumer.position("t", 0) == 5
        consumer.seek("t", 0, 2)
        assert consumer.poll(0.0, max_records=1)[0].offset == 2
        consumer.seek("t", 0, "latest")
        assert consumer.poll(0.0) == []
        assert consumer.position("t", 0) == 15
        consumer.seek("t", 0, datetime.fromtimestamp(1.020, UTC))
        assert consumer.poll(0.0, max_records=1)[0].value == b"20"
        with pytest.raises(Invalid, match="does not read that partition"):
            consumer.seek("t", 1, 0)


def test_lost_connections_lose_no_record(server: Streaming, stream: Stream) -> None:
    server.fail("Streams.Fetch", LOST_BEFORE, LOST_AFTER, LOST_AFTER)
    with stream.consumer("t", follow=False) as consumer:
        assert len(list(consumer)) == 30


@pytest.mark.allow_warnings("dropped before they were read")
def test_trimmed_records_are_passed_over(server: Streaming, stream: Stream) -> None:
    consumer = stream.consumer("t", partitions=[0], follow=False)
    server.starts["t", 0] = 10
    assert [record.offset for record in consumer] == list(range(10, 15))


def test_what_does_not_exist(stream: Stream) -> None:
    with pytest.raises(NotFound):
        stream.consumer("missing")
    with pytest.raises(NotFound, match="partition=`9`"):
        stream.consumer("t", partitions=[9])
    with pytest.raises(Invalid):
        stream.consumer([])
    with pytest.raises(Invalid):
        stream.consumer("t", start="newest")
    with pytest.raises(Invalid, match="offset"), stream.consumer("t", start=99) as consumer:
        consumer.poll(0.0)
    with stream.consumer("t") as consumer, pytest.raises(Invalid, match="pass group"):
        consumer.commit()
    with pytest.raises(ValueError, match="closed"):
        consumer.poll(0.0)


# ------------------------------------------------------------------------------------ groups


def test_a_group_goes_on_at_its_offsets(server: Streaming, stream: Stream) -> None:
    server.assigned = [("t", 0), ("t", 1)]
    with stream.consumer("t", group="g", follow=False) as consumer:
        for record in consumer:
            if record.partition == 0 and record.offset == 2:
                consumer.commit()
                break
    assert server.committed["t", 0] == 3
    with stream.consumer("t", group="g", follow=False) as consumer:
        found = [record for record in consumer if record.partition == 0]
        consumer.commit({("t", 0): 1})
    assert found[0].offset == 3
    assert server.committed["t", 0] == 1


def test_only_news_is_committed(server: Streaming, stream: Stream) -> None:
    server.assigned = [("t", 0), ("t", 1)]
    with stream.consumer("t", group="g", follow=False) as consumer:
        list(consumer)
        consumer.commit()
        consumer.commit()
        stream.append("t", b"x", partition=1)
        consumer.poll(0.0)
        consumer.commit()
    sent = [[(p.partition, p.offset) for p in m.parts] for m in server.received("Groups.Commit")]
    assert sent == [[(0, 15), (1, 15)], [(1, 16)]]


def test_partitions_are_let_go_between_chunks_and_then_reported(
    server: Streaming, stream: Stream
) -> None:
    server.assigned, server.heartbeat_ms = [("t", 0), ("t", 1)], 50
    with stream.consumer("t", group="g") as consumer:
        eventually(lambda: server.owned[-1:] == [[("t", 0), ("t", 1)]])
        consumer.poll(0.0, max_records=1)
        server.assigned, server.epoch = [("t", 1)], 2
        told = len(server.owned) + 2
        eventually(lambda: len(server.owned) >= told)
        assert consumer.assignment() == [("t", 0), ("t", 1)]  # not in the middle of a chunk
        while ("t", 0) in consumer.assignment():
            consumer.poll(0.0)
        eventually(lambda: server.owned[-1] == [("t", 1)])
        records = []
        while polled := consumer.poll(0.0):
            records += polled
        assert {record.partition for record in records} <= {1}
    leaving = server.received("Groups.Heartbeat")[-1]
    assert (leaving.leave, leaving.epoch) == (True, 2)


def test_a_member_that_was_forgotten_joins_again(server: Streaming, stream: Stream) -> None:
    server.assigned = [("t", 0)]
    server.fail("Groups.Heartbeat", Stale("rejoin"))
    with stream.consumer("t", group="g") as consumer:
        eventually(lambda: len(server.received("Groups.Join")) == 2)
        first, second = server.received("Groups.Join")
        assert first.member == second.member != ""
        assert [record.offset for record in consumer.poll(0.0, max_records=1)] == [0]


def test_a_restart_of_the_server_goes_unnoticed(server: Streaming, stream: Stream) -> None:
    """Membership is in its memory only. Nobody else was at work: go on."""
    server.assigned = [("t", 0), ("t", 1)]
    with stream.consumer("t", group="g", follow=False) as consumer:
        offsets = []
        for record in consumer:
            offsets.append((record.partition, record.offset))
            if len(offsets) == 5:
                server.fail("Groups.Commit", Stale("rejoin"))
                server.fail("Groups.Heartbeat", Stale("rejoin"))
                consumer.commit()
        consumer.commit()
    assert len(server.received("Groups.Join")) == 2
    assert sorted(offsets) == [(partition, n) for partition in (0, 1) for n in range(15)]
    assert server.committed == {("t", 0): 15, ("t", 1): 15}


def test_what_another_member_has_read_is_not_read_again(server: Streaming, stream: Stream) -> None:
    server.assigned = [("t", 0), ("t", 1)]
    with stream.consumer("t", group="g", follow=False) as consumer:
        first = next(iter(consumer))
        assert first.partition == 0
        server.fail("Groups.Commit", Stale("rejoin"))
        server.fail("Groups.Heartbeat", Stale("rejoin"))
        server.committed["t", 0] = 12
        with pytest.raises(Stale):
            consumer.commit()
        rest = [record.offset for record in consumer if record.partition == 0]
    assert rest == [12, 13, 14]


def test_seeking_in_the_middle_of_an_iteration(stream: Stream) -> None:
    found = []
    with stream.consumer("t", partitions=[0], follow=False) as consumer:
        for record in consumer:
            found.append(record.offset)
            if found == [0, 1]:
                consumer.seek("t", 0, 10)
    assert found == [0, 1, 10, 11, 12, 13, 14]


def test_a_group_assigns_by_itself(stream: Stream) -> None:
    with pytest.raises(Invalid, match="the server assigns"):
        stream.consumer("t", group="g", partitions=[0])


async def test_the_same_with_await(server: Streaming, stream: Stream) -> None:
    opened = await AsyncClient(async_channel(server)).stream("/s")
    server.assigned = [("t", 0), ("t", 1)]
    async with await opened.consumer("t", "g", follow=False) as consumer:
        count = 0
        async for _ in consumer:
            count += 1
        await consumer.commit()
    assert count == 30
    assert server.committed == {("t", 0): 15, ("t", 1): 15}
