"""Segment compaction: give back the space of bytes that nothing refers to any more (D3).

A dead segment is deleted; one that snapshots need is noted as dead, and deleted with the last of
them. A segment of which little is alive, in the snapshots that need it, too, is rewritten: what
refers to it is found by its reference rows, the bytes still wanted are appended anew, and each
referring value is changed in a unit that makes sure it still is what was read. Then the segment is
dead.
"""

from __future__ import annotations

import logging

from ..base.errors import Corrupt
from ..base.limits import MIB
from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import Extent, Piece, Segment, SourceExtent, StoredBatch
from . import extents
from .containment import Contained
from .units import Unit
from .volumes import Volume

log = logging.getLogger(__name__)

LIVE_SHARE_MIN = 0.5
"""A sealed segment is rewritten once less than this share of it is alive."""

REWRITE_BYTES_MAX = 64 * MIB
"""What one run rewrites at most."""

UNIT_REFERENCES = 200
"""References that one unit changes."""


async def run_once(volume: Volume) -> int:
    """Delete dead segments and rewrite mostly dead ones; how many segments went. CORRUPT, after
    all others, if something of one is damaged."""
    budget = REWRITE_BYTES_MAX
    damage = Contained()
    for number, segment in await _sealed(volume, damage):
        if 0 < segment.live_bytes < segment.total_bytes * LIVE_SHARE_MIN:
            if segment.live_bytes > budget or await _is_full_of_snapshots(volume, number, segment):
                continue
            budget -= segment.live_bytes
            with damage:
                await rewrite(volume, number)
    gone = await delete_dead(volume)
    damage.raise_first()
    return gone


async def _is_full_of_snapshots(volume: Volume, number: int, segment: Segment) -> bool:
    """Whether a snapshot needs so much of a segment that rewriting it would free nothing for a long
    time. The oldest one tells: what a sealed segment holds only gets less."""
    pin = volume.snapshot_pins.oldest_with(number)
    if pin is None or not pin.checkpoint:
        return pin is not None
    known = volume.snapshot_pins.live_bytes
    place = pin.number, number
    if place not in known:
        view = await volume.storage.engine.open_checkpoint(pin.checkpoint)
        try:
            value = await view.get(keys.segment(number))
        finally:
            view.close()
        known[place] = Segment.unpack(value).live_bytes if value is not None else 0
    return known[place] >= segment.total_bytes * LIVE_SHARE_MIN


async def _sealed(volume: Volume, damage: Contained) -> list[tuple[int, Segment]]:
    """Segments that no append can go to, with their accounts."""
    open_segment = volume.storage.segments.open_segment
    found = []
    async for key, value in scan_all(volume.storage.engine, *keys.prefix_range(keys.SEGMENT)):
        number = keys.number_of(key)
        if number != open_segment:
            with damage:
                found.append((number, Segment.unpack(value)))
    return found


# ---------------------------------------------------------------- dead segments


async def delete_dead(volume: Volume) -> int:
    """Forget dead segments durably, then delete their bytes: a crash between leaves a file that
    the next opening drops."""
    await _delete_unnamed(volume)
    sealed = await _sealed(volume, Contained())  # a damaged account is no reason to delete
    dead = [number for number, segment in sealed if segment.live_bytes == 0]
    kept = [number for number, died in await kept_dead(volume) if not _pinned(volume, number, died)]
    if not dead and not kept:
        return 0

    gone: list[int] = []

    async def work(unit: Unit) -> None:
        unit.quiet = True
        held_from_ = held_from(volume)
        for number in dead:
            if held_from_ is not None and number >= held_from_:
                continue
            died = await _death(unit, number)
            if died is None:
                continue
            unit.delete(keys.segment(number))
            if _pinned(volume, number, died):
                unit.put(keys.dead_segment(number), died.to_bytes(8, "big"))
            else:
                gone.append(number)
        if held_from_ is None or held_from_ > 0:  # no snapshot is being made
            for number in kept:
                unit.delete(keys.dead_segment(number))
                gone.append(number)

    await volume.run_own(work, durable=True)
    for number in gone:
        await volume.storage.segments.delete(number)
    return len(gone)


def _pinned(volume: Volume, number: int, died: int | None) -> bool:
    return bool(volume.snapshot_pins.needed_by(number, died))


async def kept_dead(volume: Volume) -> list[tuple[int, int]]:
    """Dead segments that are there for snapshots, and the commits at which they died."""
    start, end = keys.prefix_range(keys.DEAD_SEGMENT)
    return [
        (keys.number_of(key), int.from_bytes(value, "big"))
        async for key, value in scan_all(volume.storage.engine, start, end)
    ]


async def _death(unit: Unit, number: int) -> int | None:
    """The commit at which the segment died, by its account, and because nothing refers to it: a
    wrong account must not cost data. None: it lives."""
    value = await unit.get(keys.segment(number))
    if value is None:
        return None
    segment = Segment.unpack(value)
    if segment.live_bytes:
        return None
    if await unit.scan(*keys.prefix_range(keys.references(number)), limit=1):
        return None
    return segment.died or unit.commit


