"""The orphan sweep: what has no name any more and nobody holds goes, in small units."""

from __future__ import annotations

from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import Kind
from . import filemap, namespace
from .containment import Contained
from .retention import remove_stream_data
from .units import SYSTEM, Unit
from .volumes import Volume

ROWS_PER_UNIT = 2000


async def run_once(volume: Volume) -> int:
    """Sweep what can go; how many orphans went. CORRUPT, after all others, if one is damaged."""
    swept = 0
    damage = Contained()
    orphans = [
        pair async for pair in scan_all(volume.storage.engine, *keys.prefix_range(keys.ORPHAN))
    ]
    for key, _ in orphans:
        number = keys.number_of(key)
        if _is_held(volume, number) or volume.may_be_missed(number):
            continue
        with damage:
            await sweep(volume, number)
            swept += 1
    damage.raise_first()
    return swept


def _is_held(volume: Volume, number: int) -> bool:
    """Open, or its keepers have not acknowledged that it lost its name: they may yet open it."""
    return number in volume.opens or (
        bool(volume.promises) and volume.promises.holds(volume.id, number)
    )


async def sweep(volume: Volume, number: int) -> None:
    """Remove one orphan with everything it has, in as many units as it takes."""
    done = False
    while not done:

        async def work(unit: Unit) -> bool:
            return await _sweep_some(unit, number)

        done = await volume.run(SYSTEM, work, durable=False)


async def _sweep_some(unit: Unit, number: int) -> bool:
    inode = await unit.find_inode(number)
    if inode is not None:
        if _is_held(unit.volume, number):
            return True  # somebody opened it again meanwhile
        assert inode.links == 0 or inode.kind in (Kind.TABLE, Kind.STREAM)
        if inode.kind == Kind.FILE and not await filemap.remove_some(unit, number):
            return False
        if inode.kind == Kind.TABLE and not await _remove_rows(unit, number):
            return False
        if inode.kind == Kind.STREAM and not await remove_stream_data(unit, number, ROWS_PER_UNIT):
            return False
        await namespace.remove_xattrs(unit, number)
        unit.delete(keys.statistics(number))
        unit.forget(number)
    unit.delete(keys.orphan(number))
    return True


async def _remove_rows(unit: Unit, table: int) -> bool:
    start, end = keys.prefix_range(keys.rows(table))
    page = await unit.scan(start, end, limit=ROWS_PER_UNIT)
    for key, _ in page:
        unit.delete(key)
    return not page
