"""What every engine keeps of checkpoints that others are made of: clones, and taking a place."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dataplatform.base.errors import Invalid, NotFound, Unavailable
from dataplatform.engine.base import Location, Storage, Storages

from .engine import everything
from .storages import Harness, close

SOURCE, TARGET, OTHER, NEXT = 7, 8, 9, 10


async def write(storage: Storage, text: bytes) -> Location:
    """A commit that names an extent, both durable."""
    where = await storage.segments.append(text)
    await storage.segments.sync()
    rows = {b"row": text, text: b"%d" % where.segment}
    await storage.engine.durable(await storage.engine.commit(rows))
    return where


class ClonesContract(Harness):
    async def source(self, tmp_path: Path) -> tuple[Storages, Storage, Location]:
        """A volume with a checkpoint "one", written to since."""
        storages = await self.storages(tmp_path)
        storage = await storages.open(SOURCE, create=True)
        where = await write(storage, b"first")
        await storage.engine.checkpoint("one")
        await write(storage, b"second")
        return storages, storage, where

    # ------------------------------------------------------------------------- checkpoints

    async def test_checkpoints_are_listed(self, tmp_path: Path) -> None:
        storages, storage, _ = await self.source(tmp_path)
        await storage.engine.checkpoint("two")
        view = await storage.engine.open_checkpoint("one")
        assert await storage.engine.checkpoints() == ["one", "two"]
        await storage.engine.delete_checkpoint("one")
        assert await storage.engine.checkpoints() == ["two"]
        view.close()
        await storages.close()
        storages = await self.storages(tmp_path)
        storage = await storages.open(SOURCE)
        assert await storage.engine.checkpoints() == ["two"]
        await storages.close()

    async def test_a_checkpoint_costs_what_is_not_shared(self, tmp_path: Path) -> None:
        storages, storage, _ = await self.source(tmp_path)
        engine = storage.engine
        rows = {b"%05d" % i: bytes([i % 251]) * 1000 for i in range(2000)}
        await engine.commit(dict(rows))
        await engine.checkpoint("full")
        assert await engine.checkpoint_size("full") < 200_000
        await engine.commit(dict.fromkeys(rows))
        assert await engine.checkpoint_size("full") >= 0
        with pytest.raises(NotFound):
            await engine.checkpoint_size("none")
        with pytest.raises(Invalid):
            await engine.checkpoint_size("a/b")
        await storages.close()

    async def test_a_checkpoint_is_a_prefix_with_all_before_it(self, tmp_path: Path) -> None:
        """Commits go on while it is made, and what it says is the last one is."""
        storages = await self.storages(tmp_path)
        engine = (await storages.open(SOURCE, create=True)).engine
        count, stop = 0, False

        async def write_on() -> None:
            nonlocal count
            while not stop:
                await engine.commit({b"%06d" % count: b"x" * 50, b"last": b"%d" % count})
                count += 1
                await asyncio.sleep(0)

        writing = asyncio.ensure_future(write_on())
        for number in range(4):
            for _ in range(50):
                await asyncio.sleep(0)
            before = count
            await engine.checkpoint(f"c{number}")
            view = await engine.open_checkpoint(f"c{number}")
            rows = await everything(view)
            last = int(rows.pop(b"last"))
            assert before - 1 <= last <= count
            assert sorted(rows) == [b"%06d" % i for i in range(last + 1)]
            view.close()
        stop = True
        await writing
        await storages.close()

    # ------------------------------------------------------------------------------ clones

    @pytest.mark.parametrize("opened", [True, False])
    async def test_a_clone_is_what_the_checkpoint_was(self, tmp_path: Path, opened: bool) -> None:
        storages, storage, where = await self.source(tmp_path)
        if not opened:
            await close(storage)
        await storages.clone(SOURCE, "one", TARGET)
        await storages.clone(SOURCE, "one", TARGET)  # a retry after a crash
        if not opened:
            storage = await storages.open(SOURCE)
        clone = await storages.open(TARGET)
        assert (await clone.engine.get(b"row")) == b"first"
        assert await clone.engine.get(b"second") is None
        assert await clone.segments.read(where) == b"first"
        assert await clone.engine.checkpoints() == []
        mine = await write(clone, b"in the clone")
        theirs = await write(storage, b"in the source")
        assert mine.segment > where.segment
        for which, here, text in (
            (storage, theirs, b"in the source"),
            (clone, mine, b"in the clone"),
        ):
            assert await which.engine.get(b"row") == text
            assert await which.segments.read(here) == text
        assert await clone.engine.get(b"in the source") is None
        assert await storages.volumes() == [SOURCE, TARGET]
        await storages.close()
        storages = await self.storages(tmp_path)
        clone = await storages.open(TARGET)
        assert await clone.engine.get(b"row") == b"in the clone"
        assert await clone.segments.read(where) == b"first"
        assert await clone.segments.read(mine) == b"in the clone"
        await storages.close()

    async def test_what_is_dropped_on_one_side_stays_on_the_other(self, tmp_path: Path) -> None:
        storages, storage, where = await self.source(tmp_path)
        await storages.clone(SOURCE, "one", TARGET)
        clone = await storages.open(TARGET)
        await clone.segments.delete(where.segment)
        assert where.segment not in await clone.segments.sizes()
        assert await storage.segments.read(where) == b"first"
        assert (await write(clone, b"again")).segment > where.segment
        await close(clone)
        await storages.remove(TARGET)
        assert await storage.segments.read(where) == b"first"
        assert await storages.volumes() == [SOURCE]
        view = await storage.engine.open_checkpoint("one")
        assert await view.get(b"row") == b"first"
        view.close()
        await storages.close()

    async def test_a_clone_outlives_its_source(self, tmp_path: Path) -> None:
        storages, storage, where = await self.source(tmp_path)
        if storages.clones_refer:
            await storages.close()
            return
        await storages.clone(SOURCE, "one", TARGET)
        await close(storage)
        await storages.remove(SOURCE)
        clone = await storages.open(TARGET)
        assert await clone.engine.get(b"row") == b"first"
        assert await clone.segments.read(where) == b"first"
        await storages.close()

    async def test_a_clone_of_a_clone(self, tmp_path: Path) -> None:
        storages, _, where = await self.source(tmp_path)
        await storages.clone(SOURCE, "one", TARGET)
        clone = await storages.open(TARGET)
        mine = await write(clone, b"third")
        await clone.engine.checkpoint("one")
        await write(clone, b"fourth")
        await storages.clone(TARGET, "one", NEXT)
        last = await storages.open(NEXT)
        assert await last.engine.get(b"row") == b"third"
        assert await last.segments.read(where) == b"first"
        assert await last.segments.read(mine) == b"third"
        await storages.close()

    async def test_there_is_nothing_to_clone(self, tmp_path: Path) -> None:
        storages, _, _ = await self.source(tmp_path)
        for volume, name in ((SOURCE, "none"), (OTHER, "one")):
            with pytest.raises(NotFound):
                await storages.clone(volume, name, TARGET)
        with pytest.raises(Invalid):
            await storages.clone(SOURCE, "../one", TARGET)
        assert await storages.volumes() == [SOURCE]
        await storages.clone(SOURCE, "one", TARGET)
        await storages.open(TARGET)
        with pytest.raises(Unavailable):
            await storages.clone(SOURCE, "one", TARGET)
        await storages.close()

    # --------------------------------------------------------------------------- replacing

    async def test_a_clone_takes_the_place_of_its_source(self, tmp_path: Path) -> None:
        storages, storage, where = await self.source(tmp_path)
        newer = await write(storage, b"newer")
        await storage.engine.checkpoint("two")
        await close(storage)
        await storages.clone(SOURCE, "one", TARGET)
        clone = await storages.open(TARGET)
        await clone.engine.commit({b"restored": b"1"})
        await close(clone)
        await storages.replace(SOURCE, TARGET)
        await storages.replace(SOURCE, TARGET)  # a retry after a crash
        assert await storages.volumes() == [SOURCE]
        with pytest.raises(NotFound):
            await storages.open(TARGET)
        for _ in range(2):
            storage = await storages.open(SOURCE)
            assert await storage.engine.get(b"row") == b"first"
            assert await storage.engine.get(b"restored") == b"1"
            assert await storage.engine.checkpoints() == ["one", "two"]
            view = await storage.engine.open_checkpoint("two")
            assert await view.get(b"row") == b"newer"
            view.close()
            assert await storage.segments.read(where) == b"first"
            assert await storage.segments.read(newer) == b"newer"
            await storages.close()
            storages = await self.storages(tmp_path)
        storage = await storages.open(SOURCE)
        last = await write(storage, b"last")
        assert last.segment > newer.segment
        await storage.engine.checkpoint("three")
        await storage.engine.delete_checkpoint("two")
        await storage.segments.delete(newer.segment)
        assert newer.segment not in await storage.segments.sizes()
        assert await storage.engine.checkpoints() == ["one", "three"]
        assert await storage.engine.checkpoint_size("one") >= 0
        await close(storage)
        # And once more, from before it was restored.
        await storages.clone(SOURCE, "one", NEXT)
        await storages.replace(SOURCE, NEXT)
        storage = await storages.open(SOURCE)
        assert await storage.engine.get(b"restored") is None
        assert await storage.segments.read(last) == b"last"
        assert await storage.engine.checkpoints() == ["one", "three"]
        await close(storage)
        await storages.remove(SOURCE)
        assert await storages.volumes() == []
        await storages.close()

    async def test_a_new_storage_takes_a_place(self, tmp_path: Path) -> None:
        """One that was filled from elsewhere, with higher numbers of segments."""
        storages, storage, where = await self.source(tmp_path)
        highest = max(await storage.segments.sizes())
        other = await storages.open(OTHER, create=True)
        await other.segments.skip(highest)
        new = await write(other, b"new")
        assert new.segment > highest
        await close(storage)
        with pytest.raises(Unavailable):
            await storages.replace(SOURCE, OTHER)
        await close(other)
        await storages.replace(SOURCE, OTHER)
        storage = await storages.open(SOURCE)
        assert await storage.engine.get(b"row") == b"new"
        assert await storage.engine.get(b"first") is None
        assert await storage.segments.read(new) == b"new"
        assert await storage.segments.read(where) == b"first"
        assert await storage.engine.checkpoints() == ["one"]
        await storages.close()

    async def test_what_would_mix_up_segments_is_refused(self, tmp_path: Path) -> None:
        storages, storage, where = await self.source(tmp_path)
        other = await storages.open(OTHER, create=True)
        await write(other, b"other bytes")
        await close(storage)
        await close(other)
        with pytest.raises(Invalid):
            await storages.replace(SOURCE, OTHER)
        assert await storages.volumes() == [SOURCE, OTHER]
        storage = await storages.open(SOURCE)
        assert await storage.segments.read(where) == b"first"
        assert await storage.engine.checkpoints() == ["one"]
        other = await storages.open(OTHER)
        assert await other.engine.get(b"row") == b"other bytes"
        with pytest.raises(Unavailable):
            await storages.replace(SOURCE, OTHER)
        await storages.close()
        storages = await self.storages(tmp_path)
        with pytest.raises(NotFound):
            await storages.replace(NEXT, 11)
        await storages.close()

    async def test_skipping_numbers(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            first = await segments.append(b"x")
            await segments.skip(first.segment)
            second = await segments.append(b"x")
            assert second.segment > first.segment
            await segments.skip(first.segment + (5 << 30))
            third = await segments.append(b"x")
            assert third.segment > first.segment + (5 << 30)
            assert sorted(await segments.sizes()) == [first.segment, second.segment, third.segment]
