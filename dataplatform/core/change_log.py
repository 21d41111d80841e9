"""The change log: one row for each commit, from the oldest that is kept on, none missing.

Rows go by age and by number. Who copies them elsewhere (the audit, publications) holds back the
trim, within bounds: see `trim`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ..base.errors import Corrupt, Stale
from ..engine.base import Pair
from ..keyspace import keys
from ..keyspace.records import ChangeRow
from .units import SYSTEM, Unit

if TYPE_CHECKING:
    from .volumes import Volume

PAGE_ROWS = 500
PAGE_BYTES = 1 << 20
"""Change rows that are read at once. After each page others have their turn."""


async def page(
    volume: Volume, after: int, last: int, *, limit: int = PAGE_ROWS, size_bytes: int = PAGE_BYTES
) -> list[Pair]:
    """The rows of the commits behind `after`, up to `last` at most; none only if there is none.

    STALE, with the oldest commit that is kept, if the first of them was trimmed; CORRUPT if damage
    took it.
    """
    if after >= last:
        return []
    found = await _scan(volume, after, last, limit, size_bytes)
    if found and keys.number_of(found[0][0]) == after + 1:
        if keys.number_of(found[-1][0]) != after + len(found):
            ahead = (n for n, (key, _) in enumerate(found, after + 1) if keys.number_of(key) != n)
            found = found[: next(ahead) - after - 1]
        return found
    oldest = volume.state.oldest_change
    if after + 1 < oldest:
        raise stale(volume, after)
    raise _damaged(volume, after + 1, keys.number_of(found[0][0]) - 1 if found else last)


async def _scan(volume: Volume, after: int, last: int, limit: int, size_bytes: int) -> list[Pair]:
    """What is stored there, up to what damage makes unreadable."""
    engine, key = volume.storage.engine, keys.change(after + 1)
    try:
        return await engine.scan(key, keys.change(last + 1), limit=limit, size_bytes=size_bytes)
    except Corrupt:
        try:
            value = await engine.get(key)
        except Corrupt:
            raise _damaged(volume, after + 1, after + 1) from None
        return [(key, value)] if value is not None else []


def unpacked(value: bytes, commit: int, volume: Volume) -> ChangeRow:
    """CORRUPT, with the commit to go on from."""
    try:
        return ChangeRow.unpack(value)
    except Corrupt as error:
        raise _damaged(volume, commit, commit) from error


def _damaged(volume: Volume, first: int, last: int) -> Corrupt:
    return Corrupt(
        "commits are missing in the change log: run dp check, look at what is there now, then go "
        "on from the last of them",
        first=first,
        last=last,
        volume=volume.id,
    )


def stale(volume: Volume, since: int) -> Stale:
    return Stale(
        "changes before this commit were trimmed: look at what is there now, then go on from the "
        "oldest that is kept",
        since=since,
        oldest=volume.state.oldest_change,
    )


async def backwards(volume: Volume, after: int, last: int) -> AsyncIterator[Pair]:
    """The rows of commits from `last` back to the one behind `after`, as far as they are kept."""
    start, end = keys.change(after + 1), keys.change(last + 1)
    while True:
        found = await volume.storage.engine.scan(
            start, end, reverse=True, limit=PAGE_ROWS, size_bytes=PAGE_BYTES
        )
        for pair in found:
            yield pair
        if not found:
            return
        end = found[-1][0]
        await asyncio.sleep(0)


CUT_ROWS = 5000
"""Rows from before a cut that one unit deletes."""


def last_cut(volume: Volume) -> int:
    """The last commit before the newest cut of the volume's line of commits."""
    return max((int(commit) for _, commit in volume.settings.lineage), default=0)


async def drop_cut(volume: Volume) -> int:
    """Delete rows from before the volume was restored, which nobody can read any more; how many.
    One bounded step."""
    if not volume.settings.lineage:
        return 0
    end = volume.state.oldest_change
    page = await volume.storage.engine.scan(keys.change(0), keys.change(end), limit=CUT_ROWS)
    if not page:
        return 0

    async def work(unit: Unit) -> None:
        unit.quiet = True
        for key, _ in page:
            unit.delete(key)

    await volume.run(SYSTEM, work, durable=False)
    return len(page)
