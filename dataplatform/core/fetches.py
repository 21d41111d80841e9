"""Reading record batches: by offset, by time, waiting for more.

Batches come back as they were stored, with their base offsets, and their records are not decoded.
A reply starts with the batch that *contains* the wanted offset: the reader skips what lies before.
Nothing beyond the watermark is ever shown (see `partitions`), and every batch is verified.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Corrupt, Invalid, NotFound, PlatformError, Stale
from ..base.limits import BATCH_BYTES_MAX, PAGE_BYTES
from ..engine.base import Reader
from ..engine.checksums import crc32c
from ..keyspace import keys
from ..keyspace.records import Partition, StoredBatch, Topic
from . import batches, extents
from .partitions import PartitionId
from .topics import check_consume, check_topic_name, find_topics, label, no_topic, watermark
from .units import ASKED_AGAIN_S, SYSTEM, Ask, Request, system

if TYPE_CHECKING:
    from .volumes import Volume

Buffer = bytes | memoryview

FETCH_BYTES_MAX = BATCH_BYTES_MAX
"""What a reply holds at most, so that it fits a frame."""

WAIT_S_MAX = 60.0
"""The longest wait of one fetch."""

ATTEMPTS = 3
"""A read that finds rows or bytes missing looks again: retention and compaction run beside it."""

_FIRST_PAGE_ROWS = 32
_PAGE_ROWS = 512

TIME_END = -1
TIME_START = -2
"""As in Kafka's ListOffsets."""


class Position(NamedTuple):
    """Where to read one partition from."""

    topic: str
    partition: int
    offset: int


class Fetched(NamedTuple):
    """Of one position: batches, or an error."""

    position: int  # which one of those asked for
    buffers: list[Buffer]
    length: int
    start_offset: int
    end_offset: int
    error: PlatformError | None = None


Row = tuple[int, bytes, StoredBatch]
"""(base offset, key, batch)."""


async def fetch(
    volume: Volume,
    stream: int,
    positions: Sequence[Position],
    *,
    size_bytes: int = 0,
    wait_s: float = 0.0,
    ask: Ask = system,
) -> list[Fetched]:
    """The positions that have data or an error.

    At least one batch if there is any, then up to `size_bytes` (0: a page) over all positions in
    their order: a reader of many partitions rotates them. If there is nothing, waits up to
    `wait_s` for a first record. DENIED to whoever may not consume, which is asked at every look.

    Errors of a position: STALE with the start offset if its offset was trimmed away, INVALID
    beyond the end, NOT_FOUND for an unknown topic or partition, CORRUPT naming it.
    """
    work = _Fetch(volume, stream, positions, size_bytes, ask)
    return await work.run(min(wait_s, WAIT_S_MAX))


