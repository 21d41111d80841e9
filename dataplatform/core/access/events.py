"""Which events of the change feed somebody may see.

A name is seen by whoever may list its directory; what happened to rows also needs `read` of the
table, and what happened within a stream `consume`. An event keeps the path that a thing had, so it
is judged by what stands at that path now; once something else stands there, or the directory or
what held the row or record is gone, administrators alone see what was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import Denied, NotFound
from ...keyspace.records import ROOT_INODE, Event, Inode, Kind
from ..change_words import OF_RECORDS, OF_ROWS
from .columns import Columns, readable
from .verbs import Verb

if TYPE_CHECKING:
    from ..units import Request
    from ..volumes import Volume


class Sight:
    """Of one principal, for one look at the feed of a volume; it remembers what it found."""

    def __init__(self, volume: Volume, request: Request) -> None:
        self._volume = volume
        self._request = request
        self._found: dict[str, Inode | None] = {}
        self._listed: dict[str, bool] = {}
        self._columns: dict[int, Columns | None] = {}
        self._consumed: dict[int, bool] = {}

    async def seen(self, event: Event, time_ns: int) -> Event | None:
        """The event as it may be seen; None if it may not. `time_ns` is when it happened."""
        if self._request.principal.is_free:
            return event
        inner = event.verb in OF_ROWS or event.verb in OF_RECORDS
        if not inner and not await self._may_list(event.path):
            return None
        facts = event.facts
        if inner:
            inode = await self._find(event.path)
            if inode is None or inode.birth_ns > time_ns:
                return None
            return await (self._rows if event.verb in OF_ROWS else self._records)(inode, event)
        for name in ("from", "existing"):
            other = facts.get(name)
            if isinstance(other, str) and not await self._may_list(other):
                facts = {key: value for key, value in facts.items() if key != name}
        return event._replace(facts=facts)

    async def _rows(self, inode: Inode, event: Event) -> Event | None:
        if inode.kind != Kind.TABLE:
            return None
        if inode.number not in self._columns:
            try:
                self._columns[inode.number] = await readable(self._volume, inode, self._request)
            except (Denied, NotFound):
                self._columns[inode.number] = None
        columns = self._columns[inode.number]
        if columns is None:
            return None
        named = event.facts.get("column")
        if isinstance(named, str) and not columns.allows(named):
            return None
        several = event.facts.get("columns")
        if isinstance(several, list) and not all(columns.allows(name) for name in several):
            left = [name for name in several if columns.allows(name)]
            return event._replace(facts={**event.facts, "columns": left}) if left else None
        return event

    async def _records(self, inode: Inode, event: Event) -> Event | None:
        if inode.kind != Kind.STREAM:
            return None
        if inode.number not in self._consumed:
            self._consumed[inode.number] = await self._may(inode, Verb.CONSUME)
        return event if self._consumed[inode.number] else None

    async def _may_list(self, path: str) -> bool:
        """Whether the name that stands at the end of a path may be seen."""
        above = path.rpartition("/")[0] or "/"
        if path == "/":
            return True  # whoever reads the feed has got there
        if above not in self._listed:
            directory = await self._find(above)
            self._listed[above] = (
                directory is not None
                and directory.is_directory
                and await self._may(directory, Verb.LIST)
            )
        return self._listed[above]

    async def _may(self, inode: Inode, verb: Verb) -> bool:
        guard, principal = self._volume.guard, self._request.principal
        try:
            return await guard.may(principal, self._volume, inode, verb)
        except NotFound:
            return False

    async def _find(self, path: str) -> Inode | None:
        """What stands at a path from the volume's root, links not followed."""
        if path not in self._found:
            number = ROOT_INODE
            for name in filter(None, path.split("/")):
                entry = await self._volume.find_entry(number, name.encode())
                if entry is None or entry.volume:
                    self._found[path] = None
                    break
                number = entry.inode
            else:
                self._found[path] = await self._volume.find_inode(number)
        return self._found[path]
