"""Tables: what is asked of the server, in how many requests, and what comes of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Conflict, Exhausted, Invalid, NotFound
from dataplatform.client import tables
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.sync import Client, Table

from .fakes import LOST_AFTER, FakeServer, blocking_channel

PAGE_ROWS = 10


class Rows(FakeServer):
    """One table, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[bytes, dict[str, Any]] = {}
        self.reply_rows_max = 1_000_000
        self.answer("Namespace.Stat", pb.Node(volume=1, inode=5, kind=pb.TABLE))
        self.handlers["Tables.PutMany"] = self.put_many
        self.handlers["Tables.Get"] = self.get
        self.handlers["Tables.Scan"] = self.scan

    def page(self, keys: list[bytes]) -> bytes:
        return b"".join(
            msgpack.packb(key) + msgpack.packb([1, 0, self.rows[key]])
            for key in keys
            if key in self.rows
        )

    def put_many(self, message: pb.PutManyRequest, data: bytes) -> pb.VersionReply:
        assert message.table == pb.Target(volume=1, inode=5)
        unpacker = msgpack.Unpacker()
        unpacker.feed(data)
        objects: Iterator[Any] = iter(unpacker)
        for key, columns in zip(objects, objects, strict=True):
            self.rows[key] = columns
        return pb.VersionReply(version=1)

    def get(self, message: pb.GetRequest, data: bytes) -> tuple[pb.RowsReply, bytes]:
        if len(message.keys) > self.reply_rows_max:
            raise Exhausted("too much for one reply")
        return pb.RowsReply(end=True), self.page(list(message.keys))

    def scan(self, message: pb.ScanRequest, data: bytes) -> tuple[pb.RowsReply, bytes]:
        keys = sorted(k for k in self.rows if k >= message.start)
        if message.HasField("end"):
            keys = [k for k in keys if k < message.end]
        if message.reverse:
            keys.reverse()
        count = min(message.limit or PAGE_ROWS, PAGE_ROWS)
        page, rest = keys[:count], keys[count:]
        following = b""
        if rest:
            following = page[-1] if message.reverse else page[-1] + b"\0"
        return pb.RowsReply(end=not rest, next=following), self.page(page)


@pytest.fixture
def server() -> Rows:
    return Rows()


@pytest.fixture
def table(server: Rows) -> Table:
    return Client(AsyncClient(blocking_channel(server))).table("/t")


def test_put_many_is_split_and_complete(
    server: Rows, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PUT_BYTES", 1000)
    server.fail("Tables.PutMany", LOST_AFTER)
    rows = {f"key-{n:04}": {"n": n} for n in range(500)}
    assert table.put_many(rows) == 500
    assert server.rows == {key.encode(): columns for key, columns in rows.items()}
    sizes = [len(data) for name, _, data in server.calls if name == "Tables.PutMany"]
    assert len(sizes) > 8
    assert max(sizes) < 1100


def test_put_many_takes_pairs_of_any_length(server: Rows, table: Table) -> None:
    assert table.put_many((f"k{n}", {"n": n}) for n in range(25_000)) == 25_000
    assert len(server.rows) == 25_000
    assert table.put_many([]) == 0


def test_put_many_raises_what_a_request_met(server: Rows, table: Table) -> None:
    server.fail("Tables.PutMany", Conflict("no"))
    with pytest.raises(Conflict):
        table.put_many({"a": {}})
    table.put_many({"a": {}})


def test_get_many_keeps_the_order_and_the_gaps(server: Rows, table: Table) -> None:
    table.put_many({"a": {"n": 1}, "b": {"n": 2}})
    found = table.get_many(["b", "x", b"a", "b"])
    assert [row and row.columns["n"] for row in found] == [2, None, 1, 2]
    assert table.get("x") is None


def test_get_many_asks_for_fewer_when_a_reply_cannot_hold_them(server: Rows, table: Table) -> None:
    table.put_many({f"{n:03}": {"n": n} for n in range(100)})
    server.reply_rows_max = 7
    keys = [f"{n:03}" for n in range(100)]
    assert [row and row.key for row in table.get_many(keys)] == keys
    server.reply_rows_max = 0
    with pytest.raises(Exhausted):
        table.get_many(["001"])


def test_scans(server: Rows, table: Table) -> None:
    keys = [f"{n:03}" for n in range(300)]
    server.rows = {key.encode(): {} for key in keys}
    for begin, end, prefix, limit, reverse in itertools.product(
        [None, "1", "155"],
        [None, "2", "16"],
        [None, "1", "15", "~"],
        [None, 1, 9, 10, 11, 35, 1000],
        [False, True],
    ):
        wanted = [
            key
            for key in keys
            if (begin is None or key >= begin)
            and (end is None or key < end)
            and (prefix is None or key.startswith(prefix))
        ]
        wanted = (wanted[::-1] if reverse else wanted)[:limit]
        found = table.scan(prefix, begin, end, limit=limit, reverse=reverse)
        assert [row.key for row in found] == wanted, (begin, end, prefix, limit, reverse)


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", None), (b"", None)]
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes | None) -> None:
    assert tables.prefix_end(prefix) == end


def test_a_scan_can_be_left_early(server: Rows, table: Table) -> None:
    server.rows = {b"%03d" % n: {} for n in range(100)}
    assert next(iter(table.scan())).key == "000"
    assert len(server.received("Tables.Scan")) <= 2


def test_a_table_that_is_gone_is_named_by_its_path(server: Rows, table: Table) -> None:
    for call in (lambda: table.get("a"), lambda: list(table.scan()), lambda: table.get_many(["a"])):
        server.fail("Tables.Get", NotFound("the table is gone"))
        server.fail("Tables.Scan", NotFound("the table is gone"))
        with pytest.raises(NotFound, match="path=`/t`"):
            call()
        server.faults.clear()


def test_only_tables_are_opened_as_tables(server: Rows) -> None:
    server.answer("Namespace.Stat", pb.Node(kind=pb.FILE))
    with pytest.raises(Invalid, match="path=`/f`, kind=`file`"):
        Client(AsyncClient(blocking_channel(server))).table("/f")


def test_to_arrow(server: Rows, table: Table) -> None:
    pytest.importorskip("pyarrow")
    server.rows = {b"a": {"x": 1, "m": 1}, b"b": {"y": "s", "m": 2.5}, b"c": {"x": None}}
    assert table.to_arrow().to_pydict() == {
        "key": ["a", "b", "c"],
        "x": [1, None, None],
        "m": [1.0, 2.5, None],
        "y": [None, "s", None],
    }
    assert table.to_arrow(columns=["z"], prefix="~").column_names == ["key", "z"]
    server.rows = {b"a": {"x": 1}, b"b": {"x": "s"}}
    with pytest.raises(Invalid, match="column=`x`, types=`int, str`"):
        table.to_arrow()


def test_load(server: Rows, table: Table, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PUT_ROWS", 10)
    path = tmp_path / "x.csv"
    path.write_text("k,v\n" + "".join(f"{n},{n * 2}\n" for n in range(25)))
    steps: list[int] = []
    assert table.load(path, key="k", progress=steps.append) == 25
    assert steps == [10, 10, 5]
    assert server.rows[b"24"] == {"v": 48}