class _Fetch:
    def __init__(
        self,
        volume: Volume,
        stream: int,
        positions: Sequence[Position],
        size_bytes: int,
        ask: Ask,
    ) -> None:
        self._volume = volume
        self._engine = volume.storage.engine
        self._stream = stream
        self._positions = positions
        self._ask = ask
        self._size_bytes = min(size_bytes or PAGE_BYTES, FETCH_BYTES_MAX)
        self._left = self._size_bytes
        self._any = False
        self._seen: dict[PartitionId, int] = {}  # watermarks of the partitions waited for

    async def run(self, wait_s: float) -> list[Fetched]:
        fetched = await self._collect()
        if fetched or wait_s <= 0:
            return fetched
        partitions = self._volume.partitions
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while not fetched and not partitions.closed:
            with partitions.listen(list(self._seen)) as waiter:
                slice_s = min(deadline - loop.time(), ASKED_AGAIN_S)
                news = self._moved() or await waiter.wait(slice_s)
            if partitions.closed or (loop.time() >= deadline and not self._moved()):
                break
            if not news:
                await self._allow()
                continue
            fetched = await self._collect()
        return fetched

    def _moved(self) -> bool:
        """Whether a watermark moved since it was looked at; without any I/O."""
        find_end = self._volume.partitions.find_end
        return any(find_end(partition) not in (None, end) for partition, end in self._seen.items())

    # ---- one look at all positions

    async def _collect(self) -> list[Fetched]:
        self._left, self._any, self._seen = self._size_bytes, False, {}
        await self._allow()
        topics = await self._topics()
        found: list[Fetched] = []
        wanted: list[tuple[int, Position, PartitionId]] = []
        for index, position in enumerate(self._positions):
            topic = topics.get(position.topic)
            if isinstance(topic, Topic) and position.partition < topic.partitions:
                partition = (self._stream, topic.id, position.partition)
                wanted.append((index, position, partition))
            else:
                found.append(await self._unknown(index, position, topic))
        rows = await self._rows([partition for _, _, partition in wanted])
        for (index, position, partition), row in zip(wanted, rows, strict=True):
            result = await self._position(index, position, partition, row)
            if result is not None:
                found.append(result)
        return found

    async def _allow(self) -> None:
        await check_consume(self._volume, self._stream, self._ask())

    async def _topics(self) -> dict[str, Topic | PlatformError]:
        """The topics by name; the error for a name that cannot be one."""
        found: dict[str, Topic | PlatformError] = {}
        names: list[bytes] = []
        for position in self._positions:
            if position.topic not in found:
                try:
                    names.append(check_topic_name(position.topic))
                except PlatformError as error:
                    found[position.topic] = error
        for name, topic in (await find_topics(self._engine, self._stream, names)).items():
            found[name.decode()] = topic
        return found

    async def _unknown(
        self, index: int, position: Position, topic: Topic | PlatformError | None
    ) -> Fetched:
        error: PlatformError
        if isinstance(topic, PlatformError):
            error = topic
        elif topic is None:
            error = await no_topic(self._volume, self._stream, position.topic)
        else:
            error = NotFound(
                "no such partition",
                partition=await self._label(position),
                partitions=topic.partitions,
            )
        return Fetched(index, [], 0, 0, 0, error)

    async def _label(self, position: Position) -> str:
        path = await self._volume.path_of(self._stream)
        return label(path, position.topic, position.partition)

    async def _rows(self, partitions: list[PartitionId]) -> list[Partition]:
        values = await self._engine.get_many([keys.partition(*p) for p in partitions])
        return [Partition.unpack(v) if v is not None else Partition() for v in values]

    async def _position(
        self, index: int, position: Position, partition: PartitionId, row: Partition
    ) -> Fetched | None:
        end = watermark(self._volume, *partition, row)
        start, offset = row.start_offset, position.offset
        try:
            if offset < start:
                raise await self._trimmed(position, start)
            if offset > max(end, row.next_offset):
                raise Invalid(
                    "the offset is beyond the end",
                    partition=await self._label(position),
                    offset=offset,
                    end_offset=end,
                )
            self._seen[partition] = end
            if offset >= end or (self._any and self._left <= 0):
                return None
            buffers = await self._read(position, partition, end)
        except PlatformError as error:
            return Fetched(index, [], 0, start, end, error)
        if not buffers:
            return None
        length = sum(len(buffer) for buffer in buffers)
        self._left -= length
        self._any = True
        return Fetched(index, buffers, length, start, end)

    async def _trimmed(self, position: Position, start: int) -> Stale:
        return Stale(
            "the offset was trimmed away by retention: go on at the start offset",
            partition=await self._label(position),
            offset=position.offset,
            start_offset=start,
        )

    async def _read(self, position: Position, partition: PartitionId, end: int) -> list[Buffer]:
        """Batches from the one that contains the offset; empty if the next is too large now."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                rows = await read_rows(
                    self._engine,
                    partition,
                    position.offset,
                    end,
                    self._left,
                    at_least_one=not self._any,
                )
                return await self._bodies(rows)
            except Corrupt as error:
                (row,) = await self._rows([partition])
                if row.start_offset > position.offset:
                    raise await self._trimmed(position, row.start_offset) from error
                if attempt == ATTEMPTS:
                    error.facts["partition"] = await self._label(position)
                    error.facts.setdefault("offset", position.offset)
                    raise
        raise AssertionError("unreachable")

    async def _bodies(self, rows: list[Row]) -> list[Buffer]:
        """Verified bytes. What comes before a damaged batch is still given."""
        runs = _runs(rows)
        reads = [self._run(run) for run in runs]
        if len(reads) == 1:
            return await reads[0]
        buffers: list[Buffer] = []
        results = await asyncio.gather(*reads, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                if not buffers or not isinstance(result, Corrupt):
                    raise result
                break
            buffers += result
        return buffers

    async def _run(self, run: list[Row]) -> list[Buffer]:
        try:
            return await _read_run(self._volume, run)
        except Corrupt as error:
            if len(run) == 1:
                error.facts["offset"] = run[0][0]
                raise
        # One of several is damaged: those before it, one by one.
        buffers: list[Buffer] = []
        for row in run:
            try:
                buffers += await self._run([row])
            except Corrupt:
                if not buffers:
                    raise
                break
        return buffers


def _runs(rows: list[Row]) -> list[list[Row]]:
    """Rows grouped so that each group is inline, or one read of a segment."""
    runs: list[list[Row]] = []
    for row in rows:
        if runs:
            last, extent = runs[-1][-1][2].extent, row[2].extent
            if (last is None) == (extent is None) and (
                last is None or extent is None or extents.follows(extent, last)
            ):
                runs[-1].append(row)
                continue
        runs.append([row])
    return runs


async def _read_run(volume: Volume, run: list[Row]) -> list[Buffer]:
    buffers: list[Buffer] = []
    found = [stored.extent for _, _, stored in run if stored.extent is not None]
    if found:
        bodies = await extents.read_run(volume.storage.segments, found)
        for (base, _, stored), extent, body in zip(run, found, bodies, strict=True):
            # As appended, the extent's checksum is the batch's; compaction may have packed it.
            crc = crc32c(body) if extent.flags else extent.checksum
            buffers += (batches.front(base, stored.length, crc), body)
        return buffers
    for base, _, stored in run:
        assert stored.data is not None
        batches.check_stored(stored.data, base, stored.records)
        buffers.append(stored.data)
    return buffers


async def read_rows(
    reader: Reader,
    partition: PartitionId,
    offset: int,
    end: int,
    size_bytes: int,
    *,
    at_least_one: bool,
) -> list[Row]:
    """Rows from the one that contains `offset` up to `end`, while their batches fit `size_bytes`.

    CORRUPT if batches are missing between `offset` and `end`.
    """
    rows: list[Row] = []
    taken = 0
    stop = keys.batch(*partition, end)
    page = await _first_page(reader, partition, offset, stop, size_bytes)
    expected = -1
    while page:
        for key, value in page:
            base = keys.last_number_of(key)
            stored = StoredBatch.unpack(value)
            if expected < 0:
                fits = base <= offset < base + stored.records
            else:
                fits = base == expected
            if not fits:
                raise Corrupt("record batches are missing", offset=max(offset, expected))
            taken += stored.length
            if taken > size_bytes and (rows or not at_least_one):
                return rows
            rows.append((base, key, stored))
            expected = base + stored.records
        if expected >= end or taken >= size_bytes:
            return rows
        page = await reader.scan(
            keys.batch(*partition, expected), stop, limit=_PAGE_ROWS, size_bytes=size_bytes - taken
        )
    raise Corrupt("record batches are missing", offset=max(offset, expected))


async def _first_page(
    reader: Reader, partition: PartitionId, offset: int, stop: bytes, size_bytes: int
) -> list[tuple[bytes, bytes]]:
    """Readers mostly go on where a batch begins: look there first."""
    start = keys.batch(*partition, offset)
    page = await reader.scan(start, stop, limit=_FIRST_PAGE_ROWS, size_bytes=max(size_bytes, 1))
    if page and keys.last_number_of(page[0][0]) == offset:
        return page
    before = await reader.scan(keys.batches(*partition), start, reverse=True, limit=1)
    return before + page


# ---------------------------------------------------------------- offsets


class FoundOffset(NamedTuple):
    partition: int
    offset: int
    timestamp_ms: int  # the newest in or before that batch; -1: none


async def offsets(
    volume: Volume, stream: int, topic_name: str, timestamp_ms: int, request: Request = SYSTEM
) -> list[FoundOffset]:
    """For every partition: its end (-1), its start (-2), or where to look for the first record
    at or after a time, which is the start of the batch that holds it: records are not decoded
    here, so the reader skips those before. The end if there is none. DENIED.
    """
    await check_consume(volume, stream, request)
    engine = volume.storage.engine
    name = check_topic_name(topic_name)
    topic = (await find_topics(engine, stream, [name])).get(name)
    if topic is None:
        raise await no_topic(volume, stream, topic_name)
    if timestamp_ms < TIME_START:
        raise Invalid("a timestamp is a time in ms, -1 (end) or -2 (start)", timestamp=timestamp_ms)
    numbers = range(topic.partitions)
    values = await engine.get_many([keys.partition(stream, topic.id, n) for n in numbers])
    found = []
    for number, value in zip(numbers, values, strict=True):
        row = Partition.unpack(value) if value is not None else Partition()
        end = watermark(volume, stream, topic.id, number, row)
        if timestamp_ms == TIME_END:
            found.append(FoundOffset(number, end, -1))
        elif timestamp_ms == TIME_START:
            found.append(FoundOffset(number, row.start_offset, -1))
        else:
            partition = (stream, topic.id, number)
            found.append(await _by_time(engine, partition, row.start_offset, end, timestamp_ms))
    return found


async def _by_time(
    reader: Reader, partition: PartitionId, start: int, end: int, timestamp_ms: int
) -> FoundOffset:
    """Binary search: a stored batch's time is the newest of it and all before it."""
    found = FoundOffset(partition[2], end, -1)
    low, high = start, end
    while low < high:
        middle = (low + high) // 2
        page = await reader.scan(
            keys.batch(*partition, low),
            keys.batch(*partition, middle + 1),
            reverse=True,
            limit=1,
        )
        if not page:  # trimmed meanwhile
            low = middle + 1
            continue
        base = keys.last_number_of(page[0][0])
        stored = StoredBatch.unpack(page[0][1])
        if stored.max_timestamp_ms >= timestamp_ms:
            found = FoundOffset(partition[2], base, stored.max_timestamp_ms)
            high = base
        else:
            low = base + stored.records
    return found
