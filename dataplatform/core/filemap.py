"""The map of a file: which bytes are where, as pieces that never overlap (D3).

A piece is either bytes in the engine or a part of an extent in a segment; what no piece covers is
a hole and reads as zeros. Bytes never change in place: a write puts new pieces and cuts the old
ones, so snapshots and copies can share extents.

Small writes rewrite the bytes of their block that stand in the engine already, so a file that grows
by a hundred bytes at a time becomes pieces of `BLOCK_BYTES` and not one per write.

The first half of this module is pure; the second works on a unit.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable
from itertools import islice
from typing import Protocol

from ..base.limits import BLOCK_BYTES, EXTENT_BYTES_MIN, MIB
from ..engine.base import Pair
from ..keyspace import keys
from ..keyspace.records import Inode, Piece
from .units import Unit

PIECES_PER_UNIT_MAX = 2000
"""Pieces that one unit removes; a longer cut is done in several."""

CLEAR_BYTES_MAX = 8 * MIB
"""Of what new extents are laid over, as much is read at a time: it may be bytes in the engine."""

TURN_PIECES = 128
"""Pieces laid over a file in one turn of the event loop: a few milliseconds."""

PIECE_BYTES_MAX = EXTENT_BYTES_MIN
"""Pieces kept in the engine are joined up to this size."""


class Scanner(Protocol):
    async def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, limit: int = 1000
    ) -> list[Pair]: ...


# ---------------------------------------------------------------- pure


def overlay(pieces: list[Piece], new: Piece) -> None:
    """Lay `new` over the sorted, non-overlapping `pieces`, in place."""
    if not pieces or pieces[-1].end <= new.offset:
        pieces.append(new)
        return
    first = bisect_right(pieces, new.offset, key=lambda p: p.offset) - 1
    if first < 0 or pieces[first].end <= new.offset:
        first += 1
    last = first
    while last < len(pieces) and pieces[last].offset < new.end:
        last += 1
    replacement = [new]
    if first < last:
        head, tail = pieces[first], pieces[last - 1]
        if head.offset < new.offset:
            replacement.insert(0, head.cut(head.offset, new.offset))
        if tail.end > new.end:
            replacement.append(tail.cut(new.end, tail.end))
    pieces[first:last] = replacement


def remove_range(pieces: list[Piece], start: int, end: int) -> None:
    """Cut [start, end) out of the sorted, non-overlapping `pieces`, in place."""
    kept: list[Piece] = []
    for piece in pieces:
        if piece.end <= start or piece.offset >= end:
            kept.append(piece)
            continue
        if piece.offset < start:
            kept.append(piece.cut(piece.offset, start))
        if piece.end > end:
            kept.append(piece.cut(end, piece.end))
    pieces[:] = kept


def within(pieces: Iterable[Piece], start: int, end: int) -> list[Piece]:
    """The parts of the pieces that lie in [start, end)."""
    return [p.cut(start, end) for p in pieces if p.offset < end and p.end > start]


def join(pieces: list[Piece]) -> list[Piece]:
    """Join neighbours that are bytes; the result's bytes are as long as they can be."""
    joined: list[Piece] = []
    run: list[Piece] = []

    def end_run() -> None:
        if len(run) == 1:
            joined.append(run[0])
        elif run:
            data = b"".join(p.data for p in run)  # type: ignore[misc]
            joined.append(Piece(run[0].offset, len(data), data))
        run.clear()

    for piece in pieces:
        if piece.data is None:
            end_run()
            joined.append(piece)
        else:
            if run and run[-1].end != piece.offset:
                end_run()
            run.append(piece)
    end_run()
    return joined


def split(piece: Piece, size_max: int) -> list[Piece]:
    """The piece in parts of at most `size_max`, cut at multiples of it."""
    parts = []
    start = piece.offset
    while start < piece.end:
        end = min(piece.end, start - start % size_max + size_max)
        parts.append(piece.cut(start, end))
        start = end
    return parts


# ---------------------------------------------------------------- on an engine or a unit


async def load(reader: Scanner, inode: int, start: int, end: int) -> list[Piece]:
    """The stored pieces that overlap [start, end), whole, in order."""
    if start >= end:
        return []
    pieces: list[Piece] = []
    at, last = keys.piece(inode, start), keys.piece(inode, end)
    while True:
        page = await reader.scan(at, last, limit=1000)
        for key, value in page:
            pieces.append(Piece.unpack(keys.last_number_of(key), value))
        # A page holds at least one pair while there are any; one engine page is nearly always all.
        if not page or (len(page) < 100 and sum(len(v) for _, v in page) < 1 << 19):
            break
        at = page[-1][0] + b"\x00"
    if start and not (pieces and pieces[0].offset == start):
        before = await _last_before(reader, inode, start)
        if before is not None and before.end > start:
            pieces.insert(0, before)
    return pieces


async def _last_before(reader: Scanner, inode: int, offset: int) -> Piece | None:
    """The last piece that begins before the offset."""
    start, end = keys.pieces(inode), keys.piece(inode, offset)
    found = await reader.scan(start, end, reverse=True, limit=1)
    return Piece.unpack(keys.last_number_of(found[0][0]), found[0][1]) if found else None


