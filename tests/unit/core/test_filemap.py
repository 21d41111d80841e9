"""The map of a file: its pure half beside plain lists of bytes."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.limits import BLOCK_BYTES, KIB
from dataplatform.core import filemap
from dataplatform.core.filemap import join, overlay, remove_range, split, within
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.engine.base import scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import Extent, Piece
from tests.model.platform_driver import Place, at_work

SIZE = 200


def content(pieces: list[Piece]) -> list[int | tuple[int, int] | None]:
    """For each byte of the file: the byte, where it is in which extent, or None in a hole."""
    found: list[int | tuple[int, int] | None] = [None] * SIZE
    for piece in pieces:
        for at in range(piece.length):
            if piece.data is not None:
                found[piece.offset + at] = piece.data[at]
            else:
                assert piece.extent is not None
                found[piece.offset + at] = (piece.extent.segment, piece.skip + at)
    return found


def check_order(pieces: list[Piece]) -> None:
    assert all(p.length > 0 for p in pieces)
    assert all(a.end <= b.offset for a, b in itertools.pairwise(pieces))


def random_piece(rng: random.Random, number: int) -> Piece:
    start = rng.randrange(SIZE - 1)
    length = rng.randrange(1, min(60, SIZE - start) + 1)
    if rng.random() < 0.5:
        return Piece(start, length, rng.randbytes(length))
    skip = rng.randrange(5)
    return Piece(start, length, None, Extent(number, 0, 100, 100, 0), skip)


def test_overlay_and_remove_beside_a_list(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        pieces: list[Piece] = []
        expected = content([])
        for number in range(30):
            piece = random_piece(rng, number)
            if rng.random() < 0.8:
                overlay(pieces, piece)
                expected[piece.offset : piece.end] = content([piece])[piece.offset : piece.end]
            else:
                remove_range(pieces, piece.offset, piece.end)
                expected[piece.offset : piece.end] = [None] * piece.length
            check_order(pieces)
            assert content(pieces) == expected
        start = rng.randrange(SIZE)
        end = rng.randrange(start + 1, SIZE + 1)
        cut = content(within(pieces, start, end))
        assert cut[start:end] == expected[start:end]
        assert not any(c is not None for c in cut[:start] + cut[end:])


def test_join_and_split_change_no_byte(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        pieces: list[Piece] = []
        for number in range(20):
            overlay(pieces, random_piece(rng, number))
        joined = join(pieces)
        check_order(joined)
        assert content(joined) == content(pieces)
        for a, b in itertools.pairwise(joined):
            assert a.end < b.offset or a.data is None or b.data is None
        size_max = rng.randrange(1, 40)
        parts = [part for piece in joined for part in split(piece, size_max)]
        check_order(parts)
        assert content(parts) == content(pieces)
        assert all(p.offset // size_max == (p.end - 1) // size_max for p in parts)


def test_a_piece_is_packed_and_unpacked() -> None:
    for piece in (
        Piece(7, 5, b"hello"),
        Piece(7, 5, b"\x01\x00\x00\x00\x00"),
        Piece(1 << 40, 100, None, Extent(1 << 40, 1 << 35, 70, 120, 0xFFFFFFFF, 1), 20),
    ):
        assert Piece.unpack(piece.offset, piece.pack()) == piece
    with pytest.raises(OSError, match="cannot be read"):
        Piece.unpack(0, b"\x01\x00")


async def test_small_writes_become_blocks(tmp_path: Path) -> None:
    """A file that grows by a hundred bytes at a time, synced each time, is pieces of a block."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        for at in range(0, 3 * BLOCK_BYTES, 100):
            await driver.write(handle, at, b"x" * 100, durable=True)
        start, end = keys.prefix_range(keys.pieces(handle.inode))
        stored = [pair async for pair in scan_all(volume.storage.engine, start, end)]
        assert len(stored) <= 4
        assert len(await driver.read(handle)) == -(-3 * BLOCK_BYTES // 100) * 100


async def test_a_unit_sees_pieces_behind_those_it_removed(tmp_path: Path) -> None:
    """A page of the engine of which the unit has deleted nearly all is not the last one."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        for start in range(0, 6000, 2000):
            for at in range(start, start + 2000, 2):
                await driver.write(handle, at, b"x")
            await driver.sync(handle)
        stored = await filemap.load(volume.storage.engine, handle.inode, 0, 6000)
        assert len(stored) == 3000

        async def work(unit: Unit) -> None:
            inode = await unit.inode(handle.inode)
            await filemap.clear(unit, inode, 0, 1950)
            unit.save(inode)
            left = await filemap.load(unit, handle.inode, 0, 6000)
            assert [p.offset for p in left] == [p.offset for p in stored if p.offset >= 1950]
            page = await unit.scan(*keys.prefix_range(keys.pieces(handle.inode)), limit=1000)
            assert len(page) == 1000

        await volume.run(SYSTEM, work, durable=True)


async def test_runs_of_extents_go_over_whatever_stands_there(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, extents and holes below; cleared for a few extents at a time, then written again."""
    monkeypatch.setattr(filemap, "CLEAR_BYTES_MAX", 300 * KIB)
    rng = random.Random(seed)
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        expected = bytearray()
        for _ in range(25):
            offset = rng.randrange(1500 * KIB)
            data = rng.randbytes(rng.choice((10, 5000, 70 * KIB, 900 * KIB)))
            await driver.write(handle, offset, data)
            expected += bytes(max(offset + len(data) - len(expected), 0))
            expected[offset : offset + len(data)] = data
            if rng.random() < 0.5:
                await driver.sync(handle)
            assert await driver.read(handle) == expected
        await driver.sync(handle)
        stored = await filemap.load(volume.storage.engine, handle.inode, 0, len(expected))
        check_order(stored)
        assert (await driver.stat(handle)).used_bytes == sum(p.length for p in stored)


@pytest.mark.parametrize("when", [1, 2])
async def test_a_read_sees_no_mixture_of_two_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """The map is read in two scans; a commit may come before or between them."""
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        for at in (0, BLOCK_BYTES):
            await driver.write(handle, at, b"old!" * (BLOCK_BYTES // 4), durable=True)
        scan, scans = volume.storage.engine.scan, itertools.count(1)

        async def scan_late(*args: Any, **options: Any) -> Any:
            if next(scans) == when:
                await driver.write(handle, 0, b"new!" * (BLOCK_BYTES // 2), durable=True)
            return await scan(*args, **options)

        monkeypatch.setattr(volume.storage.engine, "scan", scan_late)
        data = await driver.read(handle, BLOCK_BYTES // 2, 2 * BLOCK_BYTES)
        assert next(scans) > 2
        assert data in (b"old!" * (3 * BLOCK_BYTES // 8), b"new!" * (3 * BLOCK_BYTES // 8))


async def test_cuts_of_many_pieces_take_several_commits(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        handle = await driver.create("/f")
        for start in range(0, 6000, 2000):
            for at in range(start, start + 2000):
                await driver.write(handle, at * 2 * BLOCK_BYTES, b"x" * 10)
            await driver.sync(handle)
        before = volume.state.commit
        await driver.punch(handle, 0, 6000 * BLOCK_BYTES)
        assert volume.state.commit - before > 1
        before = volume.state.commit
        assert len(await driver.data_ranges(handle)) == 3000
        await driver.truncate(handle, 5)
        assert volume.state.commit - before > 1
        assert (await driver.stat(handle)).used_bytes == 0
        assert await driver.read(handle) == bytes(5)
