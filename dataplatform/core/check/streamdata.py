"""Streams: the batches of a partition follow each other without gap or overlap from its start to
its end, each is what its producer sent, and what is counted and remembered of them is true.

The data of deleted topics, and of streams without a name, is swept in steps and from the front, so
of those only what is still there is looked at, and nothing is counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...base.errors import Corrupt, Invalid
from ...base.limits import PARTITIONS_MAX
from ...engine.base import Pair
from ...engine.checksums import crc32c
from ...keyspace import keys
from ...keyspace.records import (
    GroupOffset,
    Inode,
    Kind,
    Partition,
    Producer,
    StoredBatch,
    Topic,
)
from .. import batches, extents
from ..sequences import RUNS_MAX
from ..topics import DROPPED, NEXT_TOPIC, check_topic_name, label, offset_key_parts
from ..units import Unit
from . import repairs, tabledata
from .findings import Repair, Step
from .inodes import COUNTED
from .keytable import NOUNS
from .picture import read_record

if TYPE_CHECKING:
    from .context import Check

_STAGE = "streams"

_PARTS = (keys.TOPIC, keys.PARTITION, keys.BATCH, keys.PRODUCER, keys.GROUP_OFFSET)

TopicPartition = tuple[int, int]


@dataclass(slots=True)
class _Partition:
    """A partition's row, and what was seen of its batches."""

    row: Partition | None  # None: it cannot be read
    path: str
    is_live: bool
    next_offset: int = -1  # where the next batch must begin; -1: none was seen
    size_bytes: int = 0
    max_timestamp_ms: int = -1
    is_sure: bool = True


@dataclass(slots=True)
class _Stream:
    number: int
    path: str
    is_swept: bool  # it has no name any more
    dropped: set[int] = field(default_factory=set)
    topics: dict[int, tuple[str, Topic]] = field(default_factory=dict)
    damaged_topics: bool = False
    unknown_topics: set[int] = field(default_factory=set)
    partitions: dict[TopicPartition, _Partition] = field(default_factory=dict)
    records: int = 0
    size_bytes: int = 0
    is_sure: bool = True

    def label(self, topic_id: int, partition: int) -> str:
        name = self.topics[topic_id][0] if topic_id in self.topics else f"(topic {topic_id})"
        return label(self.path, name, partition)


async def check_streams(check: Check) -> None:
    inodes = check.inodes
    for prefix in _PARTS:
        async for number in _numbers(check, prefix):
            index = inodes.find(number)
            if index < 0 and check.is_missing(number):
                await _strays(check, prefix, number)
            elif index >= 0 and inodes.kinds[index] != Kind.STREAM:
                check.add(await check.path_of(number), f"it is no stream, and has {_noun(prefix)}")
            elif index < 0 or not inodes.flags[index] & COUNTED:
                if index >= 0:
                    inodes.flags[index] |= COUNTED
                elif prefix != keys.BATCH:
                    continue  # its record cannot be read: only its batches are verified
                await _check_stream(check, number)
    async for some in inodes.indexes():
        for index in some:
            if inodes.kinds[index] == Kind.STREAM and not inodes.flags[index] & COUNTED:
                await _check_stream(check, inodes.numbers[index])


def _noun(prefix: bytes) -> str:
    return NOUNS[prefix][0].removesuffix(" of the stream")


async def _numbers(check: Check, prefix: bytes) -> AsyncIterator[int]:
    """The streams that have rows of a prefix, found by jumping from one to the next."""
    start, end = keys.prefix_range(prefix)
    while True:
        key = await check.picture.first(start, end)
        if key is None:
            return
        if len(key) < 9:
            check.unknown_row(key)
            start = key + b"\x00"
            continue
        number = keys.number_of(key)
        yield number
        start = keys.after_prefix(key[:9])


async def _strays(check: Check, prefix: bytes, number: int) -> None:
    start, end = keys.prefix_range(prefix + number.to_bytes(8, "big"))
    count = 0
    async for page in check.range(start, end, _STAGE):
        count += len(page)
        if prefix == keys.BATCH:
            await _count_references(check, page)
    check.add(
        f"(inode {number})",
        f"{NOUNS[prefix][0]} are stored for something that does not exist: rows {count}",
        repairs.remove_strays(start, number),
    )


