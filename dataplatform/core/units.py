"""The unit of work (D4): what one request reads, writes and says about it, committed as a whole.

A unit runs alone in its volume (see `lanes`), so what it reads cannot change under it. It reads
through its own writes. Nothing it does is seen by anybody until it is committed, and if it raises,
nothing happened: in-memory state outside the unit may only be changed by callbacks given to
`on_commit`.

The unit also keeps the accounts that every operation owes: the volume's usage, the directory's
times, what refers to which segment, and the change row.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..base.errors import Corrupt, Exhausted, Invalid, NotFound
from ..base.limits import UNIT_BYTES_MAX
from ..engine.base import Pair
from ..keyspace import keys
from ..keyspace.records import (
    ROOT_INODE,
    Author,
    Event,
    Extent,
    Inode,
    Kind,
    Segment,
    Statistics,
    pack_change,
)
from .access.verbs import Verb
from .principals import SYSTEM_PRINCIPAL, Principal
from .quotas import Taken
from .snapshot_names import directory_of_snapshots

if TYPE_CHECKING:
    from .volumes import Volume


@dataclass(slots=True, unsafe_hash=True)
class Request:
    """Who asks, and by which id (RFC 8881 §2.10.6) a retry is known. Without a session: no id.

    Never changed; not frozen, because making a frozen one takes three times as long.
    """

    principal: Principal = SYSTEM_PRINCIPAL
    session: bytes | None = None
    slot: int = 0
    sequence: int = 0
    method: int = 0  # what is asked for: an id stands for one request only
    caller: bytes | None = None  # the session that it came from: its caches know of the change
    origin: str = ""  # from where, for the audit: "unix pid 4711", "tcp 10.1.2.3"

    @property
    def author(self) -> Author:
        """As a change row names it: principal, origin, special right, token, who spoke for it."""
        principal = self.principal
        right = "admin" if principal.is_admin and principal is not SYSTEM_PRINCIPAL else ""
        return principal.name, self.origin, right, principal.token, principal.spoken_for_by

    @property
    def step(self) -> Request:
        """Of a unit that is only a part of the work: no id."""
        return Request(self.principal, caller=self.caller, origin=self.origin)


SYSTEM = Request()
"""The platform itself: background tasks."""

Ask = Callable[[], Request]
"""Who asks, at this moment: DENIED if it is nobody any more. For work that waits."""

ASKED_AGAIN_S = 0.5
"""So often is whoever waits asked whether they still may. A right that is withdrawn is to be gone
within a second."""


def system() -> Request:
    return SYSTEM


DEPTH_MAX = 100_000
"""Directories above something; more are a circle of damaged directories."""

_ABSENT = object()
_WORDS = {int(kind): kind.word for kind in Kind}

SORT_FROM = 32
"""New keys from which sorting everything beats inserting one by one."""

STATISTICS_KEPT_MAX = 10_000
"""Tables and streams whose statistics a volume holds in memory."""


class Unit:
    """One unit of work. Made by the lane; see the module's text for the rules."""

    __slots__ = (
        "_callbacks",
        "_inodes",
        "_packed",
        "_size_bytes",
        "_sorted",
        "_statistics",
        "accepted",
        "accounts",
        "authors",
        "changes_rules",
        "charges",
        "commit",
        "engine",
        "entries_delta",
        "events",
        "lost_name",
        "moves_rules",
        "now_ns",
        "oldest_change",
        "over",
        "quiet",
        "renamed",
        "renames",
        "request",
        "resized",
        "segments",
        "told_before",
        "unlinked",
        "used_bytes_delta",
        "volume",
        "writes",
    )

    def __init__(self, volume: Volume, request: Request) -> None:
        self.volume = volume
        self.engine = volume.storage.engine
        self.request = request
        self.now_ns = volume.clock.now_ns()
        self.commit = volume.state.commit + 1  # the number this unit has if it writes anything
        self.writes: dict[bytes, bytes | None] = {}
        self.events: list[Event] = []
        self.authors: dict[int, Request] = {}  # of events, by index, where it was another request
        self.lost_name = 0  # the inode that a name was taken from, if one was
        self.renamed = 0  # the inode that has another name now, if one has
        self.used_bytes_delta = 0
        self.entries_delta = 0
        self.segments: dict[int, Segment] = {}
        self.oldest_change: int | None = None  # set by the trim of the change log
        self.quiet = False  # housekeeping: none of the keys that it touches is a mirror's
        self.charges: dict[int, Taken] = {}  # what it takes, by directory, table or stream
        self.accounts: dict[int, Taken] = {}  # the same by account, as far as it was added up
        self.over: int | None = None  # which advisory limits the volume passes after it
        self.accepted = False  # the quota was asked before, when its bytes were taken
        self.changes_rules = False  # expressions hold, or hold no more, for what is below
        self.moves_rules = False  # a directory gets another place, mode, owner or expression
        self.renames = False  # a name of something that exists changed or went
        self.resized: list[int] = []  # files that changed beyond what their pieces tell
        self.unlinked: list[int] = []  # inodes whose last name goes
        self.told_before = False  # caches were told when its bytes were taken, or need not be
        self._inodes: dict[int, Inode] = {}
        self._packed: dict[int, bytes] = {}  # of those that were packed since they were saved
        self._statistics: dict[int, Statistics] = {}
        self._callbacks: list[Callable[[int], None]] = []
        self._size_bytes = 0
        self._sorted: list[bytes] = []  # the keys of `writes`, as far as a scan needed them

    # ---- keys

    async def get(self, key: bytes) -> bytes | None:
        found = self.writes.get(key, _ABSENT)
        if found is not _ABSENT:
            return found  # type: ignore[return-value]
        return await self.engine.get(key)

    async def get_many(self, wanted: Sequence[bytes]) -> list[bytes | None]:
        values = await self.engine.get_many(wanted)
        if self.writes:
            for index, key in enumerate(wanted):
                if key in self.writes:
                    values[index] = self.writes[key]
        return values

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        """As `Reader.scan`, this unit's writes included."""
        page = await self.engine.scan(
            start, end, reverse=reverse, limit=limit, size_bytes=size_bytes
        )
        cut = len(page) >= limit or sum(len(k) + len(v) for k, v in page) >= size_bytes
        if cut:
            # This unit's keys beyond the page belong to later pages.
            last = page[-1][0]
            own = self._own(last, end) if reverse else self._own(start, last + b"\x00")
        else:
            own = self._own(start, end)
        if not own:
            return page
        if not page:
            ordered = reversed(own) if reverse else own
            mine = ((key, self.writes[key]) for key in ordered)
            return list(islice(((k, v) for k, v in mine if v is not None), limit))
        merged = dict(page)
        for key in own:
            value = self.writes[key]
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = value
        found = sorted(merged.items(), reverse=reverse)[:limit]
        if cut and len(found) < len(page):
            # This unit deleted some of these: fill the page up.
            start, end = (start, last) if reverse else (last + b"\x00", end)
            found += await self.scan(
                start, end, reverse=reverse, limit=limit - len(found), size_bytes=size_bytes
            )
        return found

    def _own(self, start: bytes, end: bytes) -> list[bytes]:
        """The keys in a range that this unit wrote, in order. A flush scans for each of thousands
        of pieces, so they are kept sorted; dicts end with what came last."""
        fresh = len(self.writes) - len(self._sorted)
        if fresh > SORT_FROM:
            self._sorted = sorted(self.writes)
        elif fresh:
            for key in islice(reversed(self.writes), fresh):
                insort(self._sorted, key)
        return self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, end)]

    def put(self, key: bytes, value: bytes) -> None:
        self.writes[key] = value
        self._size_bytes += len(key) + len(value)
        if self._size_bytes > UNIT_BYTES_MAX:
            raise Exhausted("too much for one unit of work: split it", bytes_max=UNIT_BYTES_MAX)

    def delete(self, key: bytes) -> None:
        self.writes[key] = None

    # ---- inodes and statistics: read once, written once

    async def find_inode(self, number: int) -> Inode | None:
        inode = self._inodes.get(number)
        if inode is None:
            value = await self.get(keys.inode(number))
            if value is None:
                if directory_of_snapshots(number):
                    raise Invalid("snapshots cannot be changed", errno=errno.EROFS)
                return None
            inode = self._inodes[number] = Inode.unpack(value)
        return inode

    async def inode(self, number: int) -> Inode:
        """The unit's own copy: change it, then `save` it. NOT_FOUND if there is none."""
        inode = await self.find_inode(number)
        if inode is None:
            raise NotFound("no such inode", volume=self.volume.id, inode=number)
        return inode

    def known_inode(self, number: int) -> Inode | None:
        """If this unit has looked at it."""
        return self._inodes.get(number)

    async def packed(self, number: int) -> bytes:
        """The inode as it is, which is how this unit leaves it unless it is saved again."""
        packed = self._packed[number] = (await self.inode(number)).pack()
        return packed

    def save(self, inode: Inode) -> None:
        inode.version = self.commit
        self._inodes[inode.number] = inode
        if self._packed:
            self._packed.pop(inode.number, None)
        self.put(keys.inode(inode.number), b"")  # packed at the end, when it is final

    def adopt(self, inode: Inode, packed: bytes) -> None:
        """The inode as it is at a mirror's source."""
        self._inodes[inode.number] = inode
        self._packed[inode.number] = packed
        self.writes[keys.inode(inode.number)] = packed

    def touch(self, inode: Inode) -> None:
        """`save`, without a new version."""
        self._inodes[inode.number] = inode
        self.put(keys.inode(inode.number), b"")

    def forget(self, number: int) -> None:
        """Delete the inode."""
        self._inodes.pop(number, None)
        self.delete(keys.inode(number))

    async def statistics(self, number: int) -> Statistics:
        """Of a table or stream: the unit's own copy; `save_statistics` when changed."""
        found = self._statistics.get(number)
        if found is None:
            known = self.volume.statistics.get(number)
            if known is not None:
                found = Statistics(known.count, known.size_bytes, known.mtime_ns, known.version)
            else:
                value = await self.get(keys.statistics(number))
                found = Statistics.unpack(value) if value is not None else Statistics()
            self._statistics[number] = found
        return found

    async def account(self, number: int, *, count: int = 0, size_bytes: int = 0) -> None:
        """A table or stream grew or shrank: its statistics and the volume's usage."""
        statistics = await self.statistics(number)
        statistics.count += count
        statistics.size_bytes += size_bytes
        if statistics.count < 0 or statistics.size_bytes < 0:
            raise Corrupt("a count went below zero: run dp check", inode=number)
        statistics.mtime_ns = self.now_ns
        statistics.version = self.commit
        self.used(size_bytes, 0, number)
        self.put(keys.statistics(number), b"")  # packed at the end

    def new_inode_number(self) -> int:
        number = self.volume.state.next_inode
        taken = self.writes.get(_NEXT_INODE)
        if taken is not None:
            number = int.from_bytes(taken, "big")
        self.writes[_NEXT_INODE] = (number + 1).to_bytes(8, "big")
        return number

    def new_producer_id(self) -> int:
        number = self.volume.state.next_producer
        taken = self.writes.get(_NEXT_PRODUCER)
        if taken is not None:
            number = int.from_bytes(taken, "big")
        self.writes[_NEXT_PRODUCER] = (number + 1).to_bytes(8, "big")
        return number

    def raise_counters(self, next_inode: int, next_producer: int) -> None:
        """Give out no number below these any more (for `check`)."""
        inode, producer = self.counters()
        self.writes[_NEXT_INODE] = max(inode, next_inode).to_bytes(8, "big")
        self.writes[_NEXT_PRODUCER] = max(producer, next_producer).to_bytes(8, "big")

    def used(self, size_bytes: int, entries: int = 0, directory: int = ROOT_INODE) -> None:
        """So much more (or less) stands in this directory, table or stream. Whether there is room
        is asked when the unit ends: see `quotas`."""
        self.used_bytes_delta += size_bytes
        self.entries_delta += entries
        if self.volume.quotas.directories:
            taken = self.charges.get(directory)
            if taken is None:
                taken = self.charges[directory] = Taken()
            taken.size_bytes += size_bytes
            taken.entries += entries

    # ---- who may do it

    async def allow(
        self,
        thing: Inode | int,
        verb: Verb,
        *,
        opened: bool = False,
        code: int = errno.EACCES,
    ) -> None:
        """DENIED, with this errno, unless the unit's principal may: see `Guard.allow`. With
        `opened`, what its session has open counts."""
        request = self.request
        if request.principal.is_free:
            return
        guard = self.volume.guard
        if (
            not self.moves_rules
            and not isinstance(thing, int)
            and guard.allows_now(request.principal, self.volume, thing, verb)
        ):
            return
        session = request.caller if opened else None
        await guard.allow(
            request.principal, self.volume, thing, verb, session=session, unit=self, code=code
        )

    async def search(self, directory: int, target: tuple[int, int] | None = None) -> None:
        """DENIED unless the unit's principal may look up names there: see `Guard.search`."""
        principal = self.request.principal
        if principal.is_free:
            return
        guard = self.volume.guard
        if not self.moves_rules and guard.searches_now(principal, self.volume, directory):
            return
        await guard.search(principal, self.volume, directory, target=target, unit=self)

    def change_rules(self) -> None:
        """Other expressions hold for the thing and for all below it: caches hear that everything is
        over, for nobody knows what they keep of that."""
        self.changes_rules = True
        self.move_rules()

    def move_rules(self) -> None:
        """What verdicts are made of changes in this unit: see `Guard.changed`."""
        if not self.moves_rules:
            self.moves_rules = True
            guard = self.volume.guard
            self.on_commit(lambda _: guard.changed())

    # ---- segments: who refers to what

    async def _segment(self, number: int) -> Segment:
        segment = self.segments.get(number)
        if segment is None:
            value = await self.get(keys.segment(number))
            segment = Segment.unpack(value) if value is not None else Segment()
            self.segments[number] = segment
        return segment

    async def revive(self, number: int, total_bytes: int) -> None:
        """A segment of which only snapshots knew is referred to again: its account goes on."""
        segment = await self._segment(number)
        if not segment.total_bytes:
            segment.total_bytes = total_bytes
            self.delete(keys.dead_segment(number))

    async def refer(self, extent: Extent, key: bytes, length: int, *, fresh: bool) -> None:
        """The value of `key` refers to `length` uncompressed bytes of the extent from now on.

        `fresh`: the extent was never committed before, so its segment grows.
        """
        segment = await self._segment(extent.segment)
        if fresh:
            segment.total_bytes += extent.length
        segment.live_bytes += length
        self.put(keys.reference(extent.segment, key), b"")

    async def unrefer(self, extent: Extent, key: bytes, length: int) -> None:
        """The value of `key` no longer refers to those bytes."""
        segment = await self._segment(extent.segment)
        segment.live_bytes -= length
        self.delete(keys.reference(extent.segment, key))

    # ---- what happened

    def by(self, request: Request, start: int, end: int) -> None:
        """The events [start, end) are another request's, which travelled with this one."""
        if request.principal is self.request.principal and request.origin == self.request.origin:
            return
        for index in range(start, end):
            self.authors[index] = request

    def event(self, verb: str, path: str, kind: int | str, **facts: Any) -> None:
        word = kind if isinstance(kind, str) else _WORDS[kind]
        self.events.append(Event(verb, path, word, facts))

    async def path_of(self, number: int) -> str:
        """Path from the volume's root, by way of the inode's first name; for events and errors."""
        known = self.volume.paths
        path = known.get(number)
        if path is not None:
            return path
        cleared = known.cleared
        unnamed: list[Inode] = []  # from the inode upwards, as far as no path is known
        current = number
        while path is None:
            inode = await self.find_inode(current)
            if inode is None or inode.links == 0 or len(unnamed) > DEPTH_MAX:
                return f"(inode {number})"
            if inode.parent == 0:
                path = "/"
            else:
                unnamed.append(inode)
                current = inode.parent
                path = known.get(current)
        # Only what this unit did not name itself is remembered: it may yet fail.
        unchanged = not self.renames and cleared == known.cleared
        names_end = self.volume.state.next_inode
        for inode in reversed(unnamed):
            path = f"{'' if path == '/' else path}/{inode.name.decode('utf-8', 'replace')}"
            if unchanged and inode.number < names_end:
                known.remember(inode.number, path, inode.kind)
        return path

    def on_commit(self, callback: Callable[[int], None]) -> None:
        """Called with the engine's ticket, right after the commit and before any other unit."""
        self._callbacks.append(callback)

    # ---- for the lane

    def seal(self, *, is_commit: bool = True) -> dict[bytes, bytes | None]:
        """Pack what is left and add the change row, if it is one of the volume's commits; the batch
        for the engine."""
        writes = self.writes
        writes.pop(_NEXT_INODE, None)
        writes.pop(_NEXT_PRODUCER, None)
        for number, inode in self._inodes.items():
            key = keys.inode(number)
            if writes.get(key) is not None:
                writes[key] = self._packed.get(number) or inode.pack()
        for number, statistics in self._statistics.items():
            key = keys.statistics(number)
            if writes.get(key) is not None:
                writes[key] = statistics.pack()
        for number, segment in self.segments.items():
            if segment.live_bytes < 0:
                raise Corrupt("a segment's account is wrong: run dp check", segment=number)
            segment.died = 0 if segment.live_bytes else self.commit
            writes[keys.segment(number)] = segment.pack()
        if not is_commit:
            return writes
        touched = [] if self.quiet else list(writes)
        others = {index: list(by.author) for index, by in self.authors.items()}
        author = self.request.author
        writes[keys.change(self.commit)] = pack_change(
            self.now_ns, self.events, touched, author, others
        )
        return writes

    def counters(self) -> tuple[int, int]:
        """(next inode, next producer) once this unit is committed."""
        state = self.volume.state
        inode = self.writes.get(_NEXT_INODE)
        producer = self.writes.get(_NEXT_PRODUCER)
        return (
            int.from_bytes(inode, "big") if inode else state.next_inode,
            int.from_bytes(producer, "big") if producer else state.next_producer,
        )

    def committed(self, ticket: int) -> None:
        kept, audit_stream = self.volume.statistics, self.volume.audit_stream
        for number, statistics in self._statistics.items():
            kept[number] = statistics
            if number == audit_stream:
                self.volume.quotas.exempt_bytes = statistics.size_bytes
        if len(kept) > STATISTICS_KEPT_MAX:
            kept.clear()
        for callback in self._callbacks:
            callback(ticket)


# Counters handed out within a unit: pseudo keys that never reach the engine.
_NEXT_INODE = b"\x00next inode"
_NEXT_PRODUCER = b"\x00next producer"
