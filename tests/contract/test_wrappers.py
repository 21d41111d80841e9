"""The wrappers keep the contracts of what they wrap; faults come when and only when planned."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dataplatform.base.errors import Corrupt, Exhausted, PlatformError, Unavailable
from dataplatform.engine.base import Engine, SegmentStore, Storages
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.engine.rocks import RocksStorages
from dataplatform.engine.slate import SlateStorages
from dataplatform.engine.stores import open_storages
from dataplatform.engine.wrappers import (
    CountingEngine,
    CountingSegments,
    CountingStorages,
    Faults,
    FaultyStorages,
)

from .clones import ClonesContract
from .engine import END, START, EngineContract, everything, expect_broken
from .segments import SegmentsContract
from .storages import Harness, StoragesContract
from .test_memory import MemoryHarness


class FaultyHarness(MemoryHarness):
    async def storages(self, tmp_path: Path) -> Storages:
        return FaultyStorages(await super().storages(tmp_path), Faults())


class CountingHarness(Harness):
    async def storages(self, tmp_path: Path) -> Storages:
        size = SegmentsContract.small_segment_bytes
        inner = await RocksStorages.at(tmp_path / "data", segment_bytes=size)
        return CountingStorages(inner)

    def fail(self, opened: Engine | SegmentStore, error: PlatformError) -> None:
        assert isinstance(opened, CountingEngine | CountingSegments)
        wrapped = opened._engine if isinstance(opened, CountingEngine) else opened._segments
        super().fail(wrapped, error)


class TestFaultyEngine(FaultyHarness, EngineContract):
    pass


class TestFaultySegments(FaultyHarness, SegmentsContract):
    pass


class TestFaultyClones(FaultyHarness, ClonesContract):
    pass


class TestCountingClones(CountingHarness, ClonesContract):
    pass


class TestFaultyStorages(FaultyHarness, StoragesContract):
    def write_format(self, tmp_path: Path, text: str | None) -> bool:
        return False


class TestCountingEngine(CountingHarness, EngineContract):
    pass


class TestCountingSegments(CountingHarness, SegmentsContract):
    pass


async def test_the_nth_commit_fails_and_breaks_the_engine() -> None:
    faults = Faults()
    storages = FaultyStorages(MemoryStorages(), faults)
    engine, _ = await storages.open(1, create=True)
    faults.fail("commit", Exhausted("disk is full"), nth=2)
    good = await engine.commit({b"a": b"1"})
    await engine.durable(good)
    with pytest.raises(Exhausted):
        await engine.commit({b"b": b"1"})
    await expect_broken(engine, good)


@pytest.mark.parametrize("after", [False, True])
async def test_a_failed_sync_fails_all_who_wait(after: bool) -> None:
    faults = Faults()
    inner = MemoryStorages()
    engine, segments = await FaultyStorages(inner, faults).open(1, create=True)
    faults.fail("sync", Unavailable("disk gone"), after=after)
    tickets = [await engine.commit({b"%d" % i: b"1"}) for i in range(3)]
    results = await asyncio.gather(*map(engine.durable, tickets), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert faults.calls["sync"] == 1
    await expect_broken(engine, tickets[0])
    assert faults.calls["sync"] == 1
    inner.crash()
    engine, segments = await inner.open(1)
    assert len(await everything(engine)) == (3 if after else 0)
    assert await segments.sizes() == {}


async def test_a_failed_segment_sync_breaks_the_segments() -> None:
    faults = Faults()
    _, segments = await FaultyStorages(MemoryStorages(), faults).open(1, create=True)
    await segments.append(b"x")
    faults.fail("segment_sync", Exhausted("disk is full"))
    with pytest.raises(Exhausted):
        await segments.sync()
    for call in (segments.sync(), segments.append(b"y"), segments.seal()):
        with pytest.raises(Unavailable):
            await call


async def test_a_full_disk_can_be_freed() -> None:
    faults = Faults()
    storages = FaultyStorages(MemoryStorages(), faults)
    engine, segments = await storages.open(1, create=True)
    faults.full()
    for _ in range(2):
        with pytest.raises(Exhausted):
            await segments.append(b"x")
        with pytest.raises(Exhausted):
            await engine.commit({b"a": b"1"})
    assert not engine.broken
    assert await engine.get(b"a") is None
    faults.clear()
    await segments.append(b"x")
    await segments.sync()
    await engine.durable(await engine.commit({b"a": b"1"}))


async def test_held_syncs_acknowledge_nothing_until_released() -> None:
    faults = Faults()
    inner = MemoryStorages()
    engine, _ = await FaultyStorages(inner, faults).open(1, create=True)
    hold = faults.hold("sync")
    waiting = asyncio.ensure_future(engine.durable(await engine.commit({b"a": b"1"})))
    await hold.reached.wait()
    assert await engine.get(b"a") == b"1"  # visible, not durable
    assert not waiting.done()
    inner.crash()
    hold.release()
    with pytest.raises(Unavailable):
        await waiting


async def test_delays_use_the_sleep_that_was_handed_in() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    faults = Faults(sleep=sleep)
    engine, _ = await FaultyStorages(MemoryStorages(), faults).open(1, create=True)
    faults.delay("get", 3.5, nth=2, times=None)
    for _ in range(3):
        await engine.get(b"a")
    assert slept == [3.5, 3.5]


async def test_flipped_bits() -> None:
    faults = Faults()
    engine, segments = await FaultyStorages(MemoryStorages(), faults).open(1, create=True)
    await engine.commit({b"a": b"value", b"b": b""})
    where = await segments.append(b"bytes")
    for operation in ("get", "get_many", "scan", "read"):
        faults.flip(operation)
    found = [
        await engine.get(b"a"),
        (await engine.get_many([b"a"]))[0],
        (await engine.scan(b"a", b"b"))[0][1],
        await segments.read(where),
    ]
    for data, right in zip(found, [b"value"] * 3 + [b"bytes"], strict=True):
        assert data is not None
        assert len(data) == 5
        assert sum((x ^ y).bit_count() for x, y in zip(data, right, strict=True)) == 1
    assert await engine.scan(START, END) == [(b"a", b"value"), (b"b", b"")]
    assert await segments.read(where) == b"bytes"


async def test_counting() -> None:
    times = iter(range(1000))
    storages = CountingStorages(MemoryStorages(MemoryDisk()), now=lambda: float(next(times)))
    engine, segments = await storages.open(1, create=True)
    await engine.durable(await engine.commit({b"key": b"value", b"gone": None}))
    await engine.get(b"key")
    view = await engine.view()
    await view.scan(START, END)
    where = await segments.append(b"12345")
    with pytest.raises(Corrupt):
        await segments.read(where._replace(length=6))
    counted = storages.snapshot()
    assert counted["commit"] == {
        "calls": 1,
        "errors": 0,
        "seconds": 1.0,
        "seconds_max": 1.0,
        "size_bytes": 12,
    }
    assert counted["sync"]["calls"] == 1
    assert counted["get"]["size_bytes"] == 5
    assert counted["scan"]["size_bytes"] == 8
    assert counted["append"]["size_bytes"] == 5
    assert counted["read"]["errors"] == 1
    await storages.close()


async def test_a_place_chooses_its_engine(tmp_path: Path) -> None:
    for place, kind in (
        (tmp_path / "data", RocksStorages),
        (str(tmp_path / "data"), RocksStorages),
        (f"file://{tmp_path}/store", SlateStorages),
        ("memory:///", SlateStorages),
    ):
        storages = await open_storages(place)
        assert isinstance(storages, kind)
        await storages.close()
