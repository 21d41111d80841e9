"""Appending record batches to partitions.

In two steps, so that the lane is held only for what needs its order:

- `prepare`, outside the lane, checks the batches and writes those from EXTENT_BYTES_MIN on into
  segments, synced: an extent's bytes are durable before the commit that names them (D3).
- `append`, in a unit, gives offsets: all parts of a call, or none.

What a failed append left in a segment is dead bytes, which compaction removes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Conflict, Invalid, NotFound, PlatformError
from ..base.limits import EXTENT_BYTES_MIN
from ..keyspace import keys
from ..keyspace.records import Extent, Inode, Kind, Partition, Producer, StoredBatch, Topic
from . import batches, sequences
from .access.verbs import Verb
from .batches import Batch
from .partitions import PartitionId
from .topics import (
    add_topic,
    check_topic_name,
    default_partitions,
    find_topics,
    label,
    writable_stream_of,
)
from .units import SYSTEM, Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume


class Part(NamedTuple):
    """What to append to one partition: one or more batches, one behind the other."""

    topic: str
    partition: int
    data: bytes | memoryview


class PreparedPart(NamedTuple):
    """A part that was checked; `extents` has one for each batch, None where it stays inline."""

    topic: bytes
    partition: int
    batches: list[Batch]
    extents: list[Extent | None]


async def prepare(
    volume: Volume,
    parts: Sequence[Part],
    *,
    extent_bytes_min: int = EXTENT_BYTES_MIN,
    stream: int = 0,
    request: Request = SYSTEM,
) -> list[PreparedPart]:
    """Check all parts (INVALID), then write large batches into segments and sync those.

    Where the `stream` is known nothing is written for whom may not append to it (DENIED); the
    append itself asks again.
    """
    if stream and not request.principal.is_free:
        await volume.allow(request.principal, stream, Verb.PRODUCE, origin=request.origin)
    prepared = []
    for part in parts:
        name = check_topic_name(part.topic)
        found = batches.parse(part.data)
        prepared.append(PreparedPart(name, part.partition, found, [None] * len(found)))
    segments = volume.storage.segments
    large = False
    for checked in prepared:
        for index, batch in enumerate(checked.batches):
            if batch.length >= extent_bytes_min:
                checked.extents[index] = await _write_body(volume, batch)
                large = True
    if large:
        await segments.sync()
    return prepared


async def _write_body(volume: Volume, batch: Batch) -> Extent:
    """The batch from its attributes on, so its CRC is the extent's checksum (see `batches`)."""
    body = batch.body
    location = await volume.storage.segments.append(body)
    return Extent(location.segment, location.offset, location.length, len(body), batch.crc)


async def append(unit: Unit, stream: int, parts: Sequence[PreparedPart]) -> list[list[int | bool]]:
    """Store all parts: for each [base offset, append time in ms, whether it was stored before].

    A topic that does not exist is created with the stream's default, by whom may append, unless an
    expression for `topics` says otherwise. DENIED, NOT_FOUND for a partition beyond the topic's,
    INVALID for a producer id that was never given out, CONFLICT and STALE from `sequences`,
    EXHAUSTED over the quota.
    """
    work = _Append(unit, stream)
    await work.load(parts)
    results = [await work.part(part) for part in parts]
    await work.save()
    return results


async def check_new_topic(unit: Unit, inode: Inode) -> None:
    """Topics come of themselves with their first record, as in Kafka, where no rule is about
    that."""
    if unit.request.principal.is_free:
        return
    rules = await unit.volume.guard.rules_of(unit.volume, inode, unit=unit)
    if Verb.TOPICS.word in rules:
        await unit.allow(inode, Verb.TOPICS)