async def clear(unit: Unit, inode: Inode, start: int, end: int) -> None:
    """Make [start, end) a hole. The caller saves the inode."""
    used_bytes = inode.used_bytes
    await _clear(unit, inode, start, end)
    gone_bytes = used_bytes - inode.used_bytes
    writeback = unit.volume.writeback
    if gone_bytes and not unit.accepted and inode.links and writeback.has(inode.number):
        chain = await unit.volume.quotas.chain(inode.parent, unit)
        unit.on_commit(lambda _: writeback.may_grow(inode.number, chain, gone_bytes))


async def _clear(unit: Unit, inode: Inode, start: int, end: int) -> None:
    for piece in await load(unit, inode.number, start, end):
        key = keys.piece(inode.number, piece.offset)
        if piece.extent is not None:
            await unit.unrefer(piece.extent, key, piece.length)
        unit.delete(key)
        inode.used_bytes -= piece.length
        _used(unit, inode, -piece.length)
        if piece.offset < start:
            await _put(unit, inode, piece.cut(piece.offset, start))
        if piece.end > end:
            await _put(unit, inode, piece.cut(end, piece.end))


async def write(unit: Unit, inode: Inode, pieces: list[Piece], *, fresh: bool = True) -> None:
    """Lay sorted, non-overlapping pieces over the file. The caller saves the inode.

    `fresh`: extents named here were never committed before.
    """
    seen: set[tuple[int, int]] = set()
    cleared = 0  # up to where extents may be put without another look at what stands there
    joined = join(pieces)
    for index, piece in enumerate(joined):
        if piece.extent is not None:
            if piece.end > cleared:
                cleared = _end_of_run(joined, index)
                await clear(unit, inode, piece.offset, cleared)
            place = (piece.extent.segment, piece.extent.offset)
            await _put(unit, inode, piece, fresh=fresh and place not in seen)
            seen.add(place)
            continue
        if index % TURN_PIECES == TURN_PIECES - 1:
            await asyncio.sleep(0)  # others have their turn
        whole = await _absorb(unit, inode, piece)
        await clear(unit, inode, whole.offset, whole.end)
        for part in split(whole, PIECE_BYTES_MAX):
            await _put(unit, inode, part)


async def fill(unit: Unit, inode: Inode, pieces: list[Piece]) -> None:
    """`write` into a file that has nothing yet: nothing is looked for. The caller saves the inode.

    Each extent stands in one of the pieces and was never committed before.
    """
    for piece in pieces:
        if piece.extent is not None:
            await _put(unit, inode, piece, fresh=True)
        else:
            for part in split(piece, PIECE_BYTES_MAX):
                await _put(unit, inode, part)


def _end_of_run(pieces: list[Piece], index: int) -> int:
    """Where the extents that follow one another from `index` on end: they are cleared at once."""
    start, end = pieces[index].offset, pieces[index].end
    for piece in islice(pieces, index + 1, None):
        if piece.extent is None or piece.offset != end or piece.end - start > CLEAR_BYTES_MAX:
            break
        end = piece.end
    return end


async def _absorb(unit: Unit, inode: Inode, piece: Piece) -> Piece:
    """Grow a piece of bytes by the bytes around it in its first and last block."""
    start = piece.offset - piece.offset % BLOCK_BYTES
    end = piece.end + -piece.end % BLOCK_BYTES
    if start == piece.offset and end == piece.end:
        return piece
    data = piece.data
    assert data is not None
    first, last = piece.offset, piece.end
    before = await _last_before(unit, inode.number, first) if start < first else None
    if before is not None and before.data is not None and before.end >= first:
        tail = before.cut(start, first)
        first, data = tail.offset, b"".join((tail.data or b"", data))
    after = await _last_before(unit, inode.number, last + 1) if last < end else None
    if after is not None and after.data is not None and after.end > last:
        head = after.cut(last, end)
        last, data = head.end, b"".join((data, head.data or b""))
    return Piece(first, last - first, data)


async def _put(unit: Unit, inode: Inode, piece: Piece, *, fresh: bool = False) -> None:
    key = keys.piece(inode.number, piece.offset)
    if piece.extent is not None:
        await unit.refer(piece.extent, key, piece.length, fresh=fresh)
    unit.put(key, piece.pack())
    inode.used_bytes += piece.length
    _used(unit, inode, piece.length)


def _used(unit: Unit, inode: Inode, size_bytes: int) -> None:
    if inode.links:  # what has no name any more counts for nobody
        unit.used(size_bytes, 0, inode.parent)


async def remove_some(unit: Unit, number: int, limit: int = PIECES_PER_UNIT_MAX) -> bool:
    """Remove up to `limit` pieces of an inode without a name; True when none is left."""
    start, end = keys.prefix_range(keys.pieces(number))
    page = await unit.scan(start, end, limit=limit)
    await remove(unit, page)
    return not page or not await unit.scan(page[-1][0] + b"\x00", end, limit=1)


async def remove(unit: Unit, pieces: list[Pair]) -> None:
    """Remove these pieces of an inode without a name."""
    for key, value in pieces:
        piece = Piece.unpack(keys.last_number_of(key), value)
        if piece.extent is not None:
            await unit.unrefer(piece.extent, key, piece.length)
        unit.delete(key)
