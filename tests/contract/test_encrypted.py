"""The contracts of engine and segments, kept by an encrypted storage, and what only it does."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from dataplatform.base.errors import Corrupt, PlatformError
from dataplatform.base.limits import KIB, MIB
from dataplatform.engine.base import Engine, Location, Room, SegmentStore, Storage, Storages
from dataplatform.engine.ciphers import OVERHEAD_BYTES, Keyring
from dataplatform.engine.encrypted import EncryptedEngine, EncryptedSegments, encrypted
from dataplatform.engine.memory import MemoryStorages
from dataplatform.engine.rocks import RocksStorages
from dataplatform.keyspace.keys import SETTINGS_KEY

from .clones import ClonesContract
from .engine import END, START, EngineContract, everything
from .segments import SegmentsContract
from .storages import VOLUME, Harness, close
from .test_memory import MemoryHarness

KEYS = {1: b"1" * 32, 2: b"2" * 32}


def keyring(current: int = 1) -> Keyring:
    return Keyring(KEYS, current, os.urandom(12))


class EncryptedStorages(Storages):
    """All volumes with the same keys: the platform wraps each volume on its own."""

    def __init__(self, storages: Storages) -> None:
        self.kind = storages.kind
        self._storages = storages

    async def volumes(self) -> list[int]:
        return await self._storages.volumes()

    async def open(self, volume: int, *, create: bool = False, briefly: bool = False) -> Storage:
        opened = await self._storages.open(volume, create=create, briefly=briefly)
        return encrypted(opened, keyring())

    async def remove(self, volume: int) -> None:
        await self._storages.remove(volume)

    async def clone(self, source: int, checkpoint: str, target: int) -> None:
        await self._storages.clone(source, checkpoint, target)

    async def replace(self, volume: int, other: int) -> None:
        await self._storages.replace(volume, other)

    def room(self) -> Room | None:
        return self._storages.room()

    async def close(self) -> None:
        await self._storages.close()


class EncryptedHarness(Harness):
    def fail(self, opened: Engine | SegmentStore, error: PlatformError) -> None:
        assert isinstance(opened, EncryptedEngine | EncryptedSegments)
        wrapped = opened._engine if isinstance(opened, EncryptedEngine) else opened._segments
        super().fail(wrapped, error)


class EncryptedMemory(EncryptedHarness, MemoryHarness):
    async def storages(self, tmp_path: Path) -> Storages:
        return EncryptedStorages(await super().storages(tmp_path))


class EncryptedRocks(EncryptedHarness):
    async def storages(self, tmp_path: Path) -> Storages:
        size = SegmentsContract.small_segment_bytes
        return EncryptedStorages(await RocksStorages.at(tmp_path / "data", segment_bytes=size))


class TestEncryptedMemoryEngine(EncryptedMemory, EngineContract):
    pass


class TestEncryptedRocksEngine(EncryptedRocks, EngineContract):
    pass


class TestEncryptedMemoryClones(EncryptedMemory, ClonesContract):
    pass


class TestEncryptedRocksClones(EncryptedRocks, ClonesContract):
    pass


class TestEncryptedMemorySegments(EncryptedMemory, SegmentsContract):
    overhead_bytes = OVERHEAD_BYTES


class TestEncryptedRocksSegments(EncryptedRocks, SegmentsContract):
    overhead_bytes = OVERHEAD_BYTES


async def test_values_are_bound_to_their_keys() -> None:
    inner = (await MemoryStorages().open(VOLUME, create=True)).engine
    engine = EncryptedEngine(inner, keyring().values)
    await engine.commit({b"a": b"value", b"b": b"other", SETTINGS_KEY: b"plain"})
    stored = await inner.get(b"a")
    assert stored is not None
    assert b"value" not in stored
    assert len(stored) == len(b"value") + OVERHEAD_BYTES
    assert await inner.get(SETTINGS_KEY) == b"plain" == await engine.get(SETTINGS_KEY)
    await inner.commit({b"b": stored})
    with pytest.raises(Corrupt):
        await engine.get(b"b")
    for plain in (b"", b"x", b"value"):  # nothing is taken for an encrypted value that is none
        await inner.commit({b"a": plain})
        with pytest.raises(Corrupt):
            await engine.get(b"a")


async def test_every_flipped_bit_of_a_value_is_noticed() -> None:
    inner = (await MemoryStorages().open(VOLUME, create=True)).engine
    engine = EncryptedEngine(inner, keyring().values)
    await engine.commit({b"a": b"value"})
    stored = await inner.get(b"a")
    assert stored is not None
    for bit in range(len(stored) * 8):
        damaged = bytearray(stored)
        damaged[bit // 8] ^= 1 << bit % 8
        await inner.commit({b"a": bytes(damaged)})
        with pytest.raises(Corrupt):
            await engine.get(b"a")
        with pytest.raises(Corrupt):
            await engine.scan(START, END)


async def test_extents_are_bound_to_their_places() -> None:
    inner = (await MemoryStorages().open(VOLUME, create=True)).segments
    segments = EncryptedSegments(inner, keyring().extents)
    first, second = await segments.append(b"first"), await segments.append(b"other")
    moved = await inner.append(await inner.read(first))
    assert await segments.read(second) == b"other"
    with pytest.raises(Corrupt):
        await segments.read(moved)
    with pytest.raises(Corrupt):
        await segments.read(Location(first.segment, first.offset, first.length - 1))


@pytest.mark.parametrize("size", [1, 127 * KIB, 128 * KIB, 128 * KIB + 1, 3 * MIB + 7])
async def test_parts(tmp_path: Path, size: int, seed: int) -> None:
    data = random.Random(seed).randbytes(size)
    for inner in (MemoryStorages(), await RocksStorages.at(tmp_path / "data")):
        storage = encrypted(await inner.open(VOLUME, create=True), keyring())
        found = await storage.segments.append_parts(memoryview(data), 128 * KIB)
        places = [location for location, _ in found]
        parts = await storage.segments.read_parts(places)
        assert b"".join(parts) == data
        for place, part in zip(places, parts, strict=True):
            assert await storage.segments.read(place) == part
        await close(storage)
        await inner.close()


async def test_no_two_openings_share_a_nonce() -> None:
    seen = set()
    for _ in range(3):
        cipher = keyring().values
        seen.update(cipher.encrypt(b"x", b"key")[:25] for _ in range(100))
    assert len(seen) == 300


async def test_renewing() -> None:
    """All values of the older key are encrypted with the new one, the others stay."""
    inner = (await MemoryStorages().open(VOLUME, create=True)).engine
    keys = keyring()
    engine = EncryptedEngine(inner, keys.values)
    rows = {b"%04d" % i: b"x" * (i % 700) for i in range(1000)}
    await engine.commit({**rows, SETTINGS_KEY: b"plain"})
    keys.use(KEYS, 2)
    new = dict.fromkeys(list(rows)[::10], b"new")
    await engine.commit(new)
    before = {key: await inner.get(key) for key in new}
    start: bytes | None = START
    count = 0
    while start is not None:
        start, renewed, damaged = await engine.renew(start, END)
        count += renewed
        assert not damaged
    assert count == 900
    assert {key: await inner.get(key) for key in new} == before
    keys.use({2: KEYS[2]}, 2)
    assert await everything(engine) == {**rows, **new, SETTINGS_KEY: b"plain"}
