"""The distributed engine on a directory: the contracts, fencing, and what a killed process leaves.

Set ``DP_TEST_STORE=s3://bucket/prefix`` (and AWS_… variables) to run them on a real store, too.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplatform.base.errors import (
    Corrupt,
    Invalid,
    NotFound,
    PlatformError,
    Stale,
    Unavailable,
)
from dataplatform.engine.base import Storages
from dataplatform.engine.objects import Bucket
from dataplatform.engine.slate import SlateEngine, SlateStorages

from .clones import ClonesContract
from .engine import END, START, EngineContract, expect_broken
from .segments import SegmentsContract
from .storages import VOLUME, Harness, StoragesContract

STORE = os.environ.get("DP_TEST_STORE")
RUN = uuid.uuid4().hex


def url(tmp_path: Path) -> str:
    """A place of its own for each test."""
    if STORE:
        return f"{STORE.rstrip('/')}/{RUN}/{tmp_path.name}"
    return f"file://{tmp_path}/store"


class SlateHarness(Harness):
    async def storages(self, tmp_path: Path) -> Storages:
        size = SegmentsContract.small_segment_bytes
        return await SlateStorages.at(url(tmp_path), segment_bytes=size)


class TestSlateEngine(SlateHarness, EngineContract):
    pass


class TestObjectSegments(SlateHarness, SegmentsContract):
    pass


looks_at_files = pytest.mark.skipif(STORE is not None, reason="looks at files")


class TestSlateClones(SlateHarness, ClonesContract):
    pass


class TestSlateStorages(SlateHarness, StoragesContract):
    fences = True

    def write_format(self, tmp_path: Path, text: str | None) -> bool:
        path = tmp_path / "store" / "format.json"
        if STORE:
            return False
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        return True

    @looks_at_files
    async def test_a_foreign_prefix_is_refused_untouched(self, tmp_path: Path) -> None:
        store = tmp_path / "store"
        store.mkdir()
        (store / "holiday.jpg").write_bytes(b"x")
        with pytest.raises(Invalid):
            await self.storages(tmp_path)
        assert [p.name for p in store.iterdir()] == ["holiday.jpg"]

    @looks_at_files
    async def test_half_removed_volumes_do_not_come_back(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(3, create=True)
        await storage.engine.commit({b"a": b"1"})
        await storages.close()
        (tmp_path / "store/volumes/3/volume.json").unlink()
        storages = await self.storages(tmp_path)
        assert await storages.volumes() == [3]
        with pytest.raises(NotFound):
            await storages.open(3)
        storage = await storages.open(3, create=True)
        assert await storage.engine.get(b"a") is None
        await storages.close()

    @looks_at_files
    async def test_a_damaged_table_is_corrupt(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(3, create=True)
        await storage.engine.commit({b"%05d" % i: b"x" * 50 for i in range(5000)})
        await storage.engine.checkpoint("flushed")
        await storages.close()
        for table in (tmp_path / "store/volumes/3/db/compacted").glob("*.sst"):
            content = bytearray(table.read_bytes())
            content[len(content) // 3] ^= 0xFF
            table.write_bytes(content)
        storages = await self.storages(tmp_path)
        storage = await storages.open(3)
        with pytest.raises(Corrupt):
            await storage.engine.scan(START, END, limit=10_000, size_bytes=1 << 30)
        await storages.close()


async def test_a_second_opener_fences_the_first(tmp_path: Path) -> None:
    old = await SlateStorages.at(url(tmp_path))
    old_engine, old_segments = await old.open(VOLUME, create=True)
    await old_engine.durable(await old_engine.commit({b"a": b"old"}))
    kept = await old_segments.append(b"kept")
    await old_segments.sync()

    new = await SlateStorages.at(url(tmp_path))
    new_engine, new_segments = await new.open(VOLUME)
    assert await new_engine.get(b"a") == b"old"
    assert await new_segments.read(kept) == b"kept"
    await new_engine.durable(await new_engine.commit({b"a": b"new"}))

    for _ in range(3):
        with pytest.raises(Stale):
            await old_engine.durable(await old_engine.commit({b"a": b"lost"}))
    # Both may upload, never to the same object.
    late = await old_segments.append(b"late")
    await old_segments.sync()
    mine = await new_segments.append(b"mine")
    await new_segments.sync()
    assert late.segment not in (mine.segment, kept.segment)
    assert await new_segments.read(mine) == b"mine"
    await old.close()
    assert await new_engine.get(b"a") == b"new"
    await new.close()


@looks_at_files
async def test_what_was_acknowledged_is_in_the_store(tmp_path: Path) -> None:
    """A copy of the store, taken without any goodbye, is what a killed process leaves."""
    storages = await SlateStorages.at(f"file://{tmp_path}/store")
    engine, segments = await storages.open(1, create=True)
    for i in range(30):
        where = await segments.append(b"%d" % i)
        await segments.sync()
        ticket = await engine.commit({b"%04d" % i: b"%d" % where.segment})
        if i % 3 == 2:
            await engine.durable(ticket)
            shutil.copytree(tmp_path / "store", tmp_path / f"copy{i}")
    lost = await segments.append(b"never synced")
    shutil.copytree(tmp_path / "store", tmp_path / "copy30")
    for i in (2, 14, 29, 30):
        copy = await SlateStorages.at(f"file://{tmp_path}/copy{i}")
        engine, segments = await copy.open(1)
        found = [key for key, _ in await engine.scan(START, END)]
        assert found == [b"%04d" % j for j in range(len(found))]
        assert len(found) >= min(i + 1, 30)
        sizes = await segments.sizes()
        assert all(int(value) in sizes for _, value in await engine.scan(START, END))
        assert lost.segment not in sizes
        await copy.close()
    await storages.close()


async def test_a_failed_upload_breaks_the_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages = await SlateStorages.at(url(tmp_path))
    engine, segments = await storages.open(VOLUME, create=True)
    where = await segments.append(b"x")
    calls = []

    async def fail(_self: Bucket, path: str, _pieces: list[bytes]) -> None:
        calls.append(path)
        raise OSError("connection reset")

    monkeypatch.setattr(Bucket, "put", fail)
    with pytest.raises(PlatformError):
        await segments.sync()
    for call in (segments.sync(), segments.append(b"y"), segments.seal()):
        with pytest.raises(PlatformError):
            await call
    assert await segments.read(where) == b"x"
    assert len(calls) == 1
    await segments.close()
    await engine.close()
    await storages.close()


class SilentDatabase:
    """A database whose store takes nothing any more: what waits for it waits for ever."""

    def __init__(self, database: object, *methods: str) -> None:
        self._database = database
        self._methods = methods
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name) if name not in self._methods else self._wait(name)

    def _wait(self, name: str) -> Callable[..., asyncio.Future[None]]:
        def wait(*_args: object) -> asyncio.Future[None]:
            self.calls.append(name)
            return asyncio.get_running_loop().create_future()

        return wait


@pytest.mark.parametrize("method", ["write", "flush"])
async def test_a_store_that_does_not_answer_breaks_the_engine(tmp_path: Path, method: str) -> None:
    storages = await SlateStorages.at(url(tmp_path), store_seconds=0.5)
    engine, segments = await storages.open(VOLUME, create=True)
    assert isinstance(engine, SlateEngine)
    good = await engine.commit({b"a": b"1"})
    await engine.durable(good)
    silent = engine._database = SilentDatabase(engine._database, method, "shutdown")
    with pytest.raises(Unavailable, match="does not answer"):
        await engine.durable(await engine.commit({b"b": b"1"}))
    await expect_broken(engine, good)
    assert await engine.get(b"a") == b"1"
    await segments.close()
    await engine.close()
    assert silent.calls == [method]  # nothing was tried again, and closing did not wait
    with pytest.raises(Unavailable):
        await engine.get(b"a")
    await storages.close()


async def test_memory_urls_last_as_long_as_their_storages() -> None:
    storages = await SlateStorages.at("memory:///")
    engine, segments = await storages.open(1, create=True)
    await engine.commit({b"a": b"1"})
    where = await segments.append(b"x")
    await segments.close()
    await engine.close()
    engine, segments = await storages.open(1)
    assert await engine.get(b"a") == b"1"
    assert await segments.read(where) == b"x"
    await storages.close()


@pytest.mark.parametrize("bad", ["nonsense", "ftp://host/x", "s3://"])
async def test_strange_urls_are_invalid(bad: str) -> None:
    with pytest.raises(Invalid):
        await SlateStorages.at(bad)