async def _count_references(check: Check, page: list[Pair]) -> None:
    for key, value in page:
        try:
            batch = StoredBatch.unpack(value)
        except Corrupt:
            check.references.complete = False
            continue
        if batch.extent is not None:
            check.references.count(key, batch.extent, batch.extent.length)
    await check.references.look_up()


# ---------------------------------------------------------------- one stream


async def _check_stream(check: Check, number: int) -> None:
    inode = await check.inode(number)
    index = check.inodes.find(number)
    stream = _Stream(
        number, await check.path_of(number), index >= 0 and check.inodes.is_orphan(index)
    )
    if inode is not None:
        stream.dropped = set(_numbers_of(inode.settings.get(DROPPED)))
    else:
        stream.is_swept = True  # its record cannot be read: only its batches are verified
    await _read_topics(check, stream)
    await _read_partitions(check, stream)
    await _read_batches(check, stream)
    await check.references.look_up()
    _end_partitions(check, stream)
    await _read_producers(check, stream)
    await _read_offsets(check, stream)
    _end_topics(check, stream, inode)
    check.use(number, stream.size_bytes)
    if _all_read(check, keys.BATCH, number) and stream.is_sure:
        await tabledata.compare(check, number, stream.records, stream.size_bytes, "records")
    else:
        check.usage_is_sure = False


def _numbers_of(value: object) -> list[int]:
    return [n for n in value if type(n) is int] if isinstance(value, list) else []


def _all_read(check: Check, prefix: bytes, stream: int) -> bool:
    bounds = keys.prefix_range(prefix + stream.to_bytes(8, "big"))
    return not check.picture.touches_unreadable(*bounds)


async def _rows(check: Check, prefix: bytes, stream: int) -> AsyncIterator[list[Pair]]:
    bounds = keys.prefix_range(prefix + stream.to_bytes(8, "big"))
    async for page in check.range(*bounds, _STAGE):
        yield page


async def _read_topics(check: Check, stream: _Stream) -> None:
    async for page in _rows(check, keys.TOPIC, stream.number):
        for key, value in page:
            name = keys.name_of(key).decode("utf-8", "backslashreplace")
            check.counts["topics"] += 1
            path = label(stream.path, name)
            try:
                topic = read_record(Topic, value)
                check_topic_name(name)
            except Corrupt:
                stream.damaged_topics = True
                check.add(path, "the topic's record cannot be read")
                continue
            except Invalid:
                check.add(path, "this cannot be the name of a topic")
            if topic.id in stream.topics:
                other = stream.topics[topic.id][0]
                check.add(path, f"the topic has the number of another one, {other}")
                continue
            if not 0 < topic.partitions <= PARTITIONS_MAX:
                check.add(path, f"the topic has {topic.partitions} partitions")
                topic.partitions = min(max(topic.partitions, 0), PARTITIONS_MAX)
            stream.topics[topic.id] = name, topic
    if not _all_read(check, keys.TOPIC, stream.number):
        stream.damaged_topics = True


async def _read_partitions(check: Check, stream: _Stream) -> None:
    async for page in _rows(check, keys.PARTITION, stream.number):
        for key, value in page:
            topic_id, number = keys.topic_and_partition_of(key)
            check.counts["partitions"] += 1
            partition = _add_partition(stream, topic_id, number)
            try:
                partition.row = read_record(Partition, value)
            except Corrupt:
                check.add(partition.path, "the partition's record cannot be read")
                continue
            if partition.is_live and number >= stream.topics[topic_id][1].partitions:
                check.add(partition.path, "the topic has no such partition")
    if stream.is_swept:
        return
    for topic_id, (_, topic) in stream.topics.items():
        for number in range(topic.partitions):
            key = keys.partition(stream.number, topic_id, number)
            if (topic_id, number) in stream.partitions or check.picture.is_unreadable(key):
                continue
            check.add(stream.label(topic_id, number), "the partition's record is missing")


def _add_partition(stream: _Stream, topic_id: int, number: int) -> _Partition:
    is_live = topic_id in stream.topics and not stream.is_swept
    if topic_id not in stream.topics and topic_id not in stream.dropped:
        stream.unknown_topics.add(topic_id)
    partition = _Partition(None, stream.label(topic_id, number), is_live)
    stream.partitions[topic_id, number] = partition
    return partition


# ---------------------------------------------------------------- batches


