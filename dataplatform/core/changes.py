"""The change feed (D4): what happened at or below a path, in order of commits.

It is read from the change rows, up to the last commit that is known to be durable, so nobody is
told of something that a power loss could undo. It goes with a directory that is renamed (`places`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from ..base.errors import Corrupt, Invalid, NotFound, Stale
from ..base.limits import PAGE_ENTRIES_MAX
from ..engine.base import Pair
from ..keyspace.records import ChangeRow, Event
from . import change_log
from .access.events import Sight
from .change_words import ALL, MOVES, Wanted
from .places import is_at_or_below, may_move, moved
from .units import ASKED_AGAIN_S, Ask, system
from .volumes import Volume

LOOK_ROWS_MAX = 50_000
"""Rows that one call looks at: who asked for none of them is answered all the same, and goes on."""

PACE_S = 0.005
"""A follower looks at a busy volume so often at most."""


@dataclass(frozen=True, slots=True)
class Change:
    commit: int
    time_ns: int
    principal: str
    event: Event


class Page(NamedTuple):
    """Changes, and how to go on."""

    changes: list[Change]
    next: int  # the commit to go on from
    end: int  # the last commit that could be read
    place: str  # where the thing stood at `next`, from the volume's root
    is_over: bool = False  # the thing was removed, and nothing more will be told of it


async def read(
    volume: Volume,
    path: str,
    since: int,
    limit: int,
    wait_s: float,
    ask: Ask = system,
    wanted: Wanted = ALL,
) -> tuple[list[Change], int]:
    """(changes after commit `since`, the number to go on from). Waits up to `wait_s` for the first.

    `path` counts from the volume's root, and is that of commit `since`. A commit's changes come
    together. STALE, with the oldest commit kept, if what follows `since` was trimmed. What whoever
    asks may not see is left out.
    """
    found = await _wait(volume, path, since, limit, wait_s, ask, wanted, 0)
    return found.changes, found.next


async def read_of(
    volume: Volume,
    number: int,
    since: int,
    limit: int,
    wait_s: float,
    ask: Ask = system,
    wanted: Wanted = ALL,
) -> Page:
    """As `read`, of an inode, wherever it stood. NOT_FOUND if it has no name any more, unless what
    was read before ended at `since`: then the page tells the rest. INVALID for a commit to come."""
    if since > volume.state.commit:
        last = volume.state.commit
        raise Invalid(
            "there is no such commit yet, or it is of another volume", since=since, last=last
        )
    place = await volume.places.find(number, since)
    if place is None:
        raise NotFound("no such file or directory any more", volume=volume.id, inode=number)
    page = await _wait(volume, place.path, since, limit, wait_s, ask, wanted, place.gone_at)
    volume.places.remember(number, page.next, page.place)
    return page


async def _wait(
    volume: Volume,
    place: str,
    since: int,
    limit: int,
    wait_s: float,
    ask: Ask,
    wanted: Wanted,
    gone_at: int,
) -> Page:
    monotonic = volume.clock.monotonic
    deadline_s = monotonic() + wait_s
    limit = min(limit or PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX)
    looked_s = monotonic()
    while True:
        sight = Sight(volume, ask())
        page = await _look(volume, place, since, limit, sight, wanted)
        since, place = page.next, page.place
        if page.changes or since < page.end:
            return page
        if gone_at and since >= gone_at:
            return page._replace(is_over=True)
        left_s = deadline_s - monotonic()
        if left_s <= 0:
            return page
        if since >= volume.lane.durable_commit:
            await volume.followers.wait(min(left_s, ASKED_AGAIN_S))
        early_s = looked_s + PACE_S - monotonic()
        if early_s > 0:
            await asyncio.sleep(early_s)
        looked_s = monotonic()


async def _look(
    volume: Volume, place: str, since: int, limit: int, sight: Sight, wanted: Wanted
) -> Page:
    """What is there by now."""
    oldest = volume.state.oldest_change
    if since and since + 1 < oldest:
        raise change_log.stale(volume, since)
    end = volume.lane.durable_commit
    begin = max(since, oldest - 1)
    reading = Reading(volume, begin, place, sight, wanted)
    while reading.at < end and len(reading.found) < limit and reading.at - begin < LOOK_ROWS_MAX:
        try:
            await reading.take(await change_log.page(volume, reading.at, end), limit)
        except Stale:
            if reading.at > begin:
                break  # trimmed meanwhile: the next call says so
            if since:
                raise
            return await _look(volume, place, 0, limit, sight, wanted)
        except Corrupt:
            if reading.at == begin:
                raise
            break  # as well
        await asyncio.sleep(0)
    return Page(reading.found, reading.at, max(reading.at, end), reading.place)


class Reading:
    """A way through the change rows, of who asks for some of what happened at or below a place."""

    def __init__(
        self, volume: Volume, at: int, place: str, sight: Sight, wanted: Wanted, but: str = ""
    ) -> None:
        """`but`: rows of this origin are left out."""
        self.at = at  # the last commit that was read
        self.place = place  # where the thing stood after it
        self.found: list[Change] = []
        self._volume = volume
        self._sight = sight
        self._wanted = wanted
        self._but = but

    async def take(self, rows: list[Pair], limit: int = PAGE_ENTRIES_MAX) -> None:
        """Go on over the rows of the next commits, until there are `limit` changes. CORRUPT, once
        what is before the damage was taken."""
        for commit, (_, value) in enumerate(rows, self.at + 1):
            place = self.place
            is_about = place == "/" or place.encode() in value  # not so: "(inode 7)"
            if (is_about and self._wanted.may_take(value)) or may_move(value):
                await self._take(change_log.unpacked(value, commit, self._volume), commit)
            self.at = commit
            if len(self.found) >= limit:
                break

    async def _take(self, row: ChangeRow, commit: int) -> None:
        if self._but and row.origin == self._but:
            return
        for event in [Event(*e) for e in row.events]:
            after = moved(self.place, event)
            if (
                self._wanted.takes(event)
                and (after != self.place or concerns(event, self.place))
                and (seen := await self._sight.seen(event, row.time_ns))
            ):
                self.found.append(Change(commit, row.time_ns, row.principal, seen))
            self.place = after


def concerns(event: Event, path: str) -> bool:
    """Whether it happened at or below the path (or left from there)."""
    if path == "/" or is_at_or_below(event.path, path):
        return True
    origin = event.facts.get("from") if event.verb in MOVES else None
    return isinstance(origin, str) and is_at_or_below(origin, path)
