"""What every `SegmentStore` keeps: bytes where it said, numbers never used again."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from dataplatform.base.errors import Corrupt, Invalid, Unavailable
from dataplatform.engine.base import Location

from .storages import VOLUME, Harness, close


class SegmentsContract(Harness):
    small_segment_bytes = 64 * 1024
    """The size at which the storages of these tests seal a segment."""

    overhead_bytes = 0
    """What every append takes beyond its data."""

    async def test_append_and_read(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            assert segments.open_segment is None
            assert await segments.sizes() == {}
            first = await segments.append(b"hello")
            second = await segments.append(memoryview(b"..world..")[2:7])
            stored = 5 + self.overhead_bytes
            assert segments.overhead_bytes == self.overhead_bytes
            assert (first.offset, first.length) == (0, stored)
            assert second == Location(first.segment, stored, stored)
            assert segments.open_segment == first.segment
            assert await segments.sizes() == {first.segment: 2 * stored}
            for _ in range(2):  # before and after the sync
                assert await segments.read(first) == b"hello"
                assert await segments.read(second) == b"world"
                if not self.overhead_bytes:
                    assert await segments.read(Location(first.segment, 3, 4)) == b"lowo"
                assert await segments.read_parts([first, second]) == [b"hello", b"world"]
                await segments.sync()

    async def test_nothing_to_do_is_no_error(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            await segments.sync()
            await segments.seal()
            await segments.delete(12345)
            assert segments.open_segment is None
            where = await segments.append(b"")
            assert await segments.read(where) == b""
            await segments.sync()

    async def test_appended_memory_may_be_reused(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            buffer = bytearray(b"first")
            where = await segments.append(memoryview(buffer))
            buffer[:] = b"other"
            assert await segments.read(where) == b"first"
            big = bytearray(b"a" * 600_000)
            where = await segments.append(memoryview(big))
            big[:] = b"b" * 600_000
            await segments.sync()
            assert await segments.read(where) == b"a" * 600_000

    async def test_seal_starts_a_new_segment(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            first = await segments.append(b"one")
            await segments.seal()
            assert segments.open_segment is None
            second = await segments.append(b"two")
            assert second.segment > first.segment
            assert second.offset == 0
            assert await segments.read(first) == b"one"
            assert await segments.read(second) == b"two"
            stored = 3 + self.overhead_bytes
            assert await segments.sizes() == {first.segment: stored, second.segment: stored}

    async def test_a_full_segment_is_sealed(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            piece = b"x" * (self.small_segment_bytes // 4)
            places = [await segments.append(piece) for _ in range(20)]
            assert len({p.segment for p in places}) > 3
            assert [p.segment for p in places] == sorted(p.segment for p in places)
            assert all(s <= 2 * self.small_segment_bytes for s in (await segments.sizes()).values())
            stored = sum((await segments.sizes()).values())
            assert stored == 20 * (len(piece) + self.overhead_bytes)
            await segments.sync()
            for place in places:
                assert await segments.read(place) == piece

    async def test_a_piece_larger_than_a_segment(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            piece = random.Random(1).randbytes(3 * self.small_segment_bytes + 1)
            await segments.append(b"small")
            where = await segments.append(piece)
            assert await segments.read(where) == piece
            await segments.sync()
            assert await segments.read(where) == piece

    async def test_missing_and_short_are_corrupt(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            where = await segments.append(b"hello")
            for sync in (False, True):
                if sync:
                    await segments.seal()
                for bad in (
                    Location(where.segment, 0, 6),
                    Location(where.segment, 5, 1),
                    Location(where.segment, 2**40, 1),
                    Location(where.segment + 1000, 0, 1),
                ):
                    with pytest.raises(Corrupt):
                        await segments.read(bad)

    async def test_delete(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            first = await segments.append(b"one")
            with pytest.raises(Invalid):
                await segments.delete(first.segment)
            await segments.seal()
            second = await segments.append(b"two")
            assert await segments.read(first) == b"one"
            await segments.delete(first.segment)
            await segments.delete(first.segment)
            with pytest.raises(Corrupt):
                await segments.read(first)
            assert await segments.sizes() == {second.segment: 3 + self.overhead_bytes}

    async def test_numbers_are_never_used_again(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        highest = 0
        for _ in range(3):
            storage = await storages.open(VOLUME, create=True)
            for _ in range(2):
                where = await storage.segments.append(b"x")
                assert where.segment > highest
                highest = where.segment
                await storage.segments.seal()
                await storage.segments.delete(where.segment)
            assert await storage.segments.sizes() == {}
            await close(storage)
        await storages.close()

    async def test_reopening_seals(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(VOLUME, create=True)
        first = await storage.segments.append(b"one")
        await close(storage)
        storage = await storages.open(VOLUME)
        assert storage.segments.open_segment is None
        second = await storage.segments.append(b"two")
        assert second.segment > first.segment
        assert await storage.segments.read(first) == b"one"
        await storages.close()

    async def test_concurrent_appends_do_not_overlap(self, tmp_path: Path, seed: int) -> None:
        rng = random.Random(seed)
        pieces = [rng.randbytes(rng.choice([1, 100, 5_000, 400_000])) for _ in range(60)]
        async with self.segments(tmp_path) as segments:

            async def append(piece: bytes) -> Location:
                where = await segments.append(piece)
                if len(piece) % 2:
                    await segments.sync()
                return where

            places = await asyncio.gather(*(append(piece) for piece in pieces))
            for _ in range(2):
                for piece, where in zip(pieces, places, strict=True):
                    assert await segments.read(where) == piece
                await segments.seal()
            stored = sum(len(piece) + self.overhead_bytes for piece in pieces)
            assert sum((await segments.sizes()).values()) == stored

    async def test_broken_segments_read_and_write_nothing(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        storage = await storages.open(VOLUME, create=True)
        segments = storage.segments
        where = await segments.append(b"synced")
        await segments.seal()
        late = await segments.append(b"not synced")
        self.fail(segments, Unavailable("the disk failed"))
        for call in (
            segments.append(b"y"),
            segments.sync(),
            segments.seal(),
            segments.delete(where.segment),
        ):
            with pytest.raises(Unavailable):
                await call
        assert await segments.read(where) == b"synced"
        assert await segments.read(late) == b"not synced"
        assert set(await segments.sizes()) == {where.segment, late.segment}
        await close(storage)
        with pytest.raises(Unavailable):
            await segments.read(where)
        segments = (await storages.open(VOLUME)).segments
        assert await segments.read(where) == b"synced"
        await storages.close()

    async def test_closed_segments_refuse(self, tmp_path: Path) -> None:
        async with self.segments(tmp_path) as segments:
            where = await segments.append(b"x")
            await segments.close()
            await segments.close()
            for call in (
                segments.append(b"y"),
                segments.sync(),
                segments.read(where),
                segments.seal(),
                segments.sizes(),
                segments.delete(where.segment),
            ):
                with pytest.raises(Unavailable):
                    await call
