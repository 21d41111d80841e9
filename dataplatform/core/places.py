"""Where a thing stood at a commit: the feed of a directory goes with it when it is renamed.

Paths in change rows are those of their moment. Who reads on from commit N wants what happened to
this directory since, so the reader needs its path as of N. `Places` remembers it where somebody
read before; else it is found by going back through the renames from where the thing stands now.
Before the thing was made, its place is where it came to be.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from ..keyspace.records import ROOT_INODE, ChangeRow, Event
from . import change_log
from .change_words import MOVES

if TYPE_CHECKING:
    from .volumes import Volume

REMEMBERED_MAX = 10_000
"""Places of readers, per volume."""

_MOVES = tuple(word.encode() for word in MOVES)


def is_at_or_below(path: str, place: str) -> bool:
    return path == place or place == "/" or path.startswith(place + "/")


def may_move(row: bytes) -> bool:
    """Whether a stored change row can have a rename."""
    return any(word in row for word in _MOVES)


def moved(place: str, event: Event) -> str:
    """Where what stood there stands after the event."""
    if event.verb in MOVES:
        old, new = event.facts["from"], event.facts["to"]
        if is_at_or_below(place, old):
            return str(new + place[len(old) :])
        if event.verb == "exchanged" and is_at_or_below(place, new):
            return str(old + place[len(new) :])
    return place


def moved_back(place: str, event: Event) -> str:
    """Where what stands there stood before the event."""
    if event.verb in MOVES:
        old, new = event.facts["from"], event.facts["to"]
        if is_at_or_below(place, new):
            return str(old + place[len(new) :])
        if event.verb == "exchanged" and is_at_or_below(place, old):
            return str(new + place[len(old) :])
    return place


class Place(NamedTuple):
    """A path from the volume's root; `gone_at`: the commit by which the thing was removed, 0 if it
    is there."""

    path: str
    gone_at: int = 0


class Places:
    """Of one volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._known: OrderedDict[tuple[int, int], str] = OrderedDict()

    def remember(self, number: int, commit: int, path: str) -> None:
        if number == ROOT_INODE:
            return
        known = self._known
        known[number, commit] = path
        known.move_to_end((number, commit))
        if len(known) > REMEMBERED_MAX:
            known.popitem(last=False)

    def knows(self, number: int, commit: int) -> bool:
        return (number, commit) in self._known

    async def now(self, number: int) -> tuple[str | None, int]:
        """The path of an inode, None if it has none, and the commit as of which that is so."""
        volume = self._volume
        async with volume.lane.between():
            inode = await volume.find_inode(number)
            path = await volume.path_of(number) if inode is not None and inode.links else None
            return path, volume.state.commit

    async def find(self, number: int, since: int) -> Place | None:
        """Where an inode stood after commit `since`. None: it has no name any more, and nobody
        has asked before."""
        if number == ROOT_INODE:
            return Place("/")
        known = self._known.get((number, since))
        if known is not None:
            inode = await self._volume.find_inode(number)
            is_gone = inode is None or not inode.links
            return Place(known, self._volume.state.commit if is_gone else 0)
        path, commit = await self.now(number)
        return Place(await self._before(path, since, commit)) if path is not None else None

    async def _before(self, path: str, since: int, commit: int) -> str:
        """Back through the renames after `since`, up to a commit at which it stood there."""
        async for _, value in change_log.backwards(self._volume, since, commit):
            if not may_move(value) and path.encode() not in value:
                continue
            for event in reversed([Event(*e) for e in ChangeRow.unpack(value).events]):
                if event.verb == "created" and event.path == path:
                    return path
                path = moved_back(path, event)
        return path