async def _read_batches(check: Check, stream: _Stream) -> None:
    async for page in _rows(check, keys.BATCH, stream.number):
        for key, value in page:
            topic_id, number = keys.topic_and_partition_of(key)
            partition = stream.partitions.get((topic_id, number))
            if partition is None:
                partition = _add_partition(stream, topic_id, number)
            await _check_batch(check, stream, partition, key, value)
        await check.references.look_up()
    if not _all_read(check, keys.BATCH, stream.number):
        check.references.complete = False


async def _check_batch(
    check: Check, stream: _Stream, partition: _Partition, key: bytes, value: bytes
) -> None:
    offset = keys.last_number_of(key)
    check.counts["batches"] += 1
    try:
        batch = StoredBatch.unpack(value)
    except Corrupt:
        check.references.complete = False
        stream.is_sure = partition.is_sure = False
        partition.next_offset = -1
        check.add(partition.path, f"the batch at offset {offset} cannot be read")
        return
    _check_place(check, partition, key, batch)
    partition.next_offset = offset + batch.records
    partition.size_bytes += batch.length
    partition.max_timestamp_ms = batch.max_timestamp_ms
    stream.size_bytes += batch.length
    stream.records += batch.records
    check.counts["records"] += batch.records
    if batch.extent is not None:
        check.references.count(key, batch.extent, batch.extent.length)
    problem = await _batch_problem(check, batch, offset)
    if problem and await check.is_unchanged(key, value):
        check.add(partition.path, f"the batch at offset {offset} {problem}")


def _check_place(check: Check, partition: _Partition, key: bytes, batch: StoredBatch) -> None:
    offset = keys.last_number_of(key)
    expected = partition.next_offset
    if expected < 0 and partition.is_sure and partition.row is not None and partition.is_live:
        expected = partition.row.start_offset
    if expected >= 0 and offset > expected:
        first = keys.batch(keys.number_of(key), *keys.topic_and_partition_of(key), expected)
        if check.picture.touches_unreadable(first, key):
            return
        check.add(partition.path, f"records from offset {expected} to {offset} are missing")
    elif expected >= 0 and offset < expected:
        check.add(partition.path, f"records from offset {offset} to {expected} are there twice")
    if batch.max_timestamp_ms < partition.max_timestamp_ms:
        check.add(
            partition.path,
            f"the batch at offset {offset} has an earlier latest time",
        )


async def _batch_problem(check: Check, batch: StoredBatch, offset: int) -> str:
    """What is wrong with a batch by itself; "" if nothing."""
    extent = batch.extent
    if extent is None:
        assert batch.data is not None
        data: bytes | memoryview = batch.data
        length = len(data)
    else:
        problem = check.references.problem(extent)
        if problem:
            return f"is not readable: its bytes {problem}"
        try:
            data = await extents.read(check.volume.storage.segments, extent)
        except Corrupt as error:
            return f"is damaged: {error.message}"
        check.counts["bytes in segments"] += len(data)
        length = batches.BODY_START + len(data)
    if length != batch.length:
        return f"has {length} bytes and should have {batch.length}"
    if extent is not None:
        # As appended, the extent's checksum is the batch's; compaction may have packed it.
        crc = crc32c(data) if extent.flags else extent.checksum
        data = b"".join((batches.front(offset, length, crc), data))
    try:
        batches.check_stored(data, offset, batch.records)
    except Corrupt as error:
        return f"is damaged: {error.message}"
    head = batches.HEAD.unpack_from(data)
    check.highest_producer = max(check.highest_producer, head[9])
    if batch.max_timestamp_ms < head[8]:
        return "has records that are later than its latest time"
    return ""


def _end_partitions(check: Check, stream: _Stream) -> None:
    """What a partition's record says, and what is there."""
    all_read = _all_read(check, keys.BATCH, stream.number)
    for (topic_id, number), partition in stream.partitions.items():
        row = partition.row
        if row is None or not partition.is_live or not partition.is_sure or not all_read:
            continue
        end = partition.next_offset
        if end < 0:
            end = row.start_offset
        if end < row.next_offset:
            check.add(partition.path, f"records from offset {end} to {row.next_offset} are missing")
        elif end > row.next_offset:
            check.add(
                partition.path, f"it has records up to {end} beyond its end at {row.next_offset}"
            )
        if row.size_bytes != partition.size_bytes:
            check.add(
                partition.path,
                f"it counts {row.size_bytes} bytes and has {partition.size_bytes}",
                _add_to_partition(
                    keys.partition(stream.number, topic_id, number),
                    partition.size_bytes - row.size_bytes,
                ),
            )
        if partition.next_offset >= 0 and row.max_timestamp_ms != partition.max_timestamp_ms:
            check.add(partition.path, "its latest time is not that of its last batch")


