"""What every `Storages` keeps: one opener, all there after a restart, volumes kept apart."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dataplatform.base.errors import Invalid, NotFound, PlatformError, Unavailable
from dataplatform.engine.base import Engine, SegmentStore, Storage, Storages
from dataplatform.engine.groups import Group

VOLUME = 7


async def close(storage: Storage) -> None:
    await storage.segments.close()
    await storage.engine.close()


class Harness(ABC):
    """How a contract gets at its implementation; every suite inherits it."""

    @abstractmethod
    async def storages(self, tmp_path: Path) -> Storages:
        """Open the place that belongs to `tmp_path`: the same one at each call."""

    def fail(self, opened: Engine | SegmentStore, error: PlatformError) -> None:
        """Let it break as a failed sync would."""
        group: Group = opened._group  # type: ignore[union-attr]
        group.fail(error)

    @contextlib.asynccontextmanager
    async def opened(self, tmp_path: Path) -> AsyncIterator[Storage]:
        storages = await self.storages(tmp_path)
        try:
            yield await storages.open(VOLUME, create=True)
        finally:
            await storages.close()

    @contextlib.asynccontextmanager
    async def engine(self, tmp_path: Path) -> AsyncIterator[Engine]:
        async with self.opened(tmp_path) as storage:
            yield storage.engine

    @contextlib.asynccontextmanager
    async def segments(self, tmp_path: Path) -> AsyncIterator[SegmentStore]:
        async with self.opened(tmp_path) as storage:
            yield storage.segments


class StoragesContract(Harness):
    fences = False
    """A second opener fences the first one instead of being refused (object stores)."""

    @abstractmethod
    def write_format(self, tmp_path: Path, text: str | None) -> bool:
        """Replace (or, with None, remove) what `format.json` says; False if there is none."""

    async def test_a_missing_volume_is_not_found(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        with pytest.raises(NotFound):
            await storages.open(1)
        assert await storages.volumes() == []
        await storages.close()

    async def test_volumes_are_apart(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        one = await storages.open(1, create=True)
        two = await storages.open(2**40, create=True)
        await one.engine.commit({b"k": b"one"})
        await two.engine.commit({b"k": b"two"})
        here = await one.segments.append(b"first")
        there = await two.segments.append(b"other")
        assert await one.engine.get(b"k") == b"one"
        assert await two.engine.get(b"k") == b"two"
        assert await one.segments.read(here) == b"first"
        assert await two.segments.read(there) == b"other"
        assert await storages.volumes() == [1, 2**40]
        await storages.close()

    async def test_all_is_there_after_reopening(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(VOLUME, create=True)
        await storage.engine.commit({b"k": b"v"})  # not durable: close makes it so
        where = await storage.segments.append(b"bytes")
        await storages.close()
        storages = await self.storages(tmp_path)
        assert await storages.volumes() == [VOLUME]
        storage = await storages.open(VOLUME)
        assert await storage.engine.get(b"k") == b"v"
        assert await storage.segments.read(where) == b"bytes"
        await storages.close()

    async def test_a_closed_volume_reopens(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        for round_number in range(3):
            storage = await storages.open(VOLUME, create=True)
            assert await storage.engine.get(b"round") == (
                b"%d" % (round_number - 1) if round_number else None
            )
            await storage.engine.commit({b"round": b"%d" % round_number})
            await close(storage)
        await storages.close()

    async def test_an_open_volume_is_not_opened_again_or_removed(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        await storages.open(VOLUME, create=True)
        with pytest.raises(Unavailable):
            await storages.open(VOLUME)
        with pytest.raises(Unavailable):
            await storages.remove(VOLUME)
        await storages.close()

    async def test_removed_is_gone(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(VOLUME, create=True)
        await storage.engine.commit({b"k": b"v"})
        await storage.segments.append(b"bytes")
        await close(storage)
        await storages.remove(VOLUME)
        await storages.remove(VOLUME)  # a retry after a crash
        assert await storages.volumes() == []
        with pytest.raises(NotFound):
            await storages.open(VOLUME)
        storage = await storages.open(VOLUME, create=True)
        assert await storage.engine.get(b"k") is None
        assert await storage.segments.sizes() == {}
        await storages.close()

    async def test_closed_storages_refuse(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(VOLUME, create=True)
        await storages.close()
        await storages.close()
        with pytest.raises(Unavailable):
            await storages.open(VOLUME)
        with pytest.raises(Unavailable):
            await storages.volumes()
        with pytest.raises(Unavailable):
            await storage.engine.get(b"k")

    async def test_a_second_opener_is_refused(self, tmp_path: Path) -> None:
        if self.fences:
            pytest.skip("a second opener fences the first, see test_slate.py")
        storages = await self.storages(tmp_path)
        with pytest.raises(Unavailable):
            await self.storages(tmp_path)
        await storages.close()
        await (await self.storages(tmp_path)).close()

    async def test_a_newer_format_is_refused(self, tmp_path: Path) -> None:
        await (await self.storages(tmp_path)).close()
        text = '{"format": 2, "engine": "other", "written_by": "dataplatform 9.9"}'
        if not self.write_format(tmp_path, text):
            pytest.skip("nothing is stored")
        with pytest.raises(Invalid) as caught:
            await self.storages(tmp_path)
        assert "9.9" in str(caught.value)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "x"}', '{"engine": "rocks"}'])
    async def test_an_unreadable_format_is_refused(self, tmp_path: Path, text: str) -> None:
        await (await self.storages(tmp_path)).close()
        if not self.write_format(tmp_path, text):
            pytest.skip("nothing is stored")
        with pytest.raises(Invalid):
            await self.storages(tmp_path)
