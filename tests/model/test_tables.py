"""Tables beside a plain dict: random operations, step by step, errors, expiry and reopening too.

`--seed N` repeats a run. What the model knows of a row is (version, expires_ms, columns).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Conflict, Invalid, PlatformError
from dataplatform.core import expiry, filters, tables
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume, create_volume, open_volume
from dataplatform.engine.base import Storages, scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_INODE, Entry, Inode, Kind, VolumeSettings
from tests.principals import admin

Row = tuple[int, int, dict[str, Any]]
VOLUME = 1


async def memory(path: Path) -> Storages:
    from dataplatform.engine.memory import MemoryStorages

    return MemoryStorages()


async def rocks(path: Path) -> Storages:
    from dataplatform.engine.rocks import RocksStorages

    return await RocksStorages.at(path)


async def slate(path: Path) -> Storages:
    from dataplatform.engine.slate import SlateStorages

    return await SlateStorages.at(path.as_uri())


ENGINES = {"memory": (memory, 10_000), "rocks": (rocks, 5000), "slate": (slate, 1500)}

KEYS = [b"a", b"b", b"ab", b"\x00", b"\xff\xff", b"vin-1", b"vin-2", b"k" * 300, "ö".encode()]
NAMES = ["km", "model", "tags", "größe", "a.b"]
WHERES: dict[str, Callable[[bytes, dict[str, Any]], bool]] = {
    "km > 10": lambda k, c: type(c.get("km")) in (int, float) and c["km"] > 10,
    "model == 'ES8' or km is null": lambda k, c: c.get("model") == "ES8" or c.get("km") is None,
    "_key >= 'b' and not km in [1, 2]": lambda k, c: (
        k >= b"b" and not (type(c.get("km")) in (int, float) and c["km"] in (1, 2))
    ),
}


class Walk:
    """One random run of one engine against the model."""

    def __init__(self, rng: random.Random, storages: Storages) -> None:
        self.rng = rng
        self.storages = storages
        self.clock = ManualClock()
        self.rows: dict[bytes, Row] = {}
        self.ttl_ms = 0
        self.sequence = 0
        self.session = rng.randbytes(16)
        self.volume: Volume
        self.table = 0

    # ---- the volume

    async def start(self) -> None:
        storage = await self.storages.open(VOLUME, create=True)
        await create_volume(storage, VOLUME, self.clock.now_ns(), VolumeSettings())
        self.volume = await open_volume(VOLUME, storage, self.clock, SeededEntropy(1))
        self.table = await self.run(self._make_table)

    async def _make_table(self, unit: Unit) -> int:
        number = unit.new_inode_number()
        unit.save(Inode(number, Kind.TABLE, 0o644, 0, 0, parent=ROOT_INODE, name=b"t", settings={}))
        unit.put(keys.entry(ROOT_INODE, b"t"), Entry(number, Kind.TABLE).pack())
        return number

    async def reopen(self) -> None:
        await self.volume.close()
        storage = await self.storages.open(VOLUME)
        self.volume = await open_volume(VOLUME, storage, self.clock, SeededEntropy(1))

    async def run(self, work: Callable[[Unit], Awaitable[Any]]) -> Any:
        """One unit; now and then the request is repeated, as after a lost reply."""
        self.sequence += 1
        request = Request(admin("ana"), self.session, 0, self.sequence)
        result = await self.volume.run(request, work, durable=self.rng.random() < 0.1)
        if self.rng.random() < 0.1:
            commit = self.volume.state.commit
            again = await self.volume.run(request, work, durable=False)
            if self.volume.state.commit != commit:
                raise AssertionError("a retry changed something")
            if result:  # what changed nothing is not kept, and is done again
                assert msgpack.packb(again) == msgpack.packb(result)
        return result

    # ---- the model

    @property
    def now_ms(self) -> int:
        return self.clock.now_ns() // 1_000_000

    def find(self, key: bytes) -> Row | None:
        row = self.rows.get(key)
        return row if row is not None and (not row[1] or row[1] > self.now_ms) else None

    def seen(self) -> dict[bytes, Row]:
        return {k: r for k in sorted(self.rows) if (r := self.find(k)) is not None}

    def store(self, key: bytes, columns: dict[str, Any], version: int) -> None:
        self.rows[key] = (version, self.now_ms + self.ttl_ms if self.ttl_ms else 0, columns)

    def version(self, key: bytes) -> int:
        row = self.find(key)
        return row[0] if row else 0

    # ---- random things

    def key(self) -> bytes:
        return self.rng.choice(KEYS)

    def value(self, depth: int = 0) -> Any:
        values: list[Any] = [None, True, False, 0, 1, 12, -(2**63), 2**63 - 1, 2**40, 1.5]
        values += ["", "ES8", "ö" * 20, b"\x00\xff", msgpack.Timestamp(5, 6)]
        if depth < 3 and self.rng.random() < 0.2:
            if self.rng.random() < 0.5:
                return [self.value(depth + 1) for _ in range(self.rng.randrange(4))]
            return {n: self.value(depth + 1) for n in self.rng.sample(NAMES, 2)}
        return self.rng.choice(values)

    def columns(self) -> dict[str, Any]:
        names = self.rng.sample(NAMES, self.rng.randrange(len(NAMES)))
        return {name: self.value() for name in names}

    # ---- steps

    async def put(self) -> None:
        key, columns, replace = self.key(), self.columns(), self.rng.random() < 0.3
        wanted = self.rng.choice([None, None, 0, self.version(key), 1])
        version = self.volume.state.commit + 1
        packed = msgpack.packb(columns)

        async def work(unit: Unit) -> int:
            return await tables.put(
                unit, self.table, key, packed, if_version=wanted, replace=replace
            )

        if wanted is not None and wanted != self.version(key):
            error = await self.refused(Conflict, work)
            assert error.facts["table"] == "/t"
            assert error.facts["key"] == key
            assert error.facts["version"] == self.version(key)
            assert error.facts["expected"] == wanted
            return
        assert await self.run(work) == version
        old = self.find(key)
        self.store(key, {**old[2], **columns} if old and not replace else columns, version)

    async def put_many(self) -> None:
        pairs = [(self.key(), self.columns()) for _ in range(self.rng.randrange(12))]
        replace = self.rng.random() < 0.3
        data = b"".join(msgpack.packb(k) + msgpack.packb(c) for k, c in pairs)
        version = self.volume.state.commit + 1

        async def work(unit: Unit) -> int:
            return await tables.put_many(unit, self.table, data, replace=replace)

        assert await self.run(work) == (version if pairs else 0)
        for key, columns in pairs:
            old = self.find(key)
            self.store(key, {**old[2], **columns} if old and not replace else columns, version)

    async def delete(self) -> None:
        key, columns = self.key(), self.rng.choice([[], [], ["km"], ["model", "tags", "model"]])
        wanted = self.rng.choice([None, None, self.version(key), 3])
        version = self.volume.state.commit + 1

        async def work(unit: Unit) -> bool:
            return await tables.delete(unit, self.table, key, columns, if_version=wanted)

        if wanted is not None and wanted != self.version(key):
            await self.refused(Conflict, work)
            return
        old = self.find(key)
        existed = old is not None and (not columns or any(c in old[2] for c in columns))
        assert await self.run(work) is existed
        if old is not None and existed and columns:
            self.store(key, {n: v for n, v in old[2].items() if n not in columns}, version)
        elif existed:
            del self.rows[key]

    async def increment(self) -> None:
        key, column = self.key(), self.rng.choice(NAMES)
        amount: int | float = self.rng.choice([1, -5, 2**62, 0.5, -1e300])
        version = self.volume.state.commit + 1

        async def work(unit: Unit) -> Any:
            return await tables.increment(unit, self.table, key, column, amount)

        old = self.find(key)
        columns = dict(old[2]) if old else {}
        value = columns.get(column)
        total = amount + (0 if value is None else value) if _is_number(value) else None
        if total is None or (type(total) is int and not -(2**63) <= total < 2**63):
            error = await self.refused(Invalid, work)
            assert error.facts["column"] == column
            return
        assert list(await self.run(work)) == [version, total]
        self.store(key, {**columns, column: total}, version)

    async def several(self) -> None:
        """A transaction: two puts and an increment, of which the last may fail."""
        first, second = self.key(), self.key()
        version = self.volume.state.commit + 1
        fails = self.rng.random() < 0.5

        async def work(unit: Unit) -> int:
            await tables.put(unit, self.table, first, msgpack.packb({"km": 1}), replace=True)
            await tables.delete(unit, self.table, second)
            await tables.increment(unit, self.table, second, "km", 2)
            await tables.expect_version(unit, self.table, second, 1 if fails else unit.commit)
            return unit.commit

        if fails:
            await self.refused(Conflict, work)
            return
        assert await self.run(work) == version
        self.store(first, {"km": 1}, version)
        self.store(second, {"km": 2}, version)

    async def wrong(self) -> None:
        """Requests that are refused and change nothing."""
        key = self.key()
        good = msgpack.packb({"km": 1})
        unreadable = [b"", b"\xc1", b"\x01", good + good, good[:-1], b"\x81\xa1\xff\x01"]
        bad = self.rng.choice([*unreadable, msgpack.packb({"": 1})])
        tails = [msgpack.packb(key), msgpack.packb("text") + good, msgpack.packb(b"") + good]
        bulk = msgpack.packb(key) + good + self.rng.choice([*tails, b"\xc1", b"\x01"])
        works: list[Callable[[Unit], Awaitable[Any]]] = [
            lambda unit: tables.put(unit, self.table, key, bad),
            lambda unit: tables.put(unit, self.table, b"", good),
            lambda unit: tables.put(unit, self.table, b"k" * 4097, good),
            lambda unit: tables.put_many(unit, self.table, bulk),
            lambda unit: tables.put(unit, ROOT_INODE, key, good),
            lambda unit: tables.delete(unit, self.table, b""),
            lambda unit: tables.increment(unit, self.table, key, "a\x00b", 1),
            lambda unit: tables.increment(unit, self.table, key, "km", float("nan")),
        ]
        await self.refused(Invalid, self.rng.choice(works))

    async def refused(
        self, kind: type[PlatformError], work: Callable[[Unit], Awaitable[Any]]
    ) -> PlatformError:
        commit = self.volume.state.commit
        with pytest.raises(kind) as caught:
            await self.run(work)
        assert self.volume.state.commit == commit
        return caught.value

    async def get_many(self) -> None:
        wanted = [self.key() for _ in range(self.rng.randrange(6))] + [b"", b"k" * 4097]
        columns = self.rng.choice([[], ["km"], ["model", "missing", "km"]])
        page = await tables.get_many(self.volume, self.table, wanted, columns)
        assert _unpack(page) == _expected(
            [(k, row) for k in wanted if (row := self.find(k)) is not None], columns
        )

    async def scan(self) -> None:
        start, end = self.rng.choice([b"", self.key()]), self.rng.choice([None, self.key()])
        columns = self.rng.choice([[], [], ["km"], ["model", "missing", "km"]])
        where = self.rng.choice(["", "", *WHERES])
        limit, reverse = self.rng.choice([0, 0, 1, 3]), self.rng.random() < 0.4
        expected = [
            (k, row)
            for k, row in self.seen().items()
            if start <= k and (end is None or k < end) and (not where or WHERES[where](k, row[2]))
        ]
        if reverse:
            expected.reverse()
        found: list[Any] = []
        while True:
            page = await tables.scan(
                self.volume,
                self.table,
                start=start,
                end=end,
                columns=columns,
                where=where,
                limit=limit,
                reverse=reverse,
            )
            rows = _unpack(page.data)
            assert not limit or len(rows) <= limit
            found += rows
            if page.end:
                break
            if reverse:
                end = page.next
            else:
                start = page.next
        assert found == _expected(expected, columns)

    async def wait(self) -> None:
        self.clock.advance(self.rng.choice([0.001, 1, 10, 60]))

    async def set_ttl(self) -> None:
        self.ttl_ms = self.rng.choice([0, 1, 5000, 60_000])

        async def work(unit: Unit) -> None:
            inode = await unit.inode(self.table)
            inode.settings = {**inode.settings, "ttl_ms": self.ttl_ms}
            unit.save(inode)

        await self.run(work)

    async def sweep(self) -> None:
        """Once everything that may wait has waited, nothing expired is left."""
        expired = [k for k in self.rows if self.find(k) is None]
        removed = await expiry.run_once(self.volume)
        assert removed <= len(expired)
        if self.rng.random() < 0.3:
            self.clock.advance(1_000_000)
            expired = [k for k in self.rows if self.find(k) is None]
            await expiry.run_once(self.volume)
            stored = {keys.name_of(k) for k, _ in await self.stored()}
            assert not stored & set(expired)
            for key in expired:
                del self.rows[key]

    async def stored(self) -> list[tuple[bytes, bytes]]:
        start, end = keys.prefix_range(keys.rows(self.table))
        return [pair async for pair in scan_all(self.volume.storage.engine, start, end)]

    async def check(self) -> None:
        """All rows, and the accounts."""
        page = await tables.scan(self.volume, self.table)
        assert page.end
        assert _unpack(page.data) == _expected(list(self.seen().items()), [])
        stored = await self.stored()
        account = await tables.statistics(self.volume, self.table)
        assert account.count == len(stored)
        assert account.size_bytes == sum(len(keys.name_of(k)) + len(v) for k, v in stored)
        assert self.volume.state.used_bytes == account.size_bytes


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)


def _unpack(page: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker(strict_map_key=True)
    unpacker.feed(page)
    flat = list(unpacker)
    return list(zip(flat[::2], flat[1::2], strict=True))


def _expected(rows: list[tuple[bytes, Row]], columns: list[str]) -> list[Any]:
    return [
        (key, [version, expires_ms, _only(values, columns)])
        for key, (version, expires_ms, values) in rows
    ]


def _only(values: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    return {n: values[n] for n in columns if n in values} if columns else values


@pytest.mark.parametrize("engine", ENGINES)
async def test_random_operations(engine: str, tmp_path: Path, seed: int) -> None:
    make, steps = ENGINES[engine]
    rng = random.Random(f"{seed} {engine}")
    storages = await make(tmp_path)
    walk = Walk(rng, storages)
    await walk.start()
    weighted = {
        walk.put: 20,
        walk.put_many: 8,
        walk.delete: 10,
        walk.increment: 10,
        walk.several: 3,
        walk.wrong: 5,
        walk.get_many: 10,
        walk.scan: 15,
        walk.wait: 4,
        walk.set_ttl: 1,
        walk.sweep: 1,
        walk.reopen: 0.2,
        walk.check: 3,
    }
    for number in range(steps):
        step = rng.choices(list(weighted), list(weighted.values()))[0]
        try:
            await step()
        except BaseException as error:
            error.add_note(f"step {number}: {step.__name__}")
            raise
    await walk.check()
    await walk.volume.close()
    await storages.close()


def test_the_model_of_the_filters_is_the_language() -> None:
    for where, test in WHERES.items():
        assert filters.parse(where)(b"z", {"km": 11}) == test(b"z", {"km": 11})