def _add_to_partition(key: bytes, size_bytes: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        value = await unit.get(key)
        if value is None:
            return Step.NOT_NEEDED
        row = Partition.unpack(value)
        row.size_bytes += size_bytes
        unit.put(key, row.pack())
        return Step.DONE

    return repair


# ---------------------------------------------------------------- producers and offsets


async def _read_producers(check: Check, stream: _Stream) -> None:
    async for page in _rows(check, keys.PRODUCER, stream.number):
        for key, value in page:
            check.counts["producers"] += 1
            partition = stream.partitions.get(keys.topic_and_partition_of(key))
            if partition is None:
                partition = _add_partition(stream, *keys.topic_and_partition_of(key))
            number = keys.last_number_of(key)
            check.highest_producer = max(check.highest_producer, number)
            problem = _producer_problem(value, partition)
            if problem:
                check.add(partition.path, f"what is remembered of producer {number} {problem}")


def _producer_problem(value: bytes, partition: _Partition) -> str:
    try:
        producer = read_record(Producer, value)
    except Corrupt:
        return "cannot be read"
    runs = producer.batches
    if not all(
        isinstance(run, list) and len(run) == 4 and all(type(n) is int for n in run) for run in runs
    ):
        return "cannot be read"
    if not 0 < len(runs) <= RUNS_MAX or producer.epoch < 0:
        return "is more or less than it can be"
    mask = batches.SEQUENCE_MASK
    before: list[int] | None = None
    for run in runs:
        first, last, base_offset, _ = run
        if not (0 <= first <= mask and 0 <= last <= mask and base_offset >= 0):
            return "has impossible sequences"
        if before is not None and (first != (before[1] + 1) & mask or base_offset <= before[2]):
            return "has a gap in its sequences"
        row = partition.row
        end = base_offset + ((last - first) & mask) + 1
        if row is not None and partition.is_live and end > row.next_offset:
            return f"goes up to offset {end}, beyond the end at {row.next_offset}"
        before = run
    return ""


async def _read_offsets(check: Check, stream: _Stream) -> None:
    async for page in _rows(check, keys.GROUP_OFFSET, stream.number):
        for key, value in page:
            check.counts["committed offsets"] += 1
            group, topic_id, number = offset_key_parts(key)
            name = group.decode("utf-8", "backslashreplace")
            if topic_id not in stream.topics:
                if topic_id not in stream.dropped:
                    stream.unknown_topics.add(topic_id)
                continue
            path = stream.label(topic_id, number)
            try:
                offset = read_record(GroupOffset, value).offset
            except Corrupt:
                check.add(path, f"the committed offset of group `{name}` cannot be read")
                continue
            if stream.is_swept:
                continue
            if number >= stream.topics[topic_id][1].partitions:
                check.add(path, f"group `{name}` has an offset in it, and it does not exist")
            elif offset < 0:  # beyond the end is a group's own affair, as in Kafka
                check.add(path, f"group `{name}` has an impossible committed offset: {offset}")


def _end_topics(check: Check, stream: _Stream, inode: Inode | None) -> None:
    """Topic numbers: each has a name, or is being swept, and the next one is free."""
    if stream.is_swept or inode is None:
        return
    if not stream.damaged_topics:
        for topic_id in sorted(stream.unknown_topics):
            check.add(stream.path, f"there is data of a topic without a name: number {topic_id}")
    highest = max([*stream.topics, *stream.dropped, *(t for t, _ in stream.partitions)], default=0)
    if highest and inode.settings.get(NEXT_TOPIC, 1) <= highest:
        check.add(
            stream.path,
            f"the next topic would get a number that is used already: {highest}",
            _set_next_topic(stream.number, highest + 1),
        )


def _set_next_topic(number: int, at_least: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is None or inode.settings.get(NEXT_TOPIC, 1) >= at_least:
            return Step.NOT_NEEDED
        inode.settings[NEXT_TOPIC] = at_least
        unit.save(inode)
        return Step.DONE

    return repair
