"""The change log stays bounded: rows go by age and by number, as the volume's settings say.

Whoever copies rows elsewhere says in `Volume.change_holds` how far they have come, and rows that
they have not read stay, but not for longer than HOLD_FACTOR times as long, or as many: a reader
that stands still must not fill the disk, and gets STALE. What the audit was not told stays.
"""

from __future__ import annotations

import asyncio
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Invalid
from ..keyspace import keys
from ..keyspace.records import ChangeRow, VolumeSettings
from .units import SYSTEM, Unit

if TYPE_CHECKING:
    from .volumes import Volume

KEEP_NS = 7 * 24 * 3600 * 10**9
KEEP_ROWS_MAX = 1_000_000
"""Change rows are kept for a week, and at most a million of them per volume, unless its settings
say otherwise."""

KEEP_MS_MIN = 1000
KEEP_ROWS_MIN = 100
KEEP_MS_LAST = 100 * 365 * 24 * 3600 * 1000
KEEP_ROWS_LAST = 10**12
"""Of what settings say: readers need a moment, and nothing is kept for ever."""

HOLD_FACTOR = 2

TRIM_ROWS = 2000
"""Rows that one unit of the trim deletes."""

SEVERAL_MIN = 25
"""Rows too many for which a trim is worth its own."""

STEPS_MAX = 1000
"""Units of one run."""


class Bounds(NamedTuple):
    """Rows up to commit `commit`, and those from before `before_ns`, may go."""

    commit: int
    before_ns: int

    def spares(self, commit: int, row: bytes) -> bool:
        return commit > self.commit and ChangeRow.time_of(row) >= self.before_ns


def kept(settings: VolumeSettings) -> tuple[int, int]:
    """For how long (ns), and how many."""
    return (
        settings.changes_ttl_ms * 10**6 or KEEP_NS,
        settings.changes_rows or KEEP_ROWS_MAX,
    )


def check_settings(settings: VolumeSettings) -> None:
    """INVALID for what is too short to be read, or too long."""
    for name, first, last in (
        ("changes_ttl_ms", KEEP_MS_MIN, KEEP_MS_LAST),
        ("changes_rows", KEEP_ROWS_MIN, KEEP_ROWS_LAST),
    ):
        value = getattr(settings, name)
        if value and not first <= value <= last:
            raise Invalid(
                "changes cannot be kept so short or so long",
                **{name: value, "first": first, "last": last},
            )


async def run_once(volume: Volume) -> int:
    """Trim as far as may be; how many rows went."""
    count = 0
    for _ in range(STEPS_MAX):
        done = await trim(volume)
        count += done
        if done < TRIM_ROWS:
            break
        await asyncio.sleep(0)
    return count


async def trim(volume: Volume) -> int:
    """Delete change rows that are too old or too many; how many. One bounded step."""
    bounds = _bounds(volume, 1)
    end = volume.lane.durable_commit
    if volume.audited_commit is not None:
        end = min(end, volume.audited_commit + 1)
    held = min(volume.change_holds.values(), default=end)
    late = _bounds(volume, HOLD_FACTOR)
    page = await volume.storage.engine.scan(
        keys.change(volume.state.oldest_change), keys.change(end), limit=TRIM_ROWS
    )
    # From the oldest on, without a gap, even if the clock went back in between.
    old = [
        key
        for key, _ in takewhile(
            lambda pair: (
                not (bounds if keys.number_of(pair[0]) <= held else late).spares(
                    keys.number_of(pair[0]), pair[1]
                )
            ),
            page,
        )
    ]
    if len(old) < 2:
        return 0  # the row of the last trim alone is no reason for another one

    async def work(unit: Unit) -> None:
        unit.quiet = True
        for key in old:
            unit.delete(key)
        unit.oldest_change = keys.number_of(old[-1]) + 1

    await volume.run(SYSTEM, work, durable=False)
    return len(old)


def _bounds(volume: Volume, factor: int) -> Bounds:
    keep_ns, rows = kept(volume.settings)
    rows *= factor
    too_many = volume.lane.durable_commit - volume.state.oldest_change - rows
    # Not one by one: a trim is a commit, too, and has a row.
    several = min(TRIM_ROWS, max(rows // 4, SEVERAL_MIN))
    commit = volume.state.oldest_change + too_many if too_many >= several else 0
    return Bounds(commit, volume.clock.now_ns() - keep_ns * factor)
