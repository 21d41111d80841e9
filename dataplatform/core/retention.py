"""What goes by itself: old batches, the data of deleted topics, idle producers.

A batch's age is counted from its append, not from the time its producer gave it: old data can be
loaded into a stream without vanishing at once. Batches go whole, from the start of a partition, in
units of bounded size.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from ..base.errors import NotFound
from ..engine.base import Pair, scan_all
from ..keyspace import keys
from ..keyspace.records import Inode, Kind, Partition, Producer, StoredBatch, Topic
from . import sequences
from .audit.protection import TTLS
from .containment import Contained
from .partitions import PartitionId
from .topics import (
    DROPPED,
    all_topics,
    label,
    offset_key_parts,
    stream_of,
    watermark,
)
from .units import SYSTEM, Unit

if TYPE_CHECKING:
    from .volumes import Volume

STREAMS_PER_RUN = 1000
"""Tables and streams looked at in one run; the next run goes on behind them."""

ROWS_PER_UNIT = 500
"""Rows removed in one unit: others wait for the lane meanwhile."""

PRODUCERS_EVERY_S = 3600.0
"""How often a stream's producers are looked at."""

_STREAM_PREFIX = 9  # a key's tag and the stream's number
_TOPIC_PREFIX = 13  # and the topic's

log = logging.getLogger(__name__)


async def run_once(volume: Volume) -> int:
    """One pass over some of the volume's streams; the number of rows removed. CORRUPT, after all
    other streams, if one is damaged."""
    damage = Contained()
    sweep = volume.partitions.sweep
    start, end = keys.prefix_range(keys.STATISTICS)
    page = await volume.storage.engine.scan(max(start, sweep.position), end, limit=STREAMS_PER_RUN)
    # The next run begins behind these; at the end, from the front again.
    sweep.position = page[-1][0] + b"\x00" if len(page) == STREAMS_PER_RUN else b""
    now_s = volume.clock.monotonic()
    producers_due = now_s - sweep.producers_s >= PRODUCERS_EVERY_S
    removed = 0
    for key, _ in page:
        with damage, contextlib.suppress(NotFound):  # removed meanwhile
            removed += await _stream(volume, keys.number_of(key), producers_due)
    if producers_due and not sweep.position:
        sweep.producers_s = now_s
    damage.raise_first()
    return removed


async def _stream(volume: Volume, stream: int, producers_due: bool) -> int:
    inode = await volume.find_inode(stream)
    if inode is None or inode.kind != Kind.STREAM or not inode.links:
        return 0
    removed = 0
    if inode.settings.get(DROPPED):
        removed += await _sweep_dropped(volume, stream)
    if any(inode.settings.get(name) for name in ("ttl_ms", "bytes_max", TTLS)):
        for name, topic in (await all_topics(volume.storage.engine, stream)).items():
            removed += await _topic(volume, inode, name.decode(), topic)
    if producers_due:
        removed += await _producers(volume, stream)
    return removed


async def _sweep_dropped(volume: Volume, stream: int) -> int:
    async def sweep(unit: Unit) -> int:
        await sweep_dropped(unit, stream, ROWS_PER_UNIT)
        return len(unit.writes)

    removed = 0
    while rows := await volume.run(SYSTEM, sweep, durable=False):
        removed += rows
    return removed


# ---------------------------------------------------------------- batches


class Limits:
    """What a stream keeps of a topic."""

    def __init__(self, inode: Inode, topic: str, now_ms: int) -> None:
        of_topic = inode.settings.get(TTLS, {}).get(topic)
        ttl_ms = int(of_topic or inode.settings.get("ttl_ms") or 0)
        self.oldest_ms = now_ms - ttl_ms if ttl_ms else None
        self.bytes_max = int(inode.settings.get("bytes_max") or 0) or None

    def expires(self, batch: StoredBatch, size_bytes: int) -> bool:
        """Whether the oldest batch of a partition of `size_bytes` must go. The newest batch stays
        even if it alone is over the size."""
        if self.oldest_ms is not None and batch.append_time_ms < self.oldest_ms:
            return True
        return (
            self.bytes_max is not None and size_bytes > self.bytes_max and size_bytes > batch.length
        )


