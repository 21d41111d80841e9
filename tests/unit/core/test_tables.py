"""Tables: what the model test does not reach: limits, pages, events, errors' words, the sweep."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgpack
import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Conflict, Exhausted, Invalid, NotFound
from dataplatform.base.limits import COLUMNS_MAX, PAGE_BYTES, PAGE_ENTRIES_MAX, ROW_BYTES_MAX
from dataplatform.core import expiry, rows, tables
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.core.volumes import Volume, create_volume, open_volume
from dataplatform.engine.memory import MemoryStorages
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ROOT_INODE,
    ChangeRow,
    Entry,
    Inode,
    Kind,
    VolumeSettings,
    pack_row,
)

pack: Callable[[Any], bytes] = msgpack.packb


class Table:
    """One table of a volume in memory."""

    def __init__(self, volume: Volume, clock: ManualClock, number: int) -> None:
        self.volume, self.clock, self.number = volume, clock, number

    async def run(self, work: Callable[[Unit], Awaitable[Any]]) -> Any:
        return await self.volume.run(SYSTEM, work, durable=True)

    async def put(self, key: bytes, columns: Any, **options: Any) -> Any:
        packed = columns if isinstance(columns, bytes) else pack(columns)
        return await self.run(lambda unit: tables.put(unit, self.number, key, packed, **options))

    async def put_many(self, data: bytes | list[tuple[Any, Any]], **options: Any) -> Any:
        if isinstance(data, list):
            data = b"".join(pack(part) for row in data for part in row)
        bulk = data
        return await self.run(lambda unit: tables.put_many(unit, self.number, bulk, **options))

    async def delete(self, key: bytes, *columns: str) -> Any:
        return await self.run(lambda unit: tables.delete(unit, self.number, key, columns))

    async def get(self, *wanted: bytes) -> list[Any]:
        return unpack(await tables.get_many(self.volume, self.number, wanted))

    async def scan(self, **options: Any) -> tables.Page:
        return await tables.scan(self.volume, self.number, **options)

    async def keys(self) -> list[bytes]:
        return [key for key, _ in unpack((await self.scan()).data)]

    async def statistics(self) -> tuple[int, int]:
        found = await tables.statistics(self.volume, self.number)
        return found.count, found.size_bytes

    async def events(self) -> list[Any]:
        """Of the last commit."""
        value = await self.volume.storage.engine.get(keys.change(self.volume.state.commit))
        assert value is not None
        return ChangeRow.unpack(value).events

    async def change(self, **fields: Any) -> None:
        async def work(unit: Unit) -> None:
            inode = await unit.inode(self.number)
            for name, value in fields.items():
                setattr(inode, name, value)
            unit.save(inode)

        await self.run(work)


def unpack(page: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(page)
    flat = list(unpacker)
    return list(zip(flat[::2], flat[1::2], strict=True))


@contextlib.asynccontextmanager
async def opened(ttl_ms: int = 0, quota_bytes: int = 0) -> AsyncIterator[Table]:
    clock = ManualClock()
    storage = await MemoryStorages().open(1, create=True)
    await create_volume(storage, 1, clock.now_ns(), VolumeSettings(quota_bytes=quota_bytes))
    volume = await open_volume(1, storage, clock, SeededEntropy(1))

    async def make(unit: Unit) -> int:
        number = unit.new_inode_number()
        settings = {"ttl_ms": ttl_ms} if ttl_ms else {}
        unit.save(Inode(number, Kind.TABLE, 0o644, 0, 0, parent=1, name=b"cars", settings=settings))
        unit.put(keys.entry(ROOT_INODE, b"cars"), Entry(number, Kind.TABLE).pack())
        return number

    yield Table(volume, clock, await volume.run(SYSTEM, make, durable=True))
    await volume.close()


# ---------------------------------------------------------------- rows


async def test_a_page_is_key_and_stored_row() -> None:
    async with opened() as t:
        version = await t.put(b"vin-1", {"model": "ES8", "km": 12})
        page = await tables.get_many(t.volume, t.number, [b"vin-1"])
        assert page == pack(b"vin-1") + pack_row(version, 0, pack({"model": "ES8", "km": 12}))
        assert unpack(page) == [(b"vin-1", [version, 0, {"model": "ES8", "km": 12}])]
        for length in (1, 9, 31, 255, 256, 4096):
            await t.put(b"k" * length, {})
            assert await t.get(b"k" * length) == [(b"k" * length, [version := version + 1, 0, {}])]


async def test_a_row_may_have_no_columns() -> None:
    async with opened() as t:
        await t.put(b"a", {})
        await t.put(b"b", {"x": 1})
        assert await t.delete(b"b", "x", "y") is True
        assert await t.delete(b"b", "x") is False
        assert [columns for _, (_, _, columns) in await t.get(b"a", b"b")] == [{}, {}]
        assert await t.delete(b"a") is True
        assert await t.delete(b"a") is False
        assert await t.get(b"a") == []


async def test_what_is_stored_is_canonical() -> None:
    async with opened() as t:
        twice = b"\x82\xa1x\x01\xa1x\x02"
        wide = b"\xde\x00\x01\xa1x\x01"
        wider = b"\xdf\x00\x00\x00\x01\xa1x\x01"
        for packed, columns in ((twice, {"x": 2}), (wide, {"x": 1}), (wider, {"x": 1})):
            await t.put(b"a", packed, replace=True)
            assert unpack(await tables.get_many(t.volume, t.number, [b"a"]))[0][1][2] == columns
            stored = await t.volume.storage.engine.get(keys.row(t.number, b"a"))
            assert stored is not None
            assert stored.endswith(b"\x81\xa1x" + pack(columns["x"]))
        many = {f"c{n}": n for n in range(20)}
        await t.put(b"a", many, replace=True)
        assert (await t.get(b"a"))[0][1][2] == many


NOT_A_MAP = "not one MessagePack map"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (b"", NOT_A_MAP),
        (b"\xc1", NOT_A_MAP),
        (pack({"a": 1})[:-1], NOT_A_MAP),
        (pack({"a": 1}) * 2, NOT_A_MAP),
        (b"\x81\xa1a" + b"\xa1\xff", NOT_A_MAP),
        (pack([1]), "columns are not a map"),
        ({1: 2}, NOT_A_MAP),
        ({b"a": 2}, "column's name"),
        ({"": 2}, "column's name"),
        ({"a\x00": 2}, "column's name"),
        ({"a": 2**63}, "64 bits"),
        ({"a": [{"b": 2**64 - 1}]}, "64 bits"),
        ({"a": {"b": {b"c": 1}}}, "keys are texts"),
        ({"a": msgpack.ExtType(5, b"x")}, "type=`extension`"),
        ({"a": msgpack.Timestamp(2**60, 0)}, "years 1 to 9999"),
        (b"\x81\xa1a" + b"\x91" * 65 + b"\x01", "nested too deep"),
        (b"\x81\xa1a" + b"\x91" * 1_000_000 + b"\x01", "nested too deep"),
        ({f"{n}": None for n in range(COLUMNS_MAX + 1)}, "too many columns"),
        ({"a": b"x" * ROW_BYTES_MAX}, "too large"),
    ],
)
async def test_columns_that_cannot_be(columns: Any, words: str) -> None:
    packed = columns if isinstance(columns, bytes) else pack(columns)
    async with opened() as t:
        attempts: list[Callable[[], Awaitable[Any]]] = [lambda: t.put(b"key", packed)]
        if words != NOT_A_MAP:  # in bulk, what follows could be the next row
            attempts.append(lambda: t.put_many(pack(b"key") + packed))
        for attempt in attempts:
            with pytest.raises(Invalid) as caught:
                await attempt()
            assert caught.value.facts["table"] == "/cars"
            assert caught.value.facts["key"] == b"key"
            assert words in str(caught.value)
        assert await t.statistics() == (0, 0)


async def test_rows_grow_up_to_the_limit() -> None:
    async with opened() as t:
        half = {"a": b"x" * (ROW_BYTES_MAX // 2)}
        await t.put(b"key", half)
        with pytest.raises(Invalid, match="too large"):
            await t.put(b"key", {"b": half["a"]})
        with pytest.raises(Invalid, match="too large"):
            await t.put_many([(b"key", {"b": half["a"]})])
        with pytest.raises(Invalid, match="too large"):
            await t.put_many([(b"new", half), (b"new", {"b": half["a"]})])
        await t.put(b"key", {"b": half["a"]}, replace=True)


@pytest.mark.parametrize("key", [b"", b"k" * 4097])
async def test_keys_that_cannot_be(key: bytes) -> None:
    async with opened() as t:
        for attempt in (t.put(key, {}), t.put_many([(key, {})]), t.delete(key)):
            with pytest.raises(Invalid, match="row key") as caught:
                await attempt
            assert caught.value.facts["table"] == "/cars"
        assert await t.get(key) == []  # there can be none


async def test_a_conflict_says_what_was_found() -> None:
    async with opened() as t:
        version = await t.put(b"vin-1", {}, if_version=0)
        with pytest.raises(Conflict) as caught:
            await t.put(b"vin-1", {}, if_version=0)
        assert str(caught.value) == (
            "the row has another version. "
            f"table=`/cars`, key=`vin-1`, version=`{version}`, expected=`0`"
        )


async def test_increments_keep_to_their_type() -> None:
    async with opened() as t:

        async def increment(column: str, amount: int | float) -> Any:
            return (
                await t.run(lambda unit: tables.increment(unit, t.number, b"k", column, amount))
            )[1]

        assert await increment("n", 2) == 2
        assert type(await increment("n", 3)) is int
        assert await increment("n", 0.5) == 5.5
        assert type(await increment("n", 1)) is float
        await t.put(
            b"k", {"null": None, "flag": True, "text": "", "max": 2**63 - 1, "big": 1.7e308}
        )
        assert await increment("null", 4) == 4
        for column, amount, words in (
            ("flag", 1, "not a number. .*type=`boolean`"),
            ("text", 1, "not a number"),
            ("max", 1, "beyond 64 bits"),
            ("big", 1.7e308, "beyond 64 bits"),
            ("n", float("inf"), "an increment is not a number"),
            ("n", 2**63, "64 bits"),
            ("", 1, "column's name"),
        ):
            with pytest.raises(Invalid, match=words):
                await increment(column, amount)


# ---------------------------------------------------------------- put_many


async def test_put_many_is_one_commit_and_one_event() -> None:
    async with opened() as t:
        await t.put(b"b", {"x": 1})
        version = await t.put_many([(b"c", {"n": 3}), (b"b", {"n": 2}), (b"c", {"m": 4})])
        assert await t.get(b"b", b"c") == [
            (b"b", [version, 0, {"x": 1, "n": 2}]),
            (b"c", [version, 0, {"n": 3, "m": 4}]),
        ]
        assert await t.events() == [["rows put", "/cars", "table", {"rows": 2}]]
        version = await t.put_many([(b"c", {"n": 5}), (b"c", {"o": 6})], replace=True)
        assert await t.get(b"c") == [(b"c", [version, 0, {"o": 6}])]
        assert await t.put_many([]) == 0


async def test_put_many_is_all_or_nothing() -> None:
    async with opened() as t:
        good = [(b"%06d" % n, {"n": n}) for n in range(3000)]
        data = b"".join(pack(part) for row in good for part in row)
        for tail in (
            pack(b"k"),
            pack(b"k") + b"\x01",
            b"\xc1",
            pack("k") + pack({}),
            pack(b"") * 2,
        ):
            with pytest.raises(Invalid):
                await t.put_many(data + tail)
        assert await t.statistics() == (0, 0)
        await t.put_many(data)
        assert (await t.statistics())[0] == 3000
        assert await t.keys() == [key for key, _ in good]


async def test_put_many_over_a_unit_is_refused() -> None:
    async with opened() as t:
        row = {"x": b"x" * (4_000_000)}
        with pytest.raises(Exhausted, match="split it"):
            await t.put_many([(b"%d" % n, row) for n in range(10)])
        assert await t.keys() == []


# ---------------------------------------------------------------- events, accounts


async def test_events() -> None:
    async with opened() as t:
        await t.put(b"k", {"n": 1, "m": 2})
        assert await t.events() == [["row put", "/cars", "table", {"key": b"k"}]]
        await t.run(lambda unit: tables.increment(unit, t.number, b"k", "n", 1))
        assert await t.events() == [
            ["row incremented", "/cars", "table", {"key": b"k", "column": "n"}]
        ]
        await t.delete(b"k", "m", "x")
        assert await t.events() == [
            ["columns deleted", "/cars", "table", {"key": b"k", "columns": ["m"]}]
        ]
        await t.delete(b"k")
        assert await t.events() == [["row deleted", "/cars", "table", {"key": b"k"}]]


async def test_accounts_return_to_zero() -> None:
    async with opened() as t:
        await t.put(b"k", {"n": 1})
        await t.put_many([(b"k", {"n": "longer"}), (b"l", {"n": 1})])
        await t.delete(b"k", "n")
        assert (await t.statistics())[0] == 2
        await t.delete(b"k")
        await t.delete(b"l")
        assert await t.statistics() == (0, 0)
        assert t.volume.state.used_bytes == 0


async def test_the_quota_holds() -> None:
    async with opened(quota_bytes=1000) as t:
        await t.put(b"k", {"n": b"x" * 800})
        with pytest.raises(Exhausted, match="quota"):
            await t.put_many([(b"l", {"n": b"x" * 200})])
        await t.put(b"k", {"n": b"x" * 100})
        await t.put(b"l", {"n": b"x" * 200})


# ---------------------------------------------------------------- not a table


async def test_what_is_no_table_is_refused() -> None:
    async with opened() as t:
        t.number = ROOT_INODE
        for attempt in (t.put(b"k", {}), t.put_many([(b"k", {})]), t.delete(b"k"), t.get(b"k")):
            with pytest.raises(Invalid, match=r"not a table. path=`/`"):
                await attempt
        with pytest.raises(Invalid, match="not a table"):
            await t.scan()


async def test_a_removed_table_is_gone() -> None:
    async with opened() as t:
        await t.put(b"k", {})
        await t.change(links=0)
        for attempt in (t.put(b"k", {}), t.put_many([]), t.delete(b"k"), t.get(b"k"), t.scan()):
            with pytest.raises(NotFound, match="the table is gone"):
                await attempt


# ---------------------------------------------------------------- scans


async def pages(t: Table, **options: Any) -> list[list[bytes]]:
    found = []
    reverse = options.get("reverse", False)
    while True:
        page = await t.scan(**options)
        found.append([key for key, _ in unpack(page.data)])
        if page.end:
            return found
        options["end" if reverse else "start"] = page.next


def flat(pages: list[list[bytes]]) -> list[bytes]:
    return [key for page in pages for key in page]


async def test_scans_page_by_bytes_and_by_rows() -> None:
    async with opened() as t:
        wanted = [b"%06d" % n for n in range(PAGE_ENTRIES_MAX + 500)]
        await t.put_many([(key, {}) for key in wanted])
        assert list(map(len, await pages(t))) == [PAGE_ENTRIES_MAX, 500]
        assert flat(await pages(t, reverse=True)) == wanted[::-1]
        assert list(map(len, await pages(t, end=b"000025", limit=10))) == [10, 10, 5]
        big = {"x": b"x" * (PAGE_BYTES // 4)}
        for key in wanted[:10]:
            await t.put(key, big)
        for reverse in (False, True):
            by_size = await pages(t, end=b"000010", reverse=reverse)
            assert list(map(len, by_size)) == [4, 4, 2]
            assert sorted(flat(by_size)) == wanted[:10]


async def test_scans_with_a_filter_look_on() -> None:
    async with opened() as t:
        await t.put_many([(b"%06d" % n, {"n": n}) for n in range(25_000)])
        where = "n == 7 or n == 24999"
        for columns in ([], ["n"]):
            found = await pages(t, where=where, columns=columns)
            assert flat(found) == [b"000007", b"024999"]
            assert len(found) == 3
        assert flat(await pages(t, where=where, limit=1, reverse=True)) == [b"024999", b"000007"]
        assert (await t.scan(where="n >= 10", limit=2)).next == b"000011\x00"


async def test_ranges_that_hold_nothing() -> None:
    async with opened() as t:
        await t.put(b"m", {})
        for start, end in ((b"m", b"m"), (b"z", b"a"), (b"n", None), (b"", b"")):
            assert await t.scan(start=start, end=end) == (b"", True, b"")
        assert (await t.scan(start=b"m", end=b"m\x00")).end is True
        with pytest.raises(Invalid, match="filter"):
            await t.scan(where="km >")


async def test_get_many_is_bounded() -> None:
    async with opened() as t:
        with pytest.raises(Invalid, match="too many keys"):
            await t.get(*[b"k"] * (PAGE_ENTRIES_MAX + 1))
        await t.put(b"big", {"x": b"x" * 4_000_000})
        assert len(await t.get(b"big", b"big", b"other")) == 2
        with pytest.raises(Exhausted, match="ask for fewer"):
            await t.get(*[b"big"] * 4)


# ---------------------------------------------------------------- time to live


async def test_expired_rows_are_in_nobodys_sight() -> None:
    async with opened(ttl_ms=1000) as t:
        version = await t.put(b"a", {"n": 1})
        assert (await t.get(b"a"))[0][1][1] == t.clock.now_ns() // 1_000_000 + 1000
        t.clock.advance(0.999)
        assert await t.keys() == [b"a"]
        t.clock.advance(0.001)
        assert await t.keys() == await t.get(b"a") == []
        assert (await t.scan(where="n == 1")).data == b""
        with pytest.raises(Conflict):
            await t.put(b"a", {}, if_version=version)
        assert await t.delete(b"a") is False
        await t.put(b"a", {"m": 2}, if_version=0)
        assert (await t.get(b"a"))[0][1][2] == {"m": 2}
        assert (await t.statistics())[0] == 1


async def test_every_write_starts_the_time_to_live_again() -> None:
    async with opened(ttl_ms=1000) as t:
        await t.put(b"a", {"n": 1, "m": 1})
        writes: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: t.put(b"a", {"x": 1}),
            lambda: t.put_many([(b"a", {"x": 2})]),
            lambda: t.delete(b"a", "m"),
            lambda: t.run(lambda unit: tables.increment(unit, t.number, b"a", "n", 1)),
        )
        for write in writes:
            t.clock.advance(0.6)
            await write()
        t.clock.advance(0.6)
        assert (await t.get(b"a"))[0][1][2] == {"n": 2, "x": 2}


async def test_the_sweep_removes_what_expired_and_nothing_else() -> None:
    async with opened(ttl_ms=60_000) as t:
        await t.put_many([(b"old-%05d" % n, {"n": n}) for n in range(2500)])
        assert await expiry.run_once(t.volume) == 0
        t.clock.advance(50)
        await t.put_many([(b"new-%05d" % n, {"n": n}) for n in range(1500)])
        await t.put(b"old-00000", {"again": True})
        t.clock.advance(10)
        assert await expiry.run_once(t.volume) == 2499
        assert (await t.statistics())[0] == 1501
        assert (await t.events()) == [["rows expired", "/cars", "table", {"rows": 1000}]]
        assert len(await t.keys()) == 1501
        assert await expiry.run_once(t.volume) == 0
        t.clock.advance(50)
        assert await expiry.run_once(t.volume) == 1501
        assert await t.statistics() == (0, 0)


async def test_the_sweep_is_bounded_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "ROWS_PER_RUN", 2000)
    async with opened(ttl_ms=1000) as t:
        await t.put_many([(b"%05d" % n, {}) for n in range(5000)])
        t.clock.advance(1)
        assert [await expiry.run_once(t.volume) for _ in range(4)] == [2000, 2000, 1000, 0]


async def test_the_sweep_rests_until_something_can_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = 0
    async with opened(ttl_ms=1000) as t:
        original = t.volume.storage.engine.scan

        async def scan(start: bytes, end: bytes, **options: Any) -> Any:
            nonlocal scans
            scans += start.startswith(keys.ROW)
            return await original(start, end, **options)

        monkeypatch.setattr(t.volume.storage.engine, "scan", scan)
        await t.put(b"a", {})
        await expiry.run_once(t.volume)
        looked = scans
        assert looked
        for _ in range(5):
            t.clock.advance(0.1)
            await expiry.run_once(t.volume)
        assert scans == looked
        t.clock.advance(0.5)
        assert await expiry.run_once(t.volume) == 1
        looked = scans
        await t.change(settings={"ttl_ms": 0})
        await t.put(b"b", {})
        assert await expiry.run_once(t.volume) == 0
        assert scans > looked
        looked = scans
        t.clock.advance(1e6)
        assert await expiry.run_once(t.volume) == 0
        assert scans == looked
        assert await t.keys() == [b"b"]


async def test_a_row_put_again_while_the_sweep_runs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(ttl_ms=1000) as t:
        await t.put_many([(b"a", {}), (b"b", {})])
        t.clock.advance(1)
        original = t.volume.run

        async def run(*args: Any, **options: Any) -> Any:
            monkeypatch.undo()
            await t.put(b"a", {"again": True})
            return await original(*args, **options)

        monkeypatch.setattr(t.volume, "run", run)
        assert await expiry.run_once(t.volume) == 1
        assert await t.keys() == [b"a"]


# ---------------------------------------------------------------- anything at all


def test_any_bytes_are_columns_or_invalid(seed: int) -> None:
    rng = random.Random(seed)
    values: list[Any] = [None, True, -1, 2**40, 1.5, "text", b"bytes", [1, [2]], {"a": {"b": 1}}]
    values += [msgpack.Timestamp(1, 2), msgpack.ExtType(1, b"x")]
    for _ in range(5000):
        packed = bytearray(pack({rng.choice("abcd"): rng.choice(values) for _ in range(3)}))
        for _ in range(rng.randrange(3)):
            packed[rng.randrange(len(packed))] = rng.randrange(256)
        if rng.random() < 0.2:
            del packed[rng.randrange(len(packed)) :]
        try:
            columns = rows.unpack_columns(bytes(packed))
        except Invalid:
            continue
        stored = pack_row(1, 0, rows.canonical(bytes(packed), columns))
        assert pack(rows.columns_of(stored)) == pack(columns)
