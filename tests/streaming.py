"""Streams in tests: batches built and read by aiokafka's codec, volumes with a stream in them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.core import streams
from dataplatform.core.units import SYSTEM, Request, Unit
from dataplatform.core.volumes import Volume, create_volume, open_volume
from dataplatform.engine.base import Storages, scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ROOT_INODE,
    Entry,
    Inode,
    Kind,
    Partition,
    Segment,
    Statistics,
    StoredBatch,
    VolumeSettings,
)

VOLUME = 5
PRODUCERS_GIVEN = 100
NONE, LZ4 = 0, 3


def build_batch(
    values: Sequence[bytes],
    *,
    producer: tuple[int, int, int] | None = None,
    timestamps_ms: Sequence[int] | None = None,
    compression: int = NONE,
) -> bytes:
    """A RecordBatch v2. `producer`: id, epoch, base sequence."""
    producer_id, epoch, sequence = producer or (-1, -1, -1)
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=False,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        batch_size=1 << 30,
    )
    for offset, value in enumerate(values):
        time_ms = timestamps_ms[offset] if timestamps_ms is not None else 1_000
        assert builder.append(offset, time_ms, b"key", value, []) is not None
    return bytes(builder.build())


def decode(buffers: Iterable[bytes | memoryview]) -> list[tuple[int, bytes]]:
    """(offset, value) of every record."""
    records = MemoryRecords(b"".join(buffers))
    found = []
    while records.has_next():
        batch = records.next_batch()
        assert batch is not None
        assert batch.validate_crc()
        found += [(record.offset, bytes(record.value)) for record in batch]
    return found


async def open_or_create(storages: Storages, clock: ManualClock, *, seed: int = 0) -> Volume:
    if VOLUME in await storages.volumes():
        storage = await storages.open(VOLUME)
    else:
        storage = await storages.open(VOLUME, create=True)
    await create_volume(storage, VOLUME, clock.now_ns(), VolumeSettings())
    return await open_volume(VOLUME, storage, clock, SeededEntropy(seed))


async def new_stream(volume: Volume, name: str = "events", **settings: Any) -> int:
    """A stream below the root; its inode's number. Its tests may use the first producer ids."""

    async def work(unit: Unit) -> int:
        number = unit.new_inode_number()
        encoded = name.encode()
        inode = Inode(number, Kind.STREAM, 0o644, 0, 0, parent=ROOT_INODE, name=encoded)
        inode.settings = dict(settings)
        unit.save(inode)
        unit.put(keys.entry(ROOT_INODE, encoded), Entry(number, Kind.STREAM).pack())
        root = await unit.inode(ROOT_INODE)
        root.size += 1
        unit.save(root)
        unit.used(0, 1)
        unit.raise_counters(0, PRODUCERS_GIVEN + 1)
        return number

    return await volume.run(SYSTEM, work, durable=True)


async def append(
    volume: Volume,
    stream: int,
    *parts: tuple[str, int, bytes],
    request: Request = SYSTEM,
    durable: bool = True,
    extent_bytes_min: int | None = None,
) -> list[list[int | bool]]:
    options = {} if extent_bytes_min is None else {"extent_bytes_min": extent_bytes_min}
    with volume.holds.append():
        prepared = await streams.prepare(volume, [streams.Part(*part) for part in parts], **options)
        return await volume.run(
            request, lambda unit: streams.append(unit, stream, prepared), durable=durable
        )


async def produce(
    volume: Volume, stream: int, topic: str, partition: int, values: Sequence[bytes], **options: Any
) -> int:
    """Append one batch without a producer id; its offset."""
    batch = build_batch(values)
    ((base, _, _),) = await append(volume, stream, (topic, partition, batch), **options)
    return int(base)


async def read_all(volume: Volume, stream: int, topic: str, partition: int) -> list[bytes]:
    """Every record, offsets checked to be without gap from the start."""
    (found,) = await streams.topics(volume, stream, [topic])
    ends = found.partitions[partition]
    offset, values = ends.start_offset, []
    while offset < ends.end_offset:
        position = streams.Position(topic, partition, offset)
        (part,) = await streams.fetch(volume, stream, [position])
        if part.error is not None:
            raise part.error
        for got, value in decode(part.buffers):
            if got >= offset:
                assert got == offset
                values.append(value)
                offset += 1
    assert offset == ends.end_offset
    return values


async def turns(count: int = 20) -> None:
    """Let other tasks run, without waiting for time."""
    for _ in range(count):
        await asyncio.sleep(0)


async def check_stream(volume: Volume, stream: int) -> None:
    """The invariants of `streams`, and the accounts of a volume with one stream."""
    engine = volume.storage.engine
    records = size_bytes = 0
    live: dict[int, int] = {}
    ends: dict[tuple[int, int], list[int]] = {}
    start, end = keys.prefix_range(keys.batches(stream, 0, 0)[:9])
    async for key, value in scan_all(engine, start, end):
        batch, base = StoredBatch.unpack(value), keys.last_number_of(key)
        records, size_bytes = records + batch.records, size_bytes + batch.length
        found = ends.setdefault(keys.topic_and_partition_of(key), [base, base, 0, -1])
        assert found[1] == base
        assert found[3] <= batch.max_timestamp_ms
        found[1:] = [base + batch.records, found[2] + batch.length, batch.max_timestamp_ms]
        if batch.extent is not None:
            segment = batch.extent.segment
            live[segment] = live.get(segment, 0) + batch.extent.length
            assert await engine.get(keys.reference(segment, key)) == b""
    start, end = keys.prefix_range(keys.partitions(stream))
    async for key, value in scan_all(engine, start, end):
        row = Partition.unpack(value)
        default = [row.start_offset, row.start_offset, 0]
        assert [row.start_offset, row.next_offset, row.size_bytes] == (
            ends.get(keys.topic_and_partition_of(key), default)[:3]
        )
    found_statistics = await engine.get(keys.statistics(stream))
    statistics = (
        Statistics.unpack(found_statistics) if found_statistics is not None else Statistics()
    )
    assert (statistics.count, statistics.size_bytes) == (records, size_bytes)
    assert volume.state.used_bytes == size_bytes
    start, end = keys.prefix_range(keys.SEGMENT)
    async for key, value in scan_all(engine, start, end):
        assert Segment.unpack(value).live_bytes == live.get(keys.number_of(key), 0)
