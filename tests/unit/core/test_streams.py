"""Topics, appends, fetches, offsets, retention: each rule by itself, on the memory engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from dataplatform.base.clock import ManualClock
from dataplatform.base.errors import (
    Conflict,
    Corrupt,
    ErrorKind,
    Exhausted,
    Exists,
    Invalid,
    NotFound,
    PlatformError,
    Stale,
)
from dataplatform.base.limits import PARTITIONS_MAX
from dataplatform.core import group_offsets, retention, streams
from dataplatform.core.units import SYSTEM, Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import scan_all
from dataplatform.engine.memory import MemoryStorages
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ChangeRow,
    Extent,
    Inode,
    Kind,
    Producer,
    StoredBatch,
)
from tests.principals import admin
from tests.streaming import (
    append,
    build_batch,
    check_stream,
    decode,
    new_stream,
    open_or_create,
    produce,
    read_all,
    turns,
)


@contextlib.asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[Volume, int]]:
    """A volume in memory with a stream, its account checked in the end."""
    storages = MemoryStorages()
    volume = await open_or_create(storages, ManualClock())
    stream = await new_stream(volume, **settings)
    yield volume, stream
    await check_stream(volume, stream)
    await volume.close()
    await storages.close()


def run(volume: Volume, work: Callable[[Unit], Awaitable[Any]], **options: Any) -> Awaitable[Any]:
    return volume.run(SYSTEM, work, **{"durable": True, **options})


def create_topic(volume: Volume, stream: int, *arguments: Any, **options: Any) -> Awaitable[Any]:
    return run(volume, lambda unit: streams.create_topic(unit, stream, *arguments, **options))


def delete_topic(volume: Volume, stream: int, *arguments: Any, **options: Any) -> Awaitable[Any]:
    return run(volume, lambda unit: streams.delete_topic(unit, stream, *arguments, **options))


async def fetch_one(
    volume: Volume, stream: int, topic: str, partition: int, offset: int, **options: Any
) -> list[tuple[int, bytes]]:
    """Records of one position; its error raised."""
    position = streams.Position(topic, partition, offset)
    parts = await streams.fetch(volume, stream, [position], **options)
    if not parts:
        return []
    if parts[0].error is not None:
        raise parts[0].error
    return decode(parts[0].buffers)


async def events(volume: Volume) -> list[tuple[str, dict[str, Any]]]:
    start, end = keys.prefix_range(keys.CHANGE)
    found = []
    async for _, value in scan_all(volume.storage.engine, start, end):
        found += [(event[0], event[3]) for event in ChangeRow.unpack(value).events]
    return found


# ---------------------------------------------------------------- topics


async def test_topics_are_created_listed_and_grown() -> None:
    async with opened(partitions=3) as (volume, stream):
        assert await create_topic(volume, stream, "b") == [1, 3]
        assert await create_topic(volume, stream, "a", 1) == [2, 1]
        with pytest.raises(Exists):
            await create_topic(volume, stream, "a", 1)
        assert await create_topic(volume, stream, "a", 1, exist_ok=True) == [2, 1]
        assert await create_topic(volume, stream, "b", 2, exist_ok=True) == [1, 3]
        assert await create_topic(volume, stream, "b", 5) == [1, 5]
        found = await streams.topics(volume, stream)
        assert [(t.name, t.id, len(t.partitions)) for t in found] == [("a", 2, 1), ("b", 1, 5)]
        (one,) = await streams.topics(volume, stream, ["b"])
        assert one.partitions[4] == streams.Ends(4, 0, 0, 0)
        with pytest.raises(NotFound) as caught:
            await streams.topics(volume, stream, ["c"])
        assert "/events:c" in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "x" * 250, "a\n", "a\x00"])
async def test_topic_names_are_those_of_kafka(name: str) -> None:
    async with opened() as (volume, stream):
        with pytest.raises(Invalid):
            await create_topic(volume, stream, name)
        with pytest.raises(Invalid):
            await produce(volume, stream, name, 0, [b"x"])
        with pytest.raises(Invalid):
            await fetch_one(volume, stream, name, 0, 0)
        assert await create_topic(volume, stream, "x" * 249) == [1, 1]


async def test_partitions_have_a_limit() -> None:
    async with opened() as (volume, stream):
        with pytest.raises(Invalid):
            await create_topic(volume, stream, "a", PARTITIONS_MAX + 1)


async def test_what_is_no_stream_says_so() -> None:
    async with opened() as (volume, stream):

        async def a_table(unit: Unit) -> int:
            inode = Inode(unit.new_inode_number(), Kind.TABLE, 0o644, 0, 0, parent=1, name=b"t")
            unit.save(inode)
            return inode.number

        table = await run(volume, a_table)
        for work in (
            produce(volume, table, "a", 0, [b"x"]),
            create_topic(volume, table, "a"),
            run(volume, lambda unit: streams.init_producer(unit, table)),
        ):
            with pytest.raises(Invalid) as caught:
                await work
            assert "not a stream" in str(caught.value)
            assert "/t" in str(caught.value)
        with pytest.raises(NotFound):
            await produce(volume, stream + 100, "a", 0, [b"x"])


async def test_a_topic_deleted_and_created_again_is_another_one() -> None:
    async with opened() as (volume, stream):
        await produce(volume, stream, "a", 0, [b"old"] * 10)
        await append(volume, stream, ("a", 0, build_batch([b"x"] * 90_000)))
        assert await produce(volume, stream, "other", 0, [b"kept"]) == 0
        commit = [group_offsets.Commit("a", 0, 4), group_offsets.Commit("other", 0, 1)]
        await run(volume, lambda unit: group_offsets.commit_offsets(unit, stream, "g", commit))
        await delete_topic(volume, stream, "a")
        with pytest.raises(NotFound):
            await delete_topic(volume, stream, "a")
        await delete_topic(volume, stream, "a", missing_ok=True)
        with pytest.raises(NotFound):
            await fetch_one(volume, stream, "a", 0, 0)
        assert await produce(volume, stream, "a", 0, [b"new"]) == 0
        assert await fetch_one(volume, stream, "a", 0, 0) == [(0, b"new")]
        assert await retention.run_once(volume) > 0
        assert await fetch_one(volume, stream, "a", 0, 0) == [(0, b"new")]
        assert await fetch_one(volume, stream, "other", 0, 0) == [(0, b"kept")]
        start, end = keys.prefix_range(keys.partitions(stream))
        assert len(await volume.storage.engine.scan(start, end)) == 2
        (group,) = await group_offsets.describe(volume, stream)
        assert [(o.topic, o.offset) for o in group.offsets] == [("other", 1)]
        start, end = keys.prefix_range(keys.group_offsets(stream))
        assert len(await volume.storage.engine.scan(start, end)) == 1
        inode = await volume.find_inode(stream)
        assert inode is not None
        assert inode.settings["dropped_topics"] == []
        assert await retention.run_once(volume) == 0


async def test_a_big_dropped_topic_goes_in_bounded_units() -> None:
    async with opened() as (volume, stream):
        for index in range(30):
            await produce(volume, stream, "a", 0, [b"%d" % index])
        await delete_topic(volume, stream, "a")
        steps = 0
        while not await run(volume, lambda unit: retention.sweep_dropped(unit, stream, 7)):
            await check_stream(volume, stream)
            steps += 1
        assert steps == 4


# ---------------------------------------------------------------- appends


async def test_all_parts_or_none() -> None:
    async with opened(partitions=2) as (volume, stream):
        batch = build_batch([b"x", b"y"])
        assert await append(volume, stream, ("a", 0, batch), ("b", 1, batch + batch)) == [
            [0, 1_700_000_000_000, False],
            [0, 1_700_000_000_000, False],
        ]
        with pytest.raises(NotFound) as caught:
            await append(volume, stream, ("a", 0, batch), ("a", 2, batch))
        assert "/events:a/2" in str(caught.value)
        with pytest.raises(NotFound):
            await append(volume, stream, ("new", 2, batch))
        assert [t.name for t in await streams.topics(volume, stream)] == ["a", "b"]
        assert await read_all(volume, stream, "a", 0) == [b"x", b"y"]
        assert await read_all(volume, stream, "b", 1) == [b"x", b"y"] * 2
        assert [e for e in await events(volume) if e[0] == "records appended"] == [
            ("records appended", {"topic": "a", "partition": 0, "offset": 0, "records": 2}),
            ("records appended", {"topic": "b", "partition": 1, "offset": 0, "records": 4}),
        ]


async def test_a_wrong_crc_is_refused_with_nothing_stored() -> None:
    async with opened() as (volume, stream):
        batch = bytearray(build_batch([b"value"]))
        batch[-2] ^= 1
        with pytest.raises(Invalid) as caught:
            await append(volume, stream, ("a", 0, build_batch([b"fine"])), ("a", 0, bytes(batch)))
        assert "CRC" in str(caught.value)
        assert await streams.topics(volume, stream) == []


async def test_one_topic_twice_in_an_append() -> None:
    async with opened() as (volume, stream):
        first, second = build_batch([b"1", b"2"]), build_batch([b"3"])
        results = await append(volume, stream, ("a", 0, first), ("a", 0, second))
        assert [r[0] for r in results] == [0, 2]
        assert await read_all(volume, stream, "a", 0) == [b"1", b"2", b"3"]


async def test_large_batches_go_to_segments() -> None:
    async with opened() as (volume, stream):
        large = build_batch([b"v" * 1000] * 100)
        await append(volume, stream, ("a", 0, large + build_batch([b"small"]) + large + large))
        sizes = await volume.storage.segments.sizes()
        assert sum(sizes.values()) == 3 * (len(large) - 21)
        assert len(await read_all(volume, stream, "a", 0)) == 301
        parts = await streams.fetch(volume, stream, [streams.Position("a", 0, 50)])
        data = b"".join(parts[0].buffers)
        assert data[8 : len(large)] == large[8:]  # all but the base offset, byte for byte


async def test_extents_are_durable_before_they_are_named() -> None:
    storages = MemoryStorages()
    volume = await open_or_create(storages, ManualClock())
    stream = await new_stream(volume)
    await append(volume, stream, ("a", 0, build_batch([b"v" * 1000] * 100)), durable=False)
    await volume.lane.durable()
    storages.crash()
    volume = await open_or_create(storages, ManualClock())
    assert len(await read_all(volume, stream, "a", 0)) == 100
    await check_stream(volume, stream)


async def test_the_quota_holds() -> None:
    async with opened() as (volume, stream):
        volume.settings.quota_bytes = 1000
        await produce(volume, stream, "a", 0, [b"x" * 500])
        with pytest.raises(Exhausted):
            await produce(volume, stream, "a", 0, [b"x" * 500])
        assert await read_all(volume, stream, "a", 0) == [b"x" * 500]


async def test_a_request_repeated_changes_nothing() -> None:
    async with opened() as (volume, stream):
        request = Request(admin("ana"), b"s" * 16, 0, 1)
        batch = build_batch([b"x"])
        first = await append(volume, stream, ("a", 0, batch), request=request)
        assert await append(volume, stream, ("a", 0, batch), request=request) == first
        assert await read_all(volume, stream, "a", 0) == [b"x"]


# ---------------------------------------------------------------- idempotence


async def new_producer(volume: Volume, stream: int) -> int:
    producer_id, epoch = await run(volume, lambda unit: streams.init_producer(unit, stream))
    assert epoch == 0
    return int(producer_id)


async def test_duplicates_get_the_offset_of_then() -> None:
    async with opened() as (volume, stream):
        producer = await new_producer(volume, stream)
        assert await new_producer(volume, stream) == producer + 1
        batches = [build_batch([b"%d" % i] * 2, producer=(producer, 0, 2 * i)) for i in range(7)]
        for index, batch in enumerate(batches):
            (result,) = await append(volume, stream, ("a", 0, batch))
            assert result == [2 * index, 1_700_000_000_000, False]
            await produce(volume, stream, "b", 0, [b"between"])
        volume.clock.advance(5)  # type: ignore[attr-defined]
        for index, batch in enumerate(batches[2:], 2):  # the last five
            (result,) = await append(volume, stream, ("a", 0, batch))
            assert result == [2 * index, 1_700_000_000_000, True]
        with pytest.raises(Conflict):
            await append(volume, stream, ("a", 0, batches[1]))
        assert len(await read_all(volume, stream, "a", 0)) == 14


async def test_a_part_of_many_batches_is_one_append() -> None:
    async with opened() as (volume, stream):
        parts = []
        for part in range(3):
            batches = [build_batch([b"x"], producer=(9, 0, part * 10 + i)) for i in range(10)]
            parts.append(b"".join(batches))
            await append(volume, stream, ("a", 0, parts[-1]))
        for index, again in enumerate(parts):
            assert (await append(volume, stream, ("a", 0, again)))[0][::2] == [index * 10, True]
        mixed = parts[2] + build_batch([b"x"], producer=(9, 0, 30))
        with pytest.raises(Conflict):  # some new, some not
            await append(volume, stream, ("a", 0, mixed))
        assert len(await read_all(volume, stream, "a", 0)) == 30


async def test_gaps_and_old_epochs() -> None:
    async with opened() as (volume, stream):
        with pytest.raises(Conflict):
            await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(9, 0, 3))))
        await append(volume, stream, ("a", 0, build_batch([b"x"] * 3, producer=(9, 1, 0))))
        for sequence in (1, 4, 2**31 - 1):
            batch = build_batch([b"x"] * 3, producer=(9, 1, sequence))
            with pytest.raises(Conflict) as caught:
                await append(volume, stream, ("a", 0, batch))
            assert caught.value.facts["expected"] == 3
            assert caught.value.facts["partition"] == "/events:a/0"
        with pytest.raises(Stale):
            await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(9, 0, 3))))
        with pytest.raises(Conflict):
            await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(9, 2, 3))))
        await append(volume, stream, ("a", 0, build_batch([b"y"], producer=(9, 2, 0))))
        with pytest.raises(Stale):
            await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(9, 1, 3))))
        assert await read_all(volume, stream, "a", 0) == [b"x", b"x", b"x", b"y"]


async def test_sequences_go_on_after_the_largest() -> None:
    async with opened() as (volume, stream):
        large = 2**31 - 4
        await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(9, 0, 0))))
        # As if 2^31 - 5 records had come since.
        key = keys.producer(stream, 1, 0, 9)

        async def age(unit: Unit) -> None:
            unit.put(key, Producer(0, [[large - 5, large - 1, 0, 1]], unit.now_ns).pack())

        await run(volume, age)
        batch = build_batch([b"y"] * 8, producer=(9, 0, large))
        assert (await append(volume, stream, ("a", 0, batch)))[0][::2] == [1, False]
        assert (await append(volume, stream, ("a", 0, batch)))[0][::2] == [1, True]
        batch = build_batch([b"z"], producer=(9, 0, 4))
        assert (await append(volume, stream, ("a", 0, batch)))[0][::2] == [9, False]


async def test_partitions_know_producers_apart() -> None:
    async with opened(partitions=2) as (volume, stream):
        batch = build_batch([b"x"], producer=(9, 0, 0))
        results = await append(volume, stream, ("a", 0, batch), ("a", 1, batch), ("b", 0, batch))
        assert [r[2] for r in results] == [False, False, False]


# ---------------------------------------------------------------- fetches


async def test_readers_see_only_durable_records() -> None:
    async with opened() as (volume, stream):
        await produce(volume, stream, "a", 0, [b"1"])
        await produce(volume, stream, "a", 0, [b"2"], durable=False)
        assert await fetch_one(volume, stream, "a", 0, 0) == [(0, b"1")]
        assert await fetch_one(volume, stream, "a", 0, 1) == []
        assert await fetch_one(volume, stream, "a", 0, 2) == []  # committed, not durable yet
        assert (await streams.offsets(volume, stream, "a", -1))[0].offset == 1
        (topic,) = await streams.topics(volume, stream)
        assert topic.partitions[0].end_offset == 1
        await volume.lane.run_once()
        assert await fetch_one(volume, stream, "a", 0, 1) == [(1, b"2")]


async def test_the_batch_that_holds_the_offset_comes_first() -> None:
    async with opened() as (volume, stream):
        for start in range(0, 30, 3):
            await produce(volume, stream, "a", 0, [b"%d" % (start + i) for i in range(3)])
        for offset in range(30):
            got = await fetch_one(volume, stream, "a", 0, offset, size_bytes=1)
            assert got == [(n, b"%d" % n) for n in range(offset // 3 * 3, offset // 3 * 3 + 3)]
            got = await fetch_one(volume, stream, "a", 0, offset)
            assert got == [(n, b"%d" % n) for n in range(offset // 3 * 3, 30)]


async def test_many_small_batches_are_read_page_by_page() -> None:
    async with opened() as (volume, stream):
        for start in range(700):
            await produce(volume, stream, "a", 0, [b"%d" % start], durable=False)
        await volume.lane.durable()
        got = await fetch_one(volume, stream, "a", 0, 3)
        assert got == [(n, b"%d" % n) for n in range(3, 700)]


async def test_a_reply_keeps_to_its_size() -> None:
    async with opened(partitions=3) as (volume, stream):
        batch = build_batch([b"x" * 1000])
        for partition in (0, 1, 2):
            for _ in range(10):
                await append(volume, stream, ("a", partition, batch))
        positions = [streams.Position("a", p, 0) for p in (2, 0, 1)]
        parts = await streams.fetch(volume, stream, positions, size_bytes=15 * len(batch))
        assert [(p.position, p.length // len(batch)) for p in parts] == [(0, 10), (1, 5)]
        parts = await streams.fetch(volume, stream, positions, size_bytes=1)
        assert [(p.position, p.length) for p in parts] == [(0, len(batch))]
        assert [sum(map(len, p.buffers)) for p in parts] == [len(batch)]


async def test_errors_of_positions_do_not_hide_the_others() -> None:
    async with opened() as (volume, stream):
        await produce(volume, stream, "a", 0, [b"x"])
        asked = [("a", 0, 5), ("b", 0, 0), ("a", 1, 0), ("..", 0, 0), ("a", 0, 0)]
        parts = await streams.fetch(volume, stream, [streams.Position(*p) for p in asked])
        kinds = {p.position: p.error.kind if p.error else None for p in parts}
        assert kinds == {
            0: ErrorKind.INVALID,
            1: ErrorKind.NOT_FOUND,
            2: ErrorKind.NOT_FOUND,
            3: ErrorKind.INVALID,
            4: None,
        }
        beyond = next(p.error for p in parts if p.position == 0)
        assert isinstance(beyond, PlatformError)
        assert beyond.facts["end_offset"] == 1


async def test_a_fetch_waits_for_the_first_record_of_any_partition() -> None:
    async with opened(partitions=3) as (volume, stream):
        await create_topic(volume, stream, "a")
        positions = [streams.Position("a", p, 0) for p in range(3)]
        waiting = asyncio.ensure_future(streams.fetch(volume, stream, positions, wait_s=60))
        await turns()
        assert not waiting.done()
        await produce(volume, stream, "a", 2, [b"x"], durable=False)
        await turns()
        assert not waiting.done()
        await volume.lane.durable()
        (part,) = await waiting
        assert (part.position, decode(part.buffers)) == (2, [(0, b"x")])
        assert not volume.partitions._waiters


async def test_a_wait_ends() -> None:
    async with opened() as (volume, stream):
        await create_topic(volume, stream, "a")
        position = [streams.Position("a", 0, 0)]
        assert await streams.fetch(volume, stream, position, wait_s=0.001) == []

        waiting = asyncio.ensure_future(streams.fetch(volume, stream, position, wait_s=60))
        await turns()
        await delete_topic(volume, stream, "a")
        (part,) = await waiting
        assert isinstance(part.error, NotFound)

        await create_topic(volume, stream, "a")
        cancelled = asyncio.ensure_future(streams.fetch(volume, stream, position, wait_s=60))
        waiting = asyncio.ensure_future(streams.fetch(volume, stream, position, wait_s=60))
        await turns()
        cancelled.cancel()
        await turns()
        volume.partitions.close()
        assert await waiting == []
        assert await streams.fetch(volume, stream, position, wait_s=60) == []
        assert not volume.partitions._waiters


async def test_damage_is_named_and_contained() -> None:
    async with opened() as (volume, stream):
        large = build_batch([b"v" * 1000] * 100)
        for _ in range(3):
            await append(volume, stream, ("a", 0, large))
        await produce(volume, stream, "b", 0, [b"fine"])
        location = await _extent(volume, stream, 100)
        _segment(volume, location.segment).data[location.offset + 5000] ^= 4
        assert [o for o, _ in await fetch_one(volume, stream, "a", 0, 0)] == list(range(100))
        with pytest.raises(Corrupt) as caught:
            await fetch_one(volume, stream, "a", 0, 150)
        assert caught.value.facts["partition"] == "/events:a/0"
        assert caught.value.facts["offset"] == 100
        assert len(await fetch_one(volume, stream, "a", 0, 200)) == 100
        assert await read_all(volume, stream, "b", 0) == [b"fine"]


async def test_missing_and_damaged_rows_are_corrupt() -> None:
    async with opened() as (volume, stream):
        for _ in range(3):
            await produce(volume, stream, "a", 0, [b"x", b"y"])
        engine = volume.storage.engine
        key = keys.batch(stream, 1, 0, 2)
        value = await engine.get(key)
        assert value is not None
        await engine.commit({key: value[:-1] + b"?"})
        assert len(await fetch_one(volume, stream, "a", 0, 0, size_bytes=100)) == 2
        for damaged in (value[:-1] + b"?", value[:9], None):
            await engine.commit({key: damaged})
            with pytest.raises(Corrupt) as caught:
                await fetch_one(volume, stream, "a", 0, 3)
            assert caught.value.facts["partition"] == "/events:a/0"
        await engine.commit({key: value})


def _segment(volume: Volume, number: int) -> Any:
    return volume.storage.segments._volume.segments[number]  # type: ignore[attr-defined]


async def _extent(volume: Volume, stream: int, base_offset: int) -> Extent:
    value = await volume.storage.engine.get(keys.batch(stream, 1, 0, base_offset))
    assert value is not None
    extent = StoredBatch.unpack(value).extent
    assert extent is not None
    return extent


# ---------------------------------------------------------------- offsets


async def test_offsets_by_time() -> None:
    async with opened(partitions=2) as (volume, stream):
        times = [(10, 12), (20, 21), (5, 6), (30, 15), (40, 41)]
        for pair in times:
            batch = build_batch([b"x", b"y"], timestamps_ms=pair)
            await append(volume, stream, ("a", 0, batch))

        async def at(timestamp_ms: int) -> int:
            first, second = await streams.offsets(volume, stream, "a", timestamp_ms)
            assert second.offset == 0
            return first.offset

        assert [await at(t) for t in (-2, -1, 0, 10, 12, 13, 21)] == [0, 10, 0, 0, 0, 2, 2]
        assert [await at(t) for t in (22, 30, 31, 41, 42)] == [6, 6, 8, 8, 10]
        with pytest.raises(Invalid):
            await at(-3)
        with pytest.raises(NotFound):
            await streams.offsets(volume, stream, "b", 0)


# ---------------------------------------------------------------- retention


async def test_old_batches_go_by_age() -> None:
    async with opened(ttl_ms=60_000) as (volume, stream):
        clock = volume.clock
        assert isinstance(clock, ManualClock)
        for _ in range(5):
            await produce(volume, stream, "a", 0, [b"x"] * 10)
            clock.advance(20)
        assert await retention.run_once(volume) == 2  # 100 s and 80 s old
        with pytest.raises(Stale) as caught:
            await fetch_one(volume, stream, "a", 0, 19)
        assert caught.value.facts["start_offset"] == 20
        assert len(await read_all(volume, stream, "a", 0)) == 30
        assert (await streams.offsets(volume, stream, "a", 0))[0].offset == 20
        clock.advance(1000)
        assert await retention.run_once(volume) == 3
        assert await read_all(volume, stream, "a", 0) == []
        assert await produce(volume, stream, "a", 0, [b"next"]) == 50
        assert ("records expired", {"topic": "a", "partition": 0, "start_offset": 20}) in (
            await events(volume)
        )


async def test_batches_go_by_size_and_the_newest_stays() -> None:
    batch = build_batch([b"x" * 1000] * 80)
    async with opened(bytes_max=3 * len(batch)) as (volume, stream):
        for _ in range(5):
            await append(volume, stream, ("a", 0, batch))
        assert await retention.run_once(volume) == 2
        (topic,) = await streams.topics(volume, stream)
        assert topic.partitions[0] == streams.Ends(0, 160, 400, 3 * len(batch))
        await _set(volume, stream, bytes_max=10)
        assert await retention.run_once(volume) == 2
        assert len(await read_all(volume, stream, "a", 0)) == 80
        assert await retention.run_once(volume) == 0


async def test_retention_leaves_what_is_not_durable_and_what_has_no_limit() -> None:
    async with opened(bytes_max=1) as (volume, stream):
        await produce(volume, stream, "a", 0, [b"1"])
        for value in (b"2", b"3"):
            await produce(volume, stream, "a", 0, [value], durable=False)
        assert await retention.run_once(volume) == 1
        await volume.lane.durable()
        assert await retention.run_once(volume) == 1
        assert await read_all(volume, stream, "a", 0) == [b"3"]
        await _set(volume, stream, bytes_max=0)
        await produce(volume, stream, "a", 0, [b"4"])
        volume.clock.advance(1e9)  # type: ignore[attr-defined]
        await retention.run_once(volume)
        assert await read_all(volume, stream, "a", 0) == [b"3", b"4"]


async def test_retention_in_bounded_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_UNIT", 7)
    async with opened(ttl_ms=1) as (volume, stream):
        for _ in range(30):
            await produce(volume, stream, "a", 0, [b"x"])
        volume.clock.advance(1)  # type: ignore[attr-defined]
        before = volume.state.commit
        assert await retention.run_once(volume) == 30
        assert volume.state.commit == before + 5


async def test_streams_are_found_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STREAMS_PER_RUN", 2)
    async with opened(ttl_ms=1) as (volume, stream):
        others = [await new_stream(volume, f"s{i}", ttl_ms=1) for i in range(4)]
        for number in (stream, *others):
            await produce(volume, number, "a", 0, [b"x"])
        volume.clock.advance(1)  # type: ignore[attr-defined]
        assert [await retention.run_once(volume) for _ in range(4)] == [2, 2, 1, 0]


async def test_idle_producers_are_forgotten() -> None:
    async with opened() as (volume, stream):
        await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(9, 0, 0))))
        volume.clock.advance(6 * 24 * 3600)  # type: ignore[attr-defined]
        await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(8, 0, 0))))
        assert await retention.run_once(volume) == 0
        volume.clock.advance(2 * 24 * 3600)  # type: ignore[attr-defined]
        assert await retention.run_once(volume) == 1
        with pytest.raises(Conflict):
            await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(9, 0, 1))))
        await append(volume, stream, ("a", 0, build_batch([b"x"], producer=(8, 0, 1))))


async def test_a_stream_is_removed_in_steps() -> None:
    async with opened() as (volume, stream):
        for _ in range(5):
            await append(volume, stream, ("a", 0, build_batch([b"v" * 1000] * 100)))
            await append(volume, stream, ("b", 0, build_batch([b"x"], producer=(9, 0, 0))))
        commit = [group_offsets.Commit("a", 0, 4)]
        await run(volume, lambda unit: group_offsets.commit_offsets(unit, stream, "g", commit))

        async def drop_name(unit: Unit) -> None:
            inode = await unit.inode(stream)
            inode.links = 0
            unit.save(inode)
            unit.used(-(await unit.statistics(stream)).size_bytes, -1)

        await run(volume, drop_name)
        with pytest.raises(NotFound):
            await produce(volume, stream, "a", 0, [b"x"])
        assert await retention.run_once(volume) == 0
        (found,) = await streams.offsets(volume, stream, "b", -1)
        position = [streams.Position("b", 0, found.offset)]
        waiting = asyncio.ensure_future(streams.fetch(volume, stream, position, wait_s=60))
        await turns()
        steps = 1
        while not await run(volume, lambda unit: streams.remove_stream_data(unit, stream, 4)):
            steps += 1
        assert steps == 4
        assert isinstance((await waiting)[0].error, NotFound)
        assert not volume.partitions._ends
        prefixes = (keys.TOPIC, keys.PARTITION, keys.BATCH, keys.PRODUCER, keys.GROUP_OFFSET)
        for prefix in (*prefixes, keys.STATISTICS, keys.REFERENCE):
            start, end = keys.prefix_range(prefix)
            assert await volume.storage.engine.scan(start, end) == []


async def _set(volume: Volume, stream: int, **settings: Any) -> None:
    async def work(unit: Unit) -> None:
        inode = await unit.inode(stream)
        inode.settings.update(settings)
        unit.save(inode)

    await run(volume, work)