async def _delete_unnamed(volume: Volume) -> None:
    """Segments of which no commit ever named anything, and none will: all that was written to them
    was overwritten before its flush, or was given up."""
    segments = volume.storage.segments
    sizes = await segments.sizes()
    # Looked at after the sizes: what begins to append from now on goes to later segments.
    held_from_, open_segment = held_from(volume), segments.open_segment
    for number in sizes:
        if number == open_segment or (held_from_ is not None and number >= held_from_):
            continue
        named, dead = await volume.storage.engine.get_many(
            [keys.segment(number), keys.dead_segment(number)]
        )
        if named is not None or dead is not None:
            continue
        if await _is_in_snapshot(volume, number):
            await _keep_dead(volume, number)
        else:
            await segments.delete(number)


async def _is_in_snapshot(volume: Volume, number: int) -> bool:
    """Whether a snapshot refers to a segment of which the volume itself has never heard: it was
    restored to an earlier commit."""
    start, end = keys.prefix_range(keys.references(number))
    for checkpoint in volume.snapshot_pins.checkpoints_with(number):
        if not checkpoint:
            return True  # nobody knows
        view = await volume.storage.engine.open_checkpoint(checkpoint)
        try:
            if await view.scan(start, end, limit=1):
                return True
        finally:
            view.close()
    return False


async def _keep_dead(volume: Volume, number: int) -> None:
    async def work(unit: Unit) -> None:
        unit.quiet = True
        unit.put(keys.dead_segment(number), unit.commit.to_bytes(8, "big"))

    await volume.run_own(work, durable=False)


def held_from(volume: Volume) -> int | None:
    """Segments from here on may be named by a commit that is still to come."""
    holders = volume.holds.held_from(), volume.writeback.lowest_segment()
    return min((number for number in holders if number is not None), default=None)


# ---------------------------------------------------------------- mostly dead segments


async def rewrite(volume: Volume, number: int) -> None:
    """Move everything that is alive in a segment to the open one."""
    start, end = keys.prefix_range(keys.references(number))
    while True:
        page = await volume.storage.engine.scan(start, end, limit=UNIT_REFERENCES)
        if not page:
            return
        with volume.holds.append():
            await _rewrite_some(volume, [keys.name_of(key) for key, _ in page])
        start = page[-1][0] + b"\x00"


async def _rewrite_some(volume: Volume, referring: list[bytes]) -> None:
    values = await volume.storage.engine.get_many(referring)
    moved: dict[bytes, tuple[bytes, Extent]] = {}
    for key, value in zip(referring, values, strict=True):
        if value is None:
            continue
        try:
            moved[key] = value, await _copy(volume, key, value)
        except Corrupt as error:
            log.error("segment compaction leaves damaged bytes where they are: %s", error)
    if not moved:
        return
    await volume.storage.segments.sync()

    async def work(unit: Unit) -> None:
        # The bytes are the same: neither a cache nor a mirror has to hear of it.
        unit.quiet = True
        for key, (value, extent) in moved.items():
            if await unit.get(key) == value:
                await _replace(unit, key, value, extent)

    await volume.run_own(work, durable=False)


async def _copy(volume: Volume, key: bytes, value: bytes) -> Extent:
    """Append the bytes that the value refers to, and no others."""
    extent, skip, length = _wanted(key, value)
    data = memoryview(await extents.read(volume.storage.segments, extent))
    return await extents.append(
        volume.storage.segments,
        data[skip : skip + length],
        compression=volume.settings.compression,
    )


def _wanted(key: bytes, value: bytes) -> tuple[Extent, int, int]:
    if key[:1] == keys.PIECE:
        piece = Piece.unpack(keys.last_number_of(key), value)
        assert piece.extent is not None
        return piece.extent, piece.skip, piece.length
    assert key[:1] == keys.BATCH
    batch = StoredBatch.unpack(value)
    assert batch.extent is not None
    return batch.extent, 0, batch.extent.length


async def _replace(unit: Unit, key: bytes, value: bytes, extent: Extent) -> None:
    old, skip, length = _wanted(key, value)
    await unit.unrefer(old, key, length)
    await unit.refer(extent, key, length, fresh=True)
    if key[:1] == keys.PIECE:
        piece = Piece.unpack(keys.last_number_of(key), value)
        unit.put(key, piece._replace(extent=extent, skip=0).pack())
    else:
        unit.put(key, StoredBatch.unpack(value)._replace(extent=extent).pack())
    source = await unit.get(keys.mirrored(key)) if unit.volume.settings.mirror else None
    if source is not None:
        known = SourceExtent.unpack(source)
        unit.put(keys.mirrored(key), known._replace(start=known.start + skip).pack())