class _Append:
    """One call's view of the partitions and producers that it touches."""

    def __init__(self, unit: Unit, stream: int) -> None:
        self._unit = unit
        self._stream = stream
        self._now_ms = unit.now_ns // 1_000_000
        self._topics: dict[bytes, Topic] = {}
        self._partitions: dict[PartitionId, Partition] = {}
        self._producers: dict[bytes, Producer | None] = {}
        self._changed: dict[PartitionId, int] = {}
        self._changed_producers: set[bytes] = set()
        self._path = ""
        self._records = 0
        self._size_bytes = 0

    # ---- reading

    async def load(self, parts: Sequence[PreparedPart]) -> None:
        """Everything that the parts need, in two reads."""
        unit, stream = self._unit, self._stream
        inode = await writable_stream_of(unit, stream)
        await unit.allow(inode, Verb.PRODUCE)
        self._path = await unit.path_of(stream)
        names = list(dict.fromkeys(part.topic for part in parts))
        self._topics = await find_topics(unit, stream, names)
        for part in parts:
            topic = self._topics.get(part.topic)
            count = topic.partitions if topic is not None else default_partitions(inode)
            if part.partition >= count:
                raise NotFound("no such partition", partition=self._label(part), partitions=count)
            if topic is None:
                await check_new_topic(unit, inode)
                self._topics[part.topic] = await add_topic(unit, inode, part.topic, count)
        await self._load_rows(parts)

    def _check_producers(self, parts: Sequence[PreparedPart]) -> None:
        """An id that was never given out may be given to somebody else later."""
        _, next_producer = self._unit.counters()
        for part in parts:
            for batch in part.batches:
                if batch.producer_id >= next_producer:
                    raise Invalid(
                        "the producer id was never given out: init a producer first",
                        producer_id=batch.producer_id,
                        partition=self._label(part),
                    )

    async def _load_rows(self, parts: Sequence[PreparedPart]) -> None:
        self._check_producers(parts)
        stream = self._stream
        ids = list(dict.fromkeys(self._id(part) for part in parts))
        producers = list(
            dict.fromkeys(
                self._producer_key(part, batch.producer_id)
                for part in parts
                for batch in part.batches
                if batch.producer_id != batches.NO_PRODUCER
            )
        )
        wanted = [keys.partition(stream, topic, number) for _, topic, number in ids]
        values = await self._unit.get_many(wanted + producers)
        for partition, value in zip(ids, values, strict=False):
            row = Partition.unpack(value) if value is not None else Partition()
            self._partitions[partition] = row
            self._unit.volume.partitions.pin(partition, row.next_offset)
        for key, value in zip(producers, values[len(ids) :], strict=True):
            self._producers[key] = Producer.unpack(value) if value is not None else None

    def _id(self, part: PreparedPart) -> PartitionId:
        return self._stream, self._topics[part.topic].id, part.partition

    def _producer_key(self, part: PreparedPart, producer_id: int) -> bytes:
        return keys.producer(self._stream, self._topics[part.topic].id, part.partition, producer_id)

    def _label(self, part: PreparedPart) -> str:
        return label(self._path, part.topic.decode(), part.partition)

    # ---- storing

    async def part(self, part: PreparedPart) -> list[int | bool]:
        try:
            stored = self._find_stored(part)
        except PlatformError as error:
            error.facts["partition"] = self._label(part)
            raise
        if stored is not None:
            return [stored.base_offset, stored.append_time_ms, True]
        base_offset = await self._store(part)
        return [base_offset, self._now_ms, False]

    def _find_stored(self, part: PreparedPart) -> sequences.Stored | None:
        """Where the part was stored before; None if all of it is new. CONFLICT for a mixture."""
        first: sequences.Stored | None = None
        new = False
        offset = self._partitions[self._id(part)].next_offset
        mine: set[bytes] = set()
        for batch in part.batches:
            found = None
            if batch.producer_id != batches.NO_PRODUCER:
                key = self._producer_key(part, batch.producer_id)
                known = self._producers[key]
                found = sequences.find_stored(known, batch)
                if found is None:
                    # Also what the next batch of this part is checked against.
                    self._producers[key] = sequences.remember(
                        known, batch, offset, self._unit.now_ns, same_part=key in mine
                    )
                    mine.add(key)
            if found is None:
                new = True
                offset += batch.records
            elif first is None and not new:
                first = found
            if new and (first is not None or found is not None):
                raise Conflict(
                    "some batches of a part were stored before and some were not: "
                    "repeat an append as it was",
                    sequence=batch.base_sequence,
                    producer_id=batch.producer_id,
                )
        self._changed_producers |= mine
        return first

    async def _store(self, part: PreparedPart) -> int:
        unit = self._unit
        partition = self._id(part)
        row = self._partitions[partition]
        base_offset = offset = row.next_offset
        for batch, extent in zip(part.batches, part.extents, strict=True):
            row.max_timestamp_ms = max(row.max_timestamp_ms, batch.max_timestamp_ms)
            key = keys.batch(*partition, offset)
            data = batches.numbered(batch, offset) if extent is None else None
            stored = StoredBatch(
                batch.records, batch.length, row.max_timestamp_ms, self._now_ms, data, extent
            )
            unit.put(key, stored.pack())
            if extent is not None:
                await unit.refer(extent, key, extent.length, fresh=True)
            offset += batch.records
            row.size_bytes += batch.length
            self._size_bytes += batch.length
        row.next_offset = self._changed[partition] = offset
        self._records += offset - base_offset
        unit.event(
            "records appended",
            self._path,
            Kind.STREAM,
            topic=part.topic.decode(),
            partition=part.partition,
            offset=base_offset,
            records=offset - base_offset,
        )
        return base_offset

    async def save(self) -> None:
        """Write what changed, and tell the readers when it is durable."""
        unit, stream = self._unit, self._stream
        if not self._changed:
            return
        for partition in self._changed:
            unit.put(keys.partition(*partition), self._partitions[partition].pack())
        for key in self._changed_producers:
            producer = self._producers[key]
            assert producer is not None
            unit.put(key, producer.pack())
        await unit.account(stream, count=self._records, size_bytes=self._size_bytes)
        unit.on_commit(self._committed)

    def _committed(self, ticket: int) -> None:
        partitions = self._unit.volume.partitions
        for partition, end in self._changed.items():
            partitions.committed(partition, end, ticket)
