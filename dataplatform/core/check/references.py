"""What refers to segments: every extent lies inside its segment, its bytes are what was written,
and the reference rows name exactly those who refer.

Extents are read in the order in which files have them, neighbours in one read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ...base.errors import Corrupt
from ...base.limits import MIB
from ...keyspace import keys
from ...keyspace.records import EXTENT_LZ4, Extent, Piece, StoredBatch, Topic
from .. import extents
from ..topics import label
from ..units import Unit
from .findings import Step
from .picture import read_record

if TYPE_CHECKING:
    from .context import Check

RUN_BYTES_MAX = MIB

VERIFIED_MAX = 256
"""Extents remembered as good: overwriting parts of a file leaves many pieces of one extent."""

OnDamaged = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class Tally:
    """What was found to refer to a segment."""

    live_bytes: int = 0
    references: int = 0


class _Wanted(NamedTuple):
    extent: Extent
    key: bytes
    value: bytes
    on_damaged: OnDamaged


class References:
    """Counts and verifies what refers to segments."""

    def __init__(self, check: Check, sizes: dict[int, int]) -> None:
        self._check = check
        self._sizes = sizes
        self._overhead_bytes = check.volume.storage.segments.overhead_bytes
        self._run: list[_Wanted] = []
        self._run_bytes = 0
        self._verified: OrderedDict[Extent, None] = OrderedDict()
        self._rows: list[tuple[int, bytes]] = []
        self.tallies: dict[int, Tally] = {}
        self.complete = True
        """False once a referring value could not be read: then sums prove nothing."""

    def exists(self, segment: int) -> bool:
        return segment in self._sizes

    # ---- counting

    def count(self, key: bytes, extent: Extent, length: int) -> None:
        tally = self.tallies.setdefault(extent.segment, Tally())
        tally.live_bytes += length
        tally.references += 1
        self._rows.append((extent.segment, key))

    async def look_up(self) -> None:
        """Whether each reference counted since the last call has its row."""
        rows, self._rows = self._rows, []
        wanted = [keys.reference(segment, key) for segment, key in rows]
        found = await self._check.picture.find_many(wanted)
        for (segment, key), row, value in zip(rows, wanted, found, strict=True):
            if value is None and not self._check.picture.is_unreadable(row):
                path, place = await referring(self._check, key)
                self._check.add(
                    path,
                    f"segment {segment} does not list that {place} refers to it",
                    _list_it(segment, key),
                )

    # ---- verifying

    def problem(self, extent: Extent) -> str:
        """What is wrong with where an extent lies; "" if nothing."""
        if extent.flags & ~EXTENT_LZ4:
            return "are stored in an unknown form"
        if not extent.flags and extent.length + self._overhead_bytes != extent.stored_length:
            return "are stored with two different lengths"
        size = self._sizes.get(extent.segment)
        if size is None:
            return f"are lost: segment {extent.segment} is missing"
        if extent.offset + extent.stored_length > size:
            return f"are lost: they lie beyond the end of segment {extent.segment}"
        return ""

    async def verify(self, extent: Extent, key: bytes, value: bytes, on_damaged: OnDamaged) -> None:
        """Read the extent, now or a little later; `on_damaged` is told what is wrong."""
        problem = self.problem(extent)
        if problem:
            await self._damaged(_Wanted(extent, key, value, on_damaged), problem)
            return
        if extent in self._verified:
            self._verified.move_to_end(extent)
            return
        run = self._run
        if run and (
            not extents.follows(extent, run[-1].extent)
            or self._run_bytes + extent.stored_length > RUN_BYTES_MAX
        ):
            await self.finish()
        self._run.append(_Wanted(extent, key, value, on_damaged))
        self._run_bytes += extent.stored_length

    async def finish(self) -> None:
        """Verify what is waiting."""
        run, self._run = self._run, []
        size_bytes, self._run_bytes = self._run_bytes, 0
        if not run:
            return
        try:
            await self._read([wanted.extent for wanted in run])
        except Corrupt:
            for wanted in run:
                try:
                    await self._read([wanted.extent])
                except Corrupt as error:
                    await self._damaged(wanted, f"are damaged: {error.message}")
        self._check.counts["bytes in segments"] += size_bytes
        self._check.saw(len(run), "bytes of files and streams")

    async def _read(self, run: list[Extent]) -> None:
        parts = await extents.read_run(self._check.volume.storage.segments, run)
        for extent, part in zip(run, parts, strict=True):
            if len(part) != extent.length:
                raise Corrupt("stored bytes are not as many as they were")
        for extent in run:
            self._verified[extent] = None
        while len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)

    async def _damaged(self, wanted: _Wanted, problem: str) -> None:
        if await self._check.is_unchanged(wanted.key, wanted.value):
            await wanted.on_damaged(problem)


# ---------------------------------------------------------------- who refers


def extent_of(key: bytes, value: bytes) -> tuple[Extent, int] | None:
    """The extent that a value refers to, and how many bytes of it. CORRUPT."""
    if key[:1] == keys.PIECE:
        piece = Piece.unpack(keys.last_number_of(key), value)
        return (piece.extent, piece.length) if piece.extent is not None else None
    if key[:1] == keys.BATCH:
        batch = StoredBatch.unpack(value)
        return (batch.extent, batch.extent.length) if batch.extent is not None else None
    return None


async def referring(check: Check, key: bytes) -> tuple[str, str]:
    """(path, which part of it) of the value of a key that refers to a segment."""
    if len(key) < 17:
        return "/", f"the unknown row {key!r}"
    offset = keys.last_number_of(key)
    if key[:1] == keys.PIECE:
        return await check.path_of(keys.number_of(key)), f"its byte {offset}"
    if key[:1] == keys.BATCH:
        return await partition_path(check, key), f"its batch at offset {offset}"
    return "/", f"the unknown row {key!r}"


async def partition_path(check: Check, key: bytes) -> str:
    """Of a partition, batch or producer key: `/path/stream:topic/0`."""
    stream = keys.number_of(key)
    topic_id, partition = keys.topic_and_partition_of(key)
    name = f"(topic {topic_id})"
    async for page in check.picture.pages(*keys.prefix_range(keys.topics(stream))):
        for topic_key, value in page:
            # The id is a topic record's first field; a damaged one is reported elsewhere.
            if _topic_id(value) == topic_id:
                name = keys.name_of(topic_key).decode("utf-8", "backslashreplace")
    return label(await check.path_of(stream), name, partition)


def _topic_id(value: bytes) -> int | None:
    try:
        return read_record(Topic, value).id
    except Corrupt:
        return None


def _list_it(segment: int, key: bytes) -> Callable[[Unit], Awaitable[Step]]:
    async def repair(unit: Unit) -> Step:
        value = await unit.get(key)
        place = extent_of(key, value) if value is not None else None
        row = keys.reference(segment, key)
        if place is None or place[0].segment != segment or await unit.get(row) is not None:
            return Step.NOT_NEEDED
        unit.put(row, b"")
        return Step.DONE

    return repair
