"""Where the records of some partitions stand in one file: an index from bytes to offsets.

A file needs a size and stable positions, a log has neither: records are of any length, compressed,
and the oldest ones go. So the index gives every record a position when it first sees it, and keeps
to that. It decodes each batch once for its length, and remembers a `mark` for every `MARK_BYTES` of
text, or less where partitions alternate.

    positions   partition   offsets     stored
    0           0           100–5,100   412 KiB
    1,048,700   0           5,100–…     …
    …           1           0–…         …          (of a file of several partitions)

What the partitions hold comes first, one after the other; then what is found at each `catch_up`, in
the order of finding. Hence invariants: text is only ever appended; a record keeps its position;
`end` is the exact length of the text up to the offsets in `_next`.

The oldest records go by retention; their positions stay, as a gap with nothing in it. `compact`
closes gaps, which moves everything: only when nobody has the file open.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import compress
from typing import NamedTuple

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Corrupt, PlatformError, Stale
from dataplatform.base.limits import KIB, MIB

from .fetches import Fetched, Lines, Source

MARK_BYTES = 1 * MIB
"""Of text between marks: what is decoded to read any byte of it."""

MARKS_MAX = 1 << 20
"""40 bytes each. Then the older half is forgotten, as if its records were gone."""

FILE_BYTES_MAX = 256 * MIB
"""Stored bytes of what a file begins with: older records are not in it, so that opening it takes
seconds at most."""

FETCH_BYTES = 2 * MIB
PAUSE_BYTES = 256 * KIB
"""Decoded at a time: others want the event loop, too."""

TAIL_BYTES = 1 * MIB
"""The last text is kept while somebody reads: followers need not fetch it again."""


class Chunk(NamedTuple):
    """Some of the text."""

    position: int
    text: bytes

    @property
    def end(self) -> int:
        return self.position + len(self.text)


class Positions:
    def __init__(self, source: Source) -> None:
        self.end = 0
        self.generation = 0  # moves when positions do
        self.damage: PlatformError | None = None  # why it does not get on
        self.keeps_tail = False
        self._source = source
        self._lock = asyncio.Lock()
        self._next: dict[int, int] = {}  # by partition, the offset behind what is indexed
        self._starts: dict[int, int] = {}  # by partition, of the oldest record there is
        self._compacted: dict[int, int] | None = None  # for these starts
        self._tail = bytearray()  # the last bytes of the text
        self._set_marks(())

    def _set_marks(self, marks: Iterable[tuple[int, int, int, int, int]]) -> None:
        columns = zip(*marks, strict=True)
        none: tuple[int, ...] = ()
        self._at, self._partitions, self._firsts, self._ends, self._stored = (
            array("q", next(columns, none)) for _ in range(5)
        )

    # ------------------------------------------------------------------------------- growing

    def gap_bytes(self, partitions: Iterable[pb.Partition]) -> int:
        """About how much is stored that is not indexed yet."""
        listed = list(partitions)
        found = 0
        for part in listed:
            first = max(self._next.get(part.partition, _first(part, len(listed))), 0)
            records = part.end_offset - part.start_offset
            if part.end_offset > first and records:
                found += part.size_bytes * (part.end_offset - first) // records
        return found

    async def catch_up(self, partitions: Iterable[pb.Partition]) -> None:
        """Index everything up to these ends. What cannot be read is left out, see `damage`."""
        listed = list(partitions)
        async with self._lock:
            is_new = not self._next
            for part in listed:
                self._starts[part.partition] = part.start_offset
                if part.partition not in self._next:
                    count = len(listed) if is_new else 0
                    self._next[part.partition] = _first(part, count)
            self.damage = None
            behind = {part.partition: part.end_offset for part in listed}
            while behind := {p: end for p, end in behind.items() if self._next[p] < end}:
                offsets = {p: self._next[p] for p in behind}
                found = await self._source.fetch(offsets, FETCH_BYTES)
                if not found:
                    break  # deleted meanwhile, or made anew
                for fetched in found:
                    if not await self._take(fetched):
                        del behind[fetched.partition]

    async def _take(self, fetched: Fetched) -> bool:
        """Index what was fetched. False: that partition does not get on."""
        place = fetched.partition
        if isinstance(fetched.error, Stale) and fetched.start_offset > self._next[place]:
            self._next[place] = fetched.start_offset  # gone before anybody could see it
            return True
        if fetched.error is not None:
            self.damage = fetched.error
            return False
        pause = self.end + PAUSE_BYTES
        try:
            for lines in fetched.lines():
                self._add(place, lines)
                if self.end >= pause:
                    await asyncio.sleep(0)
                    pause = self.end + PAUSE_BYTES
        except Corrupt as error:
            self.damage = error
            return False
        return True

    def _add(self, partition: int, lines: Lines) -> None:
        self._next[partition] = lines.end
        if not lines.text:
            return
        at = self._at
        if (
            at
            and self._partitions[-1] == partition
            and self._ends[-1] == lines.first
            and self.end - at[-1] + len(lines.text) <= MARK_BYTES
        ):
            self._ends[-1] = lines.end
            self._stored[-1] += lines.stored_bytes
        else:
            if len(at) >= MARKS_MAX:
                self._forget(MARKS_MAX // 2)
            at.append(self.end)
            self._partitions.append(partition)
            self._firsts.append(lines.first)
            self._ends.append(lines.end)
            self._stored.append(lines.stored_bytes)
        self.end += len(lines.text)
        if self.keeps_tail:
            self._tail += lines.text
            if len(self._tail) > 2 * TAIL_BYTES:
                del self._tail[:-TAIL_BYTES]

    def _forget(self, count: int) -> None:
        for column in self._at, self._partitions, self._firsts, self._ends, self._stored:
            del column[:count]

    def drop_tail(self) -> None:
        """Nobody reads any more."""
        self.keeps_tail = False
        self._tail.clear()

    # ------------------------------------------------------------------------------- reading

    async def chunk(self, position: int) -> Chunk | None:
        """Text from `position` on, or, where that is in a gap, what comes behind. None at the end.
        Errors: those of the server; CORRUPT."""
        if position >= self.end:
            return None
        behind = position - (self.end - len(self._tail))
        if behind >= 0:
            return Chunk(position, bytes(self._tail[behind:]))
        at = position
        while at < self.end:
            number = max(bisect_right(self._at, at) - 1, 0)
            at = self._mark_end(number)
            if self._ends[number] > self._starts.get(self._partitions[number], 0):
                chunk = await self._load(number)
                if chunk.text and chunk.end > position:
                    return chunk
        return Chunk(self.end, b"")

    def _mark_end(self, number: int) -> int:
        """The position behind a mark's text."""
        return self._at[number + 1] if number + 1 < len(self._at) else self.end

    async def _load(self, number: int) -> Chunk:
        """A mark's text, or what is left of it: that is its end."""
        partition, position = self._partitions[number], self._mark_end(number)
        offset, end = self._firsts[number], self._ends[number]
        size = max(self._stored[number], 64 * KIB)
        found: list[bytes] = []
        while offset < end:
            fetched = await self._source.fetch({partition: offset}, size)
            if not fetched:
                break
            (part,) = fetched
            if isinstance(part.error, Stale) and part.start_offset > offset:
                found, offset = [], part.start_offset
                continue
            if part.error is not None:
                raise part.error
            for lines in part.lines():
                if lines.first >= end:
                    break
                found.append(lines.text)
                offset = lines.end
        text = b"".join(found)
        return Chunk(position - len(text), text)

    # ------------------------------------------------------------------------------ trimming

    async def compact(
        self, partitions: Iterable[pb.Partition], is_used: Callable[[], bool]
    ) -> None:
        """Close the gaps, unless somebody begins to use the positions meanwhile."""
        starts = {part.partition: part.start_offset for part in partitions}
        async with self._lock:
            if starts == self._compacted or is_used():
                return
            marks = await self._without_gaps(starts)
            if is_used():
                return
            self._compacted = starts
            if marks is not None:
                self.generation += 1
                self._tail.clear()
                at = 0
                placed = []
                for partition, first, end, stored, length in marks:
                    placed.append((at, partition, first, end, stored))
                    at += length
                self._set_marks(placed)
                self.end = at

    async def _without_gaps(
        self, starts: Mapping[int, int]
    ) -> list[tuple[int, int, int, int, int]] | None:
        """(partition, first, end, stored, length) of every mark that is still there; None: all."""
        gone = [f < starts.get(p, 0) for p, f in zip(self._partitions, self._firsts, strict=True)]
        if not any(gone) and not (self._at and self._at[0]):
            return None
        left: dict[int, int] = {}  # the length of marks of which only a part is left
        for number in compress(range(len(gone)), gone):
            if self._ends[number] > starts.get(self._partitions[number], 0):
                left[number] = len((await self._load(number)).text)
            else:
                left[number] = 0
        return [
            (
                self._partitions[n],
                max(self._firsts[n], starts.get(self._partitions[n], 0)),
                self._ends[n],
                self._stored[n],
                length,
            )
            for n in range(len(gone))
            if (length := left.get(n, self._mark_end(n) - self._at[n]))
        ]


def _first(part: pb.Partition, count: int) -> int:
    """The offset at which a file of `count` partitions begins."""
    budget = FILE_BYTES_MAX // max(count, 1)
    if part.size_bytes <= budget:
        return part.start_offset
    records = part.end_offset - part.start_offset
    return part.end_offset - max(records * budget // part.size_bytes, 1)
