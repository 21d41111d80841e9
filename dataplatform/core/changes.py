"""The change feed (D4): what happened at or below a path, in order of commits.

It is read from the change rows, up to the last commit that is known to be durable, so nobody is
told of something that a power loss could undo.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from ..base.errors import Stale
from ..base.limits import PAGE_ENTRIES_MAX
from ..keyspace import keys
from ..keyspace.records import ChangeRow, Event
from .access.events import Sight
from .units import ASKED_AGAIN_S, SYSTEM, Ask, Unit, system
from .volumes import Volume

KEEP_NS = 7 * 24 * 3600 * 10**9
KEEP_ROWS_MAX = 1_000_000
"""Change rows are kept for a week, and at most a million of them per volume."""

TRIM_ROWS = 2000
"""Rows that one unit of the trim deletes."""


@dataclass(frozen=True, slots=True)
class Change:
    commit: int
    time_ns: int
    principal: str
    event: Event


async def read(
    volume: Volume, path: str, since: int, limit: int, wait_s: float, ask: Ask = system
) -> tuple[list[Change], int]:
    """(changes after commit `since`, the number to go on from). Waits up to `wait_s` for the first.

    `path` counts from the volume's root. A commit's changes come together. STALE, with the oldest
    commit kept, if what follows `since` was trimmed. What whoever asks may not see is left out.
    """
    deadline_s = volume.clock.monotonic() + wait_s
    limit = min(limit or PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX)
    while True:
        changes, since = await _read(volume, path, since, limit, Sight(volume, ask()))
        left_s = deadline_s - volume.clock.monotonic()
        if changes or left_s <= 0:
            return changes, since
        if since >= volume.lane.durable_commit:
            await volume.changed.wait(min(left_s, ASKED_AGAIN_S))


async def _read(
    volume: Volume, path: str, since: int, limit: int, sight: Sight
) -> tuple[list[Change], int]:
    oldest = volume.state.oldest_change
    if since and since + 1 < oldest:
        raise Stale("changes before this commit were trimmed", since=since, oldest=oldest)
    found: list[Change] = []
    last = volume.lane.durable_commit
    at = max(since + 1, oldest)
    while at <= last and len(found) < limit:
        page = await volume.storage.engine.scan(keys.change(at), keys.change(last + 1), limit=1000)
        if not page:
            return found, last
        for key, value in page:
            at = keys.number_of(key) + 1
            row = ChangeRow.unpack(value)
            events = [Event(*e) for e in row.events]
            for event in events:
                if concerns(event, path) and (seen := await sight.seen(event, row.time_ns)):
                    found.append(Change(at - 1, row.time_ns, row.principal, seen))
            if len(found) >= limit:
                break
    return found, at - 1


def concerns(event: Event, path: str) -> bool:
    """Whether it happened at or below the path (or left from there)."""
    if path == "/":
        return True
    below = path + "/"
    for place in (event.path, event.facts.get("from")):
        if isinstance(place, str) and (place == path or place.startswith(below)):
            return True
    return False


async def trim(volume: Volume) -> int:
    """Delete change rows that are too old or too many; how many. One bounded step."""
    state = volume.state
    before_ns = volume.clock.now_ns() - KEEP_NS
    too_many = volume.lane.durable_commit - state.oldest_change - KEEP_ROWS_MAX
    # Not one by one: a trim is a commit, too, and has a row.
    keep_from = state.oldest_change + too_many if too_many >= TRIM_ROWS else 0
    end = volume.lane.durable_commit
    if volume.audited_commit is not None:
        end = min(end, volume.audited_commit + 1)  # what the audit was not told stays
    page = await volume.storage.engine.scan(
        keys.change(state.oldest_change), keys.change(end), limit=TRIM_ROWS
    )
    # From the oldest on, without a gap, even if the clock went back in between.
    old = [
        key
        for key, _ in takewhile(
            lambda pair: (
                keys.number_of(pair[0]) <= keep_from
                or ChangeRow.unpack(pair[1]).time_ns < before_ns
            ),
            page,
        )
    ]
    if not old:
        return 0

    async def work(unit: Unit) -> None:
        unit.quiet = True
        for key in old:
            unit.delete(key)
        unit.oldest_change = keys.number_of(old[-1]) + 1

    await volume.run(SYSTEM, work, durable=False)
    return len(old)
