"""The engine in memory: the contracts, and what a simulated power cut leaves."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dataplatform.base.errors import Unavailable
from dataplatform.engine.base import Storages
from dataplatform.engine.memory import MemoryDisk, MemoryStorages

from .clones import ClonesContract
from .engine import END, START, EngineContract, everything
from .segments import SegmentsContract
from .storages import Harness, StoragesContract


class MemoryHarness(Harness):
    _disks: dict[Path, MemoryDisk]

    async def storages(self, tmp_path: Path) -> Storages:
        disks = self.__dict__.setdefault("_disks", {})
        disk = disks.setdefault(tmp_path, MemoryDisk())
        return MemoryStorages(disk, segment_bytes=SegmentsContract.small_segment_bytes)


class TestMemoryEngine(MemoryHarness, EngineContract):
    pass


class TestMemorySegments(MemoryHarness, SegmentsContract):
    pass


class TestMemoryClones(MemoryHarness, ClonesContract):
    pass


class TestMemoryStorages(MemoryHarness, StoragesContract):
    def write_format(self, tmp_path: Path, text: str | None) -> bool:
        return False


async def test_a_crash_keeps_what_was_durable_and_nothing_else() -> None:
    storages = MemoryStorages()
    engine, segments = await storages.open(1, create=True)
    await engine.durable(await engine.commit({b"a": b"1"}))
    lost = await engine.commit({b"a": b"2", b"b": b"2"})
    kept = await segments.append(b"kept")
    await segments.sync()
    torn = await segments.append(b"torn")
    storages.crash()
    for call in (engine.get(b"a"), engine.commit({}), engine.durable(lost), segments.read(kept)):
        with pytest.raises(Unavailable):
            await call
    engine, segments = await storages.open(1)
    assert await engine.scan(START, END) == [(b"a", b"1")]
    assert await segments.sizes() == {kept.segment: 4}
    assert await segments.read(kept) == b"kept"
    assert (await segments.append(b"x")).segment > torn.segment


async def test_a_segment_that_was_never_synced_vanishes() -> None:
    storages = MemoryStorages()
    _, segments = await storages.open(1, create=True)
    await segments.append(b"x")
    storages.crash()
    _, segments = await storages.open(1)
    assert await segments.sizes() == {}


async def test_a_seeded_crash_keeps_a_prefix_at_or_beyond_the_durable(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        storages = MemoryStorages()
        engine, segments = await storages.open(1, create=True)
        states: list[dict[bytes, bytes]] = [{}]
        durable = 0
        for i in range(rng.randint(0, 10)):
            ticket = await engine.commit({b"%d" % rng.randrange(3): b"%d" % i})
            states.append(await everything(engine))
            if rng.random() < 0.2:
                await engine.durable(ticket)
                durable = len(states) - 1
        await segments.append(b"s" * 100)
        await segments.sync()
        await segments.append(b"u" * 100)
        storages.crash(rng)
        engine, segments = await storages.open(1)
        survived = await everything(engine)
        assert survived in states[durable:]
        (size,) = (await segments.sizes()).values()
        assert 100 <= size <= 200


async def test_one_seed_gives_one_run(seed: int) -> None:
    async def run() -> object:
        rng = random.Random(seed)
        storages = MemoryStorages()
        engine, segments = await storages.open(1, create=True)
        for i in range(20):
            await engine.commit({b"%d" % i: b"v"})
            await segments.append(rng.randbytes(50))
        storages.crash(rng)
        engine, segments = await storages.open(1)
        return await everything(engine), await segments.sizes()

    assert await run() == await run()
