"""Producers: in order, each record once, and every failure told."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from dataplatform.base.errors import (
    Conflict,
    Denied,
    Exhausted,
    Invalid,
    PlatformError,
    Unavailable,
)
from dataplatform.base.partitioner import partition_of
from dataplatform.client import producers, streams
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.sync import Client, Stream

from .fakes import LOST_AFTER, LOST_BEFORE, async_channel, blocking_channel
from .streaming import Streaming

FAULTS: list[str | PlatformError] = [LOST_BEFORE, LOST_AFTER, Unavailable("busy")]


@pytest.fixture
def server() -> Streaming:
    return Streaming(t=1, four=4)


@pytest.fixture
def stream(server: Streaming) -> Stream:
    return Client(AsyncClient(blocking_channel(server))).stream("/s")


def test_a_record_is_stored_as_it_was_sent(server: Streaming, stream: Stream) -> None:
    with stream.producer() as producer:
        delivery = producer.send("t", "ü", key=b"k", headers={"h": b"1"}, timestamp=5)
        assert delivery.result() == ("t", 0, 0, 5)
        assert delivery.done()
        assert producer.send("t", None).result().offset == 1
    first, second = server.records("t")
    assert first == ("t", 0, 0, 5, b"k", "ü".encode(), {"h": b"1"})
    assert second.value is None


def test_result_does_not_wait_for_the_linger(stream: Stream) -> None:
    with stream.producer(linger_s=3600) as producer:
        assert producer.send("t", b"x").result().offset == 0


def test_many_records_in_few_batches(server: Streaming, stream: Stream) -> None:
    values = [b"%06d" % n for n in range(20_000)]
    with stream.producer(batch_bytes=16_000) as producer:
        assert producer.send_many("t", values[:15_000]) == 15_000
        producer.send_many("t", iter(values[15_000:]))
        producer.flush()
        assert server.values("t") == values
    assert 15 < len(server.logs["t", 0]) < 40


def test_keys_choose_the_partition_and_others_take_turns(server: Streaming, stream: Stream) -> None:
    keys = [b"key-%d" % n for n in range(100)]
    with stream.producer() as producer:
        for key in keys:
            assert producer.send("four", b"", key=key)
        producer.send_many("four", [b""] * 100, keys=keys)
        assert producer.send("four", b"fixed", partition=3).result().partition == 3
    for number in range(4):
        found = [record.key for record in server.records("four", number) if record.key]
        assert found == [key for key in keys if partition_of(key, 4) == number] * 2
    with stream.producer(batch_bytes=100) as producer:
        producer.send_many("four", [b"x" * 60] * 40)
    counts = [server.values("four", number).count(b"x" * 60) for number in range(4)]
    assert counts == [10, 10, 10, 10]


def test_a_new_topic_has_the_streams_partitions(server: Streaming, stream: Stream) -> None:
    with stream.producer() as producer:
        for n in range(20):
            producer.send("new", b"", key=b"%d" % n)
    assert {place for place in server.logs if place[0] == "new"} == {("new", 0), ("new", 1)}


@pytest.mark.parametrize("bad", [{"partition": 4}, {"partition": -1}, {"value": b"x" * (8 << 20)}])
def test_what_cannot_be_sent_is_said_at_once(stream: Stream, bad: dict[str, Any]) -> None:
    with stream.producer() as producer, pytest.raises(Invalid):
        producer.send("four", **{"value": b"", **bad})


def test_too_large_among_many(stream: Stream) -> None:
    with stream.producer() as producer, pytest.raises(Invalid):
        producer.send_many("t", [b"x" * (9 << 20)])


def test_partitions_that_were_added_are_used(
    server: Streaming, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "COUNT_S", 0.0)
    monkeypatch.setattr(streams, "COUNT_S", 0.0)
    keys = [b"key-%d" % n for n in range(30)]
    with stream.producer(linger_s=0.0) as producer:
        for topics in 1, 4:
            server.topics["t"] = topics
            for key in keys:
                expected = partition_of(key, topics)
                assert producer.send("t", b"", key=key).result().partition == expected
                assert stream.append("t", b"", key=key).partition == expected
        server.topics["t"] = 1  # made anew, with fewer
        assert producer.send("t", b"").result().partition == 0


def test_threads_share_a_producer(server: Streaming, stream: Stream) -> None:
    def work(number: int) -> None:
        for n in range(2000):
            producer.send("four", b"%d-%d" % (number, n), key=b"%d" % number)

    with stream.producer(batch_bytes=1000) as producer:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stored = [server.values("four", number) for number in range(4)]
    assert sum(map(len, stored)) == 8000
    for number in range(4):
        mine = [v for v in stored[partition_of(b"%d" % number, 4)] if v and v[:1] == b"%d" % number]
        assert mine == [b"%d-%d" % (number, n) for n in range(2000)]


def test_a_producer_that_nobody_closed_ends_with_the_program(
    server: Streaming, stream: Stream
) -> None:
    producer = stream.producer(linger_s=3600)
    delivery = producer.send("t", b"tail")
    with pytest.warns(ResourceWarning, match="not closed"):
        producers._end_with_program()
    assert delivery.done()
    assert server.values("t") == [b"tail"]
    producers._end_with_program()  # it is closed now


@pytest.mark.allow_warnings("not known to be stored")
def test_an_event_loop_that_ends_says_what_is_lost(
    server: Streaming, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        stream = await AsyncClient(async_channel(server)).stream("/s")
        producer = await stream.producer(linger_s=3600)
        for _ in range(3):
            await producer.send("t", b"lost")
        await asyncio.sleep(0)

    asyncio.run(work())
    assert "records=`3`" in caplog.text
    assert server.logs == {}


def test_an_error_reaches_the_next_record_though_a_batch_was_open(
    server: Streaming, stream: Stream
) -> None:
    with stream.producer(linger_s=3600) as producer:
        producer.send("four", b"", partition=1)
        kept = producer.send("four", b"kept", partition=0)
        server.fail("Streams.Append", Denied("not allowed"))
        with pytest.raises(Denied):
            producer.send("t", b"refused").result()
        with pytest.raises(Denied):
            producer.send("four", b"told", partition=0)
        assert kept.result().partition == 0
        assert producer.send("four", b"again", partition=0).result().partition == 0
    assert server.values("four") == [b"kept", b"again"]


@pytest.mark.parametrize("how", ["linger", "flush", "full", "many"])
def test_records_without_a_key_go_to_the_partitions_in_turn(
    server: Streaming, stream: Stream, how: str
) -> None:
    """A batch at a time, whatever makes it leave; each producer begins somewhere."""
    found = []
    with stream.producer(
        linger_s=0 if how == "linger" else 3600, batch_bytes=100 if how == "full" else 16384
    ) as producer:
        for _ in range(8):
            if how == "many":
                producer.send_many("four", [b"x"])
                continue
            record = producer.send("four", b"x" * 90)
            if how == "flush":
                producer.flush()
            if how != "full":
                found.append(record.result().partition)
        if how in ("full", "many"):
            producer.flush()
            assert {n: len(server.values("four", n)) for n in range(4)} == dict.fromkeys(
                range(4), 2
            )
    assert found in ([], [(found or [0])[0] + n & 3 for n in range(8)])


def test_faults_change_neither_order_nor_number(server: Streaming, seed: int) -> None:
    randomness = random.Random(seed)
    stream = Client(AsyncClient(blocking_channel(server, patience_s=1e6))).stream("/s")
    sent: dict[int, list[bytes]] = {n: [] for n in range(4)}
    with stream.producer(batch_bytes=300, linger_s=0.0) as producer:
        for number in range(300):
            if randomness.random() < 0.3:
                server.fail("Streams.Append", randomness.choice(FAULTS))
            partition = randomness.randrange(4)
            values = [b"%d-%d" % (number, n) for n in range(randomness.randrange(1, 40))]
            sent[partition] += values
            if randomness.random() < 0.5:
                producer.send_many("four", values, partition=partition)
            else:
                for value in values:
                    producer.send("four", value, partition=partition)
    for partition, values in sent.items():
        assert server.values("four", partition) == values


def test_a_failure_is_told_and_the_producer_goes_on(server: Streaming, stream: Stream) -> None:
    producer = stream.producer(linger_s=3600)
    before = producer.send("t", b"before")
    producer.flush()
    server.fail("Streams.Append", Exhausted("the quota is used up"))
    failed = producer.send("t", b"failed")
    with pytest.raises(Exhausted):
        failed.result()
    with pytest.raises(Exhausted):
        producer.flush()
    after = producer.send("t", b"after")
    producer.close()
    assert (before.result().offset, after.result().offset) == (0, 1)
    assert server.values("t") == [b"before", b"after"]
    assert len({batch.producer for batch in server.logs["t", 0]}) == 2  # a new id


def test_nothing_goes_out_under_an_id_whose_sequences_have_a_gap(
    server: Streaming, stream: Stream
) -> None:
    """It would begin at 0 again, and be taken for the first batch come twice: acknowledged, not
    stored."""
    producer = stream.producer(linger_s=3600)
    before = producer.send("t", b"before", partition=0)
    producer.flush()
    server.fail("Streams.Append", Exhausted("the disk is full"))
    server.fail("Streams.InitProducer", Exhausted("the disk is full"), Exhausted("still full"))
    for _ in range(3):  # the append, then two times the new id
        refused = producer.send("t", b"refused", partition=0)
        with pytest.raises(Exhausted):
            producer.flush()
        with pytest.raises(Exhausted):
            refused.result()
    after = producer.send("t", b"behind", partition=0)
    producer.close()
    assert (before.result().offset, after.result().offset) == (0, 1)
    assert server.values("t") == [b"before", b"behind"]
    assert len({batch.producer for batch in server.logs["t", 0]}) == 2


@pytest.mark.parametrize("call", ["send", "send_many", "close"])
def test_a_failure_surfaces_at_the_next_call(server: Streaming, stream: Stream, call: str) -> None:
    producer = stream.producer(linger_s=3600)
    server.fail("Streams.Append", Denied("not allowed"))
    with pytest.raises(Denied):
        producer.send("t", b"x").result()
    with pytest.raises(Denied):
        {
            "send": lambda: producer.send("t", b"y"),
            "send_many": lambda: producer.send_many("t", [b"y"]),
            "close": producer.close,
        }[call]()
    producer.close()
    with pytest.raises(ValueError, match="closed"):
        producer.send("t", b"z")


def test_a_batch_that_overtook_is_sent_again(server: Streaming, stream: Stream) -> None:
    """The server put one off and refused the next for the gap; both come to be stored."""
    with stream.producer(batch_bytes=100, linger_s=3600) as producer:
        server.fail("Streams.Append", Unavailable("busy"), Conflict("gap"))
        producer.send_many("t", [b"%02d" % n + b"x" * 60 for n in range(6)])
    assert [value and value[:2] for value in server.values("t")] == [
        b"00", b"01", b"02", b"03", b"04", b"05",
    ]  # fmt: skip


def test_an_exception_in_the_with_block_sends_nothing_more(
    server: Streaming, stream: Stream
) -> None:
    deliveries = []

    def work() -> None:
        with stream.producer(linger_s=3600) as producer:
            deliveries.append(producer.send("t", b"x"))
            raise KeyError

    with pytest.raises(KeyError):
        work()
    with pytest.raises(Unavailable, match="closed before"):
        deliveries[0].result()
    assert server.logs == {}


def test_a_server_that_is_gone_ends_the_wait(server: Streaming) -> None:
    stream = Client(AsyncClient(blocking_channel(server, patience_s=2.0))).stream("/s")
    producer = stream.producer()
    producer.send("t", b"x").result()
    server.fail("Streams.Append", *[Unavailable("busy")] * 50)
    delivery = producer.send("t", b"y")
    with pytest.raises(Unavailable, match="gave up after trying for 2 s"):
        delivery.result()
    with pytest.raises(PlatformError):
        producer.close()


def test_append_is_one_round_trip(server: Streaming, stream: Stream) -> None:
    assert stream.append("t", b"x", timestamp=9) == ("t", 0, 0, 9)
    server.calls.clear()
    assert stream.append("t", "y", headers={"a": b""}).offset == 1
    assert [name for name, _, _ in server.calls] == ["Streams.Append"]
    assert server.received("Streams.Append")[0].request.session == b"s" * 16
    assert stream.append("four", b"z", key="k").partition == partition_of(b"k", 4)


async def test_the_same_with_await(server: Streaming) -> None:
    stream = await AsyncClient(async_channel(server)).stream("/s")
    server.fail("Streams.Append", LOST_AFTER, LOST_BEFORE)
    async with await stream.producer(batch_bytes=1000, linger_s=0.0) as producer:
        delivery = await producer.send("t", b"first")
        assert (await delivery.result()).offset == 0
        await producer.send_many("t", [b"%d" % n for n in range(1000)])
    assert server.values("t") == [b"first", *(b"%d" % n for n in range(1000))]
