"""Transactions collect, and send one request or none."""

from __future__ import annotations

import msgpack
import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Conflict, Invalid, NotFound
from dataplatform.base.partitioner import partition_of
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.records import decode
from dataplatform.client.sync import Client

from .fakes import LOST_AFTER, FakeBlockingRuntime, FakeServer, async_channel, blocking_channel


@pytest.fixture
def server() -> FakeServer:
    server = FakeServer()
    server.answer("Transactions.Commit", pb.TransactionReply(commit=9))
    return server


@pytest.fixture
def dp(server: FakeServer) -> Client:
    return Client(AsyncClient(blocking_channel(server)))


def sent(server: FakeServer) -> list[str]:
    (request,) = server.received("Transactions.Commit")
    return [operation.WhichOneof("operation") for operation in request.operations]


def test_everything_goes_in_one_request(server: FakeServer, dp: Client) -> None:
    topic = pb.Topic(name="t", partitions=[pb.Partition()])
    server.answer("Streams.Topics", pb.TopicsReply(topics=[topic]))
    with dp.transaction("/cars") as tx:
        tx.rename("in/a", "done/a")
        tx.remove("old", missing_ok=True)
        tx.mkdir("new", parents=True)
        tx.write_file("note", "text")
        tx.link("done/a", "b")
        tx.symlink("a", "c")
        table = tx.table("vehicles")
        table.put("k", {"n": 1}, if_version=3)
        table.delete("k2", ["c"])
        table.increment("k", "n", 2.5)
        tx.stream("events").append("t", b"v")
        tx.stream("events").commit_offset("g", "t", partition=0, offset=42)
        assert server.calls == []
    assert tx.commit_number == 9
    assert sent(server) == [
        "rename", "remove", "create", "write_file", "link", "create",
        "put", "delete", "increment", "append", "commit_offsets",
    ]  # fmt: skip
    (request,) = server.received("Transactions.Commit")
    assert request.base.path == "/cars"
    assert request.operations[0].rename.source.path == "in/a"
    assert request.operations[3].write_file.data == b"text"
    assert msgpack.unpackb(request.operations[6].put.data) == {"n": 1}
    append = request.operations[9].append
    assert [r.value for r in decode(append.data, "t", 0)] == [b"v"]
    assert append.parts[0].length == len(append.data)


def test_nothing_is_sent_after_an_exception(server: FakeServer, dp: Client) -> None:
    def work() -> None:
        with dp.transaction("/") as tx:
            tx.remove("a")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert server.calls == []


def test_what_was_read_is_expected_and_comes_first(server: FakeServer, dp: Client) -> None:
    rows = {b"k": msgpack.packb(b"k") + msgpack.packb([7, 0, {"n": 1}])}
    server.on("Tables.Get")(lambda m, data: (pb.RowsReply(), rows.get(m.keys[0], b"")))
    with dp.transaction("/cars") as tx:
        table = tx.table("vehicles")
        row = table.get("k")
        assert row is not None
        assert table.get("missing") is None
        table.get("k")
        table.put("k", {"n": row.columns["n"] + 1})
        tx.expect("file", 4)
    assert server.received("Tables.Get")[0].table.path == "/cars/vehicles"
    (request,) = server.received("Transactions.Commit")
    expected = [
        (o.expect.target.path, o.expect.key, o.expect.version, o.expect.row)
        for o in request.operations[:3]
    ]
    assert expected == [
        ("vehicles", b"k", 7, True),
        ("vehicles", b"missing", 0, True),
        ("file", b"", 4, False),
    ]
    assert request.operations[3].HasField("put")


def test_a_keyed_record_goes_to_its_keys_partition(server: FakeServer, dp: Client) -> None:
    topic = pb.Topic(name="t", partitions=[pb.Partition(partition=n) for n in range(5)])
    server.answer("Streams.Topics", pb.TopicsReply(topics=[topic]))
    with dp.transaction("/cars") as tx:
        for key in "a", "b", "c":
            tx.stream("events").append("t", b"", key=key)
        tx.stream("events").append("t", b"", key="a", partition=4)
    assert len(server.received("Streams.Topics")) == 1
    (request,) = server.received("Transactions.Commit")
    placed = [o.append.parts[0].partition for o in request.operations]
    assert placed == [*(partition_of(key, 5) for key in (b"a", b"b", b"c")), 4]


def test_records_without_a_key_share_a_partition_and_transactions_do_not(
    server: FakeServer, dp: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = pb.Topic(name="t", partitions=[pb.Partition(partition=n) for n in range(5)])
    server.answer("Streams.Topics", pb.TopicsReply(topics=[topic]))
    luck = [0.0, 0.5, 0.99]
    monkeypatch.setattr(FakeBlockingRuntime, "random", lambda self: luck.pop(0))
    for _ in range(3):
        with dp.transaction("/cars") as tx:
            tx.stream("events").append("t", b"1")
            tx.stream("events").append("t", b"2")
    used = [
        [operation.append.parts[0].partition for operation in request.operations]
        for request in server.received("Transactions.Commit")
    ]
    assert used == [[0, 0], [2, 2], [4, 4]]


def test_a_stream_renamed_in_the_transaction_takes_records(server: FakeServer, dp: Client) -> None:
    server.fail("Streams.Topics", NotFound("no such stream"), NotFound("no such stream"))
    with dp.transaction("/cars") as tx:
        tx.rename("old", "events")
        tx.stream("events").append("t", b"")
    (request,) = server.received("Transactions.Commit")
    assert request.operations[1].append.parts[0].partition == 0


def test_a_topic_to_be_has_the_streams_partitions(server: FakeServer, dp: Client) -> None:
    def topics(message: pb.TopicsRequest, data: bytes) -> pb.TopicsReply:
        if message.names:
            raise NotFound("no such topic")
        return pb.TopicsReply(options=pb.StreamOptions(partitions=8))

    server.on("Streams.Topics")(topics)
    with dp.transaction("/cars") as tx:
        tx.stream("events").append("t", b"", key="a")
    assert server.received("Streams.CreateTopic") == []
    (request,) = server.received("Transactions.Commit")
    assert request.operations[0].append.parts[0].partition == partition_of(b"a", 8)


def test_a_repeated_commit_keeps_its_id(server: FakeServer, dp: Client) -> None:
    server.fail("Transactions.Commit", LOST_AFTER)
    with dp.transaction("/") as tx:
        tx.remove("a")
    ids = {(m.request.slot, m.request.sequence) for m in server.received("Transactions.Commit")}
    assert len(server.received("Transactions.Commit")) == 2
    assert len(ids) == 1


def test_a_conflict_is_raised_and_the_transaction_is_over(server: FakeServer, dp: Client) -> None:
    server.fail("Transactions.Commit", Conflict("the row has another version"))
    with pytest.raises(Conflict), dp.transaction("/") as tx:
        tx.remove("a")
    assert tx.commit_number is None
    with pytest.raises(Invalid, match="has ended"):
        tx.remove("b")


async def test_the_same_with_await(server: FakeServer) -> None:
    dp = AsyncClient(async_channel(server))
    async with dp.transaction("/cars") as tx:
        tx.rename("a", "b")
        tx.table("t").put("k", {"n": 1})
    assert tx.commit_number == 9
    assert sent(server) == ["rename", "put"]