async def _topic(volume: Volume, inode: Inode, name: str, topic: Topic) -> int:
    engine = volume.storage.engine
    limits = Limits(inode, name, volume.clock.now_ns() // 1_000_000)
    removed = 0
    values = await engine.get_many(
        [keys.partition(inode.number, topic.id, number) for number in range(topic.partitions)]
    )
    for number, value in enumerate(values):
        row = Partition.unpack(value) if value is not None else Partition()
        if not row.size_bytes:
            continue
        partition = (inode.number, topic.id, number)
        start, end = keys.prefix_range(keys.batches(*partition))
        first = await engine.scan(start, end, limit=1)
        if first and limits.expires(StoredBatch.unpack(first[0][1]), row.size_bytes):
            removed += await _partition(volume, partition, name)
    return removed


async def _partition(volume: Volume, partition: PartitionId, topic: str) -> int:
    async def trim(unit: Unit) -> int:
        return await _trim(unit, partition, topic)

    removed = 0
    while True:
        rows = await volume.run(SYSTEM, trim, durable=False)
        removed += rows
        if rows < ROWS_PER_UNIT:
            return removed


async def _trim(unit: Unit, partition: PartitionId, topic: str) -> int:
    """Remove up to ROWS_PER_UNIT batches that must go; how many."""
    stream = partition[0]
    inode = await stream_of(unit, stream)
    limits = Limits(inode, topic, unit.now_ns // 1_000_000)
    key = keys.partition(*partition)
    value = await unit.get(key)
    if value is None:
        return 0  # the topic is gone
    row = Partition.unpack(value)
    durable_end = watermark(unit.volume, *partition, row)
    old_start, old_size, removed = row.start_offset, row.size_bytes, 0
    start, end = keys.prefix_range(keys.batches(*partition))
    async for batch_key, batch_value in _rows(unit, start, end):
        batch = StoredBatch.unpack(batch_value)
        after = keys.last_number_of(batch_key) + batch.records
        if after > durable_end or not limits.expires(batch, row.size_bytes):
            break
        await remove_batch(unit, batch_key, batch)
        row.start_offset = after
        row.size_bytes -= batch.length
        removed += 1
        if removed == ROWS_PER_UNIT:
            break
    if removed:
        unit.put(key, row.pack())
        await unit.account(
            stream, count=old_start - row.start_offset, size_bytes=row.size_bytes - old_size
        )
        unit.event(
            "records expired",
            await unit.path_of(stream),
            Kind.STREAM,
            topic=topic,
            partition=partition[2],
            start_offset=row.start_offset,
        )
        log.info(
            "%d batches of %s went by retention",
            removed,
            label(await unit.path_of(stream), topic, partition[2]),
        )
    return removed


async def _rows(unit: Unit, start: bytes, end: bytes) -> AsyncIterator[Pair]:
    """In pages of few: mostly the second batch already stays."""
    while page := await unit.scan(start, end, limit=64):
        for pair in page:
            yield pair
        start = page[-1][0] + b"\x00"


# ---------------------------------------------------------------- producers


async def _producers(volume: Volume, stream: int) -> int:
    """Forget producers that appended nothing for a week."""
    oldest_ns = volume.clock.now_ns() - sequences.IDLE_NS
    start, end = keys.prefix_range(keys.producers(stream, 0, 0)[:_STREAM_PREFIX])
    idle: list[bytes] = []
    async for key, value in scan_all(volume.storage.engine, start, end):
        if Producer.unpack(value).time_ns < oldest_ns:
            idle.append(key)

    async def forget(unit: Unit) -> int:
        removed = 0
        for key in some:
            value = await unit.get(key)
            if value is not None and Producer.unpack(value).time_ns < oldest_ns:
                unit.delete(key)
                removed += 1
        return removed

    removed = 0
    for index in range(0, len(idle), ROWS_PER_UNIT):
        some = idle[index : index + ROWS_PER_UNIT]
        removed += await volume.run(SYSTEM, forget, durable=False)
    return removed


# ---------------------------------------------------------------- whole topics and streams


async def sweep_dropped(unit: Unit, stream: int, limit: int) -> bool:
    """Remove up to `limit` rows of deleted topics; True when nothing of them is left."""
    inode = await stream_of(unit, stream)
    dropped: list[int] = list(inode.settings.get(DROPPED, []))
    while dropped and limit > 0:
        topic_id = dropped[0]
        removed, records, size_bytes = await _remove_rows(
            unit, _topic_ranges(stream, topic_id), limit
        )
        limit -= removed
        if records:
            await unit.account(stream, count=-records, size_bytes=-size_bytes)
        if limit > 0:
            limit -= await _remove_offsets(unit, stream, topic_id, limit)
        if limit > 0:
            dropped.pop(0)
            inode.settings[DROPPED] = dropped
            unit.save(inode)
    return not dropped


async def remove_stream_data(unit: Unit, stream: int, limit: int) -> bool:
    """Remove up to `limit` rows of a stream without a name; True when nothing is left.

    Its usage was given back when it lost its name, so nothing is accounted here.
    """
    ranges = [
        keys.prefix_range(keys.topics(stream)),
        keys.prefix_range(keys.partitions(stream)),
        keys.prefix_range(keys.producers(stream, 0, 0)[:_STREAM_PREFIX]),
        keys.prefix_range(keys.group_offsets(stream)),
        keys.prefix_range(keys.batches(stream, 0, 0)[:_STREAM_PREFIX]),
    ]
    removed, _, _ = await _remove_rows(unit, ranges, limit)
    if removed >= limit:
        return False
    unit.delete(keys.statistics(stream))
    return True


def _topic_ranges(stream: int, topic_id: int) -> list[tuple[bytes, bytes]]:
    return [
        keys.prefix_range(keys.partition(stream, topic_id, 0)[:_TOPIC_PREFIX]),
        keys.prefix_range(keys.producers(stream, topic_id, 0)[:_TOPIC_PREFIX]),
        keys.prefix_range(keys.batches(stream, topic_id, 0)[:_TOPIC_PREFIX]),
    ]


async def _remove_rows(
    unit: Unit, ranges: Sequence[tuple[bytes, bytes]], limit: int
) -> tuple[int, int, int]:
    """Delete up to `limit` rows, in the order of the ranges: (rows, records, bytes of batches)."""
    removed = records = size_bytes = 0
    partitions: list[PartitionId] = []
    for start, end in ranges:
        while removed < limit:
            page: list[Pair] = await unit.scan(start, end, limit=limit - removed)
            if not page:
                break
            for key, value in page:
                if key[:1] == keys.BATCH:
                    batch = StoredBatch.unpack(value)
                    await remove_batch(unit, key, batch)
                    records += batch.records
                    size_bytes += batch.length
                else:
                    unit.delete(key)
                if key[:1] == keys.PARTITION:
                    partitions.append((keys.number_of(key), *keys.topic_and_partition_of(key)))
            removed += len(page)
            start = page[-1][0] + b"\x00"
    unit.on_commit(lambda _: unit.volume.partitions.forget(partitions))
    return removed, records, size_bytes


async def remove_batch(unit: Unit, key: bytes, batch: StoredBatch) -> None:
    """Delete a stored batch's row, and its claim on a segment."""
    unit.delete(key)
    if batch.extent is not None:
        await unit.unrefer(batch.extent, key, batch.extent.length)


async def _remove_offsets(unit: Unit, stream: int, topic_id: int, limit: int) -> int:
    """Delete committed offsets of a deleted topic: how many, `limit` if there may be more.

    They are sorted by group, so all of the stream's are looked at.
    """
    start, end = keys.prefix_range(keys.group_offsets(stream))
    removed = 0
    while page := await unit.scan(start, end):
        for key, _ in page:
            if removed < limit and offset_key_parts(key)[1] == topic_id:
                unit.delete(key)
                removed += 1
        if removed >= limit:
            break
        start = page[-1][0] + b"\x00"
    return removed
