"""The orphan sweep: what has no name any more and nobody holds goes, in small units."""

from __future__ import annotations

import asyncio

from ..base.errors import Corrupt
from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import Entry, Inode, Kind
from . import filemap, namespace
from .containment import Contained
from .retention import remove_stream_data
from .units import SYSTEM, Unit
from .volumes import Volume

ROWS_PER_UNIT = 2000

NAMES_PER_UNIT = 50


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


async def sweep(volume: Volume, number: int, *, units_max: int | None = None) -> None:
    """Remove one orphan with everything it has, in as many units as it takes, or as it may."""

    async def work(unit: Unit) -> bool:
        return await _sweep_some(unit, number)

    units = 0
    while not await volume.run(SYSTEM, work, durable=False):
        await asyncio.sleep(0)  # others have their turn
        units += 1
        if units == units_max:
            return


async def _sweep_some(unit: Unit, number: int) -> bool:
    inode = await unit.find_inode(number)
    if inode is not None:
        if _is_held(unit.volume, number):
            return True  # somebody opened it again meanwhile
        if inode.is_directory and inode.links:
            return await _remove_below(unit, inode)
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


async def _remove_below(unit: Unit, top: Inode) -> bool:
    """Some of a directory that goes with all below it: see `grafts`. Whether it is gone itself."""
    names = 0
    path = [top]
    while names < NAMES_PER_UNIT:
        directory = path[-1]
        start, end = keys.prefix_range(keys.entries(directory.number))
        page = await unit.scan(start, end, limit=NAMES_PER_UNIT - names)
        deeper = None
        for key, value in page:
            entry = Entry.unpack(value)
            if entry.volume:
                raise Corrupt("a volume is mounted in what goes: run dp check", inode=entry.inode)
            if entry.kind == Kind.DIRECTORY and (below := await unit.inode(entry.inode)).size:
                deeper = below
                break
            await namespace.drop(unit, directory.number, keys.name_of(key))
            names += 1
        if deeper is not None:
            path.append(deeper)
        elif not page:
            path.pop()
            if not path:
                await namespace.drop(unit, top.parent, top.name)
                unit.delete(keys.orphan(top.number))
                return True
    return False


async def _remove_rows(unit: Unit, table: int) -> bool:
    start, end = keys.prefix_range(keys.rows(table))
    page = await unit.scan(start, end, limit=ROWS_PER_UNIT)
    for key, _ in page:
        unit.delete(key)
    return not page
