"""Expired rows go: swept from tables with a time to live, a bounded amount of work per run.

Nobody sees an expired row, so the sweep only gives space back, and may take its time. There is no
index by expiry: it would double what every put writes. Instead the rows of such a table are looked
at from its first to its last, a part in each run. A finished pass knows when the next row expires,
and rows put later live at least the table's ttl, so a table is left alone until then, and for a
tenth of its ttl in any case: expired rows take at most about that much more space than live ones.

Tables are found by their statistics, which only tables and streams have, so a million files cost
nothing. What the sweep remembers of a volume may be lost at any time: it then starts again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import Inode, Kind, row_head
from . import rows, tables
from .containment import Contained
from .units import SYSTEM, Unit
from .volumes import Volume

ROWS_PER_RUN = 100_000
"""Rows looked at in one run: some 0.1 s, in small parts."""

ROWS_PER_UNIT = 1000
"""Rows looked at, and at most removed, at a time: writers wait for a few ms."""

NEVER_MS = 2**63


@dataclass(slots=True)
class _Pass:
    """One walk through the rows of a table."""

    started_ms: int
    version: int  # of the inode: a change of the ttl asks for another pass
    position: bytes = b""  # the first key not yet looked at
    next_expiry_ms: int = NEVER_MS  # the earliest among the rows that are left


@dataclass(slots=True)
class _Memory:
    """What the sweep remembers of one open volume."""

    passes: dict[int, _Pass] = field(default_factory=dict)  # under way, by table
    done: dict[int, tuple[int, int]] = field(default_factory=dict)  # inode version, wait until


_memories: WeakKeyDictionary[Volume, _Memory] = WeakKeyDictionary()


async def run_once(volume: Volume) -> int:
    """Look at some rows and remove those that expired; how many were removed. CORRUPT, after all
    other tables, if one is damaged."""
    memory = _memories.setdefault(volume, _Memory())
    left = ROWS_PER_RUN
    removed = 0
    damage = Contained()
    for inode in await _tables_with_ttl(volume, memory, damage):
        while left > 0:
            finished = True  # of a damaged table, too, for this run
            with damage:
                looked_at, gone, finished = await _step(volume, memory, inode)
                left -= max(looked_at, 1)
                removed += gone
            if finished:
                break
            await asyncio.sleep(0)
    damage.raise_first()
    return removed


async def _tables_with_ttl(volume: Volume, memory: _Memory, damage: Contained) -> list[Inode]:
    """Tables that have, or once had, a ttl and may hold expired rows; begun ones first."""
    engine = volume.storage.engine
    start, end = keys.prefix_range(keys.STATISTICS)
    numbers = [keys.number_of(key) async for key, _ in scan_all(engine, start, end)]
    now_ms = volume.clock.now_ns() // 1_000_000
    found = []
    for number in numbers:
        inode = None
        with damage:
            inode = await volume.find_inode(number)
        if inode is None or inode.kind != Kind.TABLE or not inode.links:
            continue
        if "ttl_ms" not in inode.settings:
            continue
        version, wait_until_ms = memory.done.get(number, (0, 0))
        if version != inode.version or wait_until_ms <= now_ms:
            found.append(inode)
    alive = {inode.number for inode in found}
    memory.passes = {n: p for n, p in memory.passes.items() if n in alive}
    memory.done = {n: d for n, d in memory.done.items() if n in numbers}
    return sorted(found, key=lambda inode: inode.number not in memory.passes)


async def _step(volume: Volume, memory: _Memory, inode: Inode) -> tuple[int, int, bool]:
    """(rows looked at, rows removed, whether that was the last part of the table)."""
    now_ns = volume.clock.now_ns()
    walk = memory.passes.setdefault(inode.number, _Pass(now_ns // 1_000_000, inode.version))
    _, end = keys.prefix_range(keys.rows(inode.number))
    pairs = await volume.storage.engine.scan(
        keys.row(inode.number, walk.position), end, limit=ROWS_PER_UNIT
    )
    now = rows.moment(now_ns)
    expired = []
    for key, value in pairs:
        _, expires_ms = row_head(value)
        if not rows.is_alive(value, now):
            expired.append(key)
        elif expires_ms:
            walk.next_expiry_ms = min(walk.next_expiry_ms, expires_ms)
    removed = 0
    if expired:
        removed = await volume.run(
            SYSTEM, lambda unit: _remove(unit, inode.number, expired), durable=False
        )
    if pairs:
        walk.position = keys.name_of(pairs[-1][0]) + b"\x00"
        return len(pairs), removed, False
    del memory.passes[inode.number]
    memory.done[inode.number] = walk.version, _wait_until_ms(inode, walk)
    return 0, removed, True


def _wait_until_ms(inode: Inode, walk: _Pass) -> int:
    """When another pass can find something worth its while."""
    ttl_ms: int = inode.settings["ttl_ms"]
    if ttl_ms <= 0:
        return walk.next_expiry_ms
    next_expiry_ms = min(walk.next_expiry_ms, walk.started_ms + ttl_ms)
    return max(next_expiry_ms, walk.started_ms + ttl_ms // 10)


async def _remove(unit: Unit, table: int, expired: list[bytes]) -> int:
    """Remove those of the rows that are still expired: they may have been put again since."""
    inode = await unit.find_inode(table)
    if inode is None or not inode.links:
        return 0  # the table is gone: its rows go with it
    now = rows.moment(unit.now_ns)
    count = size = 0
    for key, value in zip(expired, await unit.get_many(expired), strict=True):
        if value is None or rows.is_alive(value, now):
            continue
        unit.delete(key)
        count += 1
        size += tables.stored_bytes(keys.name_of(key), value)
    if count:
        await unit.account(table, count=-count, size_bytes=-size)
        unit.event("rows expired", await unit.path_of(table), "table", rows=count)
    return count
