"""Streams beside plain lists: random operations, step by step, errors, retries and restarts too;
and many producers and readers while the power is cut.

`--seed N` repeats a run.
"""

from __future__ import annotations

import asyncio
import bisect
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.clock import ManualClock
from dataplatform.base.errors import ErrorKind, PlatformError
from dataplatform.core import compaction, groups, retention, streams
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import Storages
from dataplatform.engine.memory import MemoryStorages
from dataplatform.engine.rocks import RocksStorages
from dataplatform.engine.slate import SlateStorages
from tests.principals import admin
from tests.streaming import (
    append,
    build_batch,
    check_stream,
    decode,
    new_stream,
    open_or_create,
    turns,
)

SEGMENT_BYTES = 1 << 16
"""Small, so that segments fill up, die and are compacted within a test."""


async def memory(path: Path) -> Storages:
    return MemoryStorages(segment_bytes=SEGMENT_BYTES)


async def rocks(path: Path) -> Storages:
    return await RocksStorages.at(path, segment_bytes=SEGMENT_BYTES)


async def slate(path: Path) -> Storages:
    return await SlateStorages.at(path.as_uri(), segment_bytes=SEGMENT_BYTES)


ENGINES = {"memory": (memory, 4000), "rocks": (rocks, 2500), "slate": (slate, 500)}


def expect(error: PlatformError, kind: ErrorKind) -> None:
    """Any other is not expected, and goes on."""
    if error.kind != kind:
        raise error


# ---------------------------------------------------------------- the model


@dataclass
class Batch:
    base: int
    values: list[bytes]
    times_ms: list[int]
    size_bytes: int
    appended_ms: int

    @property
    def end(self) -> int:
        return self.base + len(self.values)


@dataclass
class Partition:
    start: int = 0
    end: int = 0
    durable_end: int = 0
    batches: list[Batch] = field(default_factory=list)
    newest: list[int] = field(default_factory=list)
    """For each batch, the newest time of it and of all ever before it."""
    newest_ever: int = -1
    producers: dict[int, tuple[int, list[tuple[int, bytes, int, int]]]] = field(
        default_factory=dict
    )
    """By id: its epoch, and (first sequence, the batch, its offset, time) of all its appends."""


@dataclass
class Topic:
    id: int
    partitions: list[Partition]


class Walk:
    """One random run on one engine."""

    def __init__(self, rng: random.Random, storages: Storages) -> None:
        self.rng = rng
        self.storages = storages
        self.clock = ManualClock()
        self.topics: dict[str, Topic] = {}
        self.topics_made = 0
        self.offsets: dict[tuple[str, int, str, int], int] = {}  # group, topic id, topic, partition
        self.settings: dict[str, Any] = {"partitions": 2, "ttl_ms": 0, "bytes_max": 0}
        self.session = rng.randbytes(16)
        self.sequence = 0
        self.counter = 0
        self.volume: Volume
        self.stream = 0

    async def open(self) -> None:
        self.volume = await open_or_create(self.storages, self.clock, seed=1)

    async def run(self, steps: int) -> None:
        await self.open()
        self.stream = await new_stream(self.volume, **self.settings)
        operations: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (40, self.append),
            (30, self.fetch),
            (6, self.find_offsets),
            (5, self.create_topic),
            (1, self.delete_topic),
            (6, self.commit_offset),
            (3, self.describe_groups),
            (1, self.delete_group),
            (3, self.trim),
            (1, self.change_settings),
            (3, self.compact),
            (3, self.make_durable),
            (1, self.restart),
        ]
        weights = [weight for weight, _ in operations]
        for _ in range(steps):
            (_, operation) = self.rng.choices(operations, weights)[0]
            await operation()
            self.clock.advance(self.rng.random())
        await self.check_topics()
        await check_stream(self.volume, self.stream)
        await self.volume.close()

    # ---- how writes are made

    async def write(self, work: Callable[[Unit], Awaitable[Any]], *, durable: bool = True) -> Any:
        """One write with a request id, sometimes twice, as after a lost reply."""
        self.sequence += 1
        request = Request(admin("walk"), self.session, self.sequence % 3, self.sequence)
        result = await self.volume.run(request, work, durable=durable)
        if self.rng.random() < 0.1:
            assert await self.volume.run(request, work, durable=durable) == result
        if durable:
            self.all_durable()
        return result

    async def refused(self, kind: ErrorKind, work: Awaitable[Any]) -> PlatformError:
        with pytest.raises(PlatformError) as caught:
            await work
        assert caught.value.kind == kind, caught.value
        return caught.value

    def all_durable(self) -> None:
        for topic in self.topics.values():
            for partition in topic.partitions:
                partition.durable_end = partition.end

    def now_ms(self) -> int:
        return self.clock.now_ns() // 1_000_000

    def any_name(self) -> str:
        return self.rng.choice(["a", "b", "c.d", "e-1"])

    def any_partition(self) -> tuple[str, int, Partition] | None:
        if not self.topics:
            return None
        name = self.rng.choice(sorted(self.topics))
        number = self.rng.randrange(len(self.topics[name].partitions))
        return name, number, self.topics[name].partitions[number]

    # ---- topics

    def new_topic(self, name: str, count: int) -> None:
        self.topics_made += 1
        self.topics[name] = Topic(self.topics_made, [Partition() for _ in range(count)])

    async def create_topic(self) -> None:
        name, count, exist_ok = self.any_name(), self.rng.randrange(5), self.rng.random() < 0.5

        def work(unit: Unit) -> Awaitable[list[int]]:
            return streams.create_topic(unit, self.stream, name, count, exist_ok=exist_ok)

        topic = self.topics.get(name)
        if topic is not None and count <= len(topic.partitions) and not exist_ok:
            await self.refused(ErrorKind.EXISTS, self.write(work))
            return
        if topic is None:
            self.new_topic(name, count or self.settings["partitions"])
        else:
            missing = count - len(topic.partitions)
            topic.partitions += [Partition() for _ in range(missing)]
        topic = self.topics[name]
        assert await self.write(work) == [topic.id, len(topic.partitions)]

    async def delete_topic(self) -> None:
        name = self.any_name()

        def work(unit: Unit) -> Awaitable[None]:
            return streams.delete_topic(unit, self.stream, name)

        if name not in self.topics:
            await self.refused(ErrorKind.NOT_FOUND, self.write(work))
            return
        await self.write(work)
        gone = self.topics.pop(name).id
        self.offsets = {key: o for key, o in self.offsets.items() if key[1] != gone}

    async def check_topics(self) -> None:
        found = await streams.topics(self.volume, self.stream)
        assert [(t.name, t.id) for t in found] == sorted((n, t.id) for n, t in self.topics.items())
        for got in found:
            for ends, partition in zip(
                got.partitions, self.topics[got.name].partitions, strict=True
            ):
                size = sum(batch.size_bytes for batch in partition.batches)
                assert ends[1:] == (partition.start, partition.durable_end, size)

    # ---- appends

    async def append(self) -> None:
        name = self.any_name()
        topic = self.topics.get(name)
        count = len(topic.partitions) if topic else self.settings["partitions"]
        number = self.rng.randrange(count + 1)
        fate = self.rng.random()
        producer = self.rng.randrange(1, 4) if fate < 0.6 else None
        if number == count:
            part = (name, number, self.build(None)[0])
            await self.refused(ErrorKind.NOT_FOUND, self.write_parts([part]))
        elif fate > 0.97:
            data = bytearray(self.build(None)[0])
            data[self.rng.randrange(16, len(data))] ^= 1 << self.rng.randrange(8)
            await self.refused(ErrorKind.INVALID, self.write_parts([(name, number, bytes(data))]))
        elif producer is not None:
            await self.append_idempotent(name, number, producer)
        else:
            await self.append_parts(name, number)

    def build(self, producer: tuple[int, int, int] | None) -> tuple[bytes, list[bytes], list[int]]:
        """(batch, values, times), mostly small, sometimes one that goes to a segment."""
        large = self.rng.random() < 0.1
        values = []
        for _ in range(self.rng.randrange(1, 9)):
            self.counter += 1
            values.append(b"%d" % self.counter + bytes(9000 * large))
        times = [self.now_ms() - self.rng.randrange(5000) for _ in values]
        return build_batch(values, producer=producer, timestamps_ms=times), values, times

    async def write_parts(self, parts: list[tuple[str, int, bytes]], **options: Any) -> Any:
        minimum = 1 if self.rng.random() < 0.1 else 20_000
        durable = self.rng.random() < 0.7
        self.sequence += 1
        request = Request(admin("walk"), self.session, self.sequence % 3, self.sequence)
        if self.rng.random() < 0.3:
            request = Request(admin("walk"))
        results = await append(
            self.volume,
            self.stream,
            *parts,
            request=request,
            durable=durable,
            extent_bytes_min=minimum,
        )
        if request.session is not None and self.rng.random() < 0.2:
            again = await append(self.volume, self.stream, *parts, request=request, durable=durable)
            assert again == results
        return results, durable

    def stored(self, name: str, number: int, made: tuple[bytes, list[bytes], list[int]]) -> int:
        if name not in self.topics:
            self.new_topic(name, self.settings["partitions"])
        partition = self.topics[name].partitions[number]
        data, values, times = made
        base = partition.end
        partition.batches.append(Batch(base, values, times, len(data), self.now_ms()))
        partition.newest_ever = max(partition.newest_ever, *times)
        partition.newest.append(partition.newest_ever)
        partition.end += len(values)
        return base

    async def append_parts(self, name: str, number: int) -> None:
        """Several parts of several batches, without producers."""
        where = [(name, number)]
        other = self.any_partition()
        if other is not None and self.rng.random() < 0.3:
            where.append((other[0], other[1]))
        made = [[self.build(None) for _ in range(self.rng.randrange(1, 4))] for _ in where]
        parts = [
            (topic, partition, b"".join(data for data, _, _ in batches))
            for (topic, partition), batches in zip(where, made, strict=True)
        ]
        results, durable = await self.write_parts(parts)
        for (topic, partition), batches, result in zip(where, made, results, strict=True):
            bases = [self.stored(topic, partition, batch) for batch in batches]
            assert result == [bases[0], self.now_ms(), False]
        if durable:
            self.all_durable()

    async def append_idempotent(self, name: str, number: int, producer: int) -> None:
        topic = self.topics.get(name)
        partition = topic.partitions[number] if topic else Partition()
        epoch, appended = partition.producers.get(producer, (0, []))
        following = appended[-1][0] + 1000 if appended else 0
        move = self.rng.random()
        if move < 0.2 and appended:
            await self.append_again(name, number, appended)
        elif move < 0.25:
            data, _, _ = self.build((producer, epoch, following + self.rng.randrange(1, 5)))
            await self.refused(ErrorKind.CONFLICT, self.write_parts([(name, number, data)]))
        elif move < 0.3 and epoch:
            data, _, _ = self.build((producer, epoch - 1, following))
            await self.refused(ErrorKind.STALE, self.write_parts([(name, number, data)]))
        else:
            if self.rng.random() < 0.1:
                epoch, appended, following = epoch + 1, [], 0
            await self.append_next(name, number, producer, epoch, appended, following)

    async def append_again(
        self, name: str, number: int, appended: list[tuple[int, bytes, int, int]]
    ) -> None:
        which = self.rng.randrange(1, len(appended) + 1)
        _, data, base, time_ms = appended[-which]
        if which > 5:
            await self.refused(ErrorKind.CONFLICT, self.write_parts([(name, number, data)]))
            return
        results, durable = await self.write_parts([(name, number, data)])
        assert results == [[base, time_ms, True]]
        if durable:
            self.all_durable()

    async def append_next(
        self,
        name: str,
        number: int,
        producer: int,
        epoch: int,
        appended: list[tuple[int, bytes, int, int]],
        first: int,
    ) -> None:
        """A part of batches with 1000 sequences in all, so that the model needs no counting."""
        made = []
        sequence = first
        for count in self.rng.choice([[1000], [1, 999], [400, 300, 300]]):
            values = [b"%d" % (self.counter + i) for i in range(count)]
            self.counter += count
            times = [self.now_ms()] * count
            batch = build_batch(values, producer=(producer, epoch, sequence), timestamps_ms=times)
            made.append((batch, values, times))
            sequence += count
        data = b"".join(batch for batch, _, _ in made)
        results, durable = await self.write_parts([(name, number, data)])
        bases = [self.stored(name, number, batch) for batch in made]
        assert results == [[bases[0], self.now_ms(), False]]
        partition = self.topics[name].partitions[number]
        partition.producers[producer] = (
            epoch,
            [*appended, (first, data, bases[0], self.now_ms())],
        )
        if durable:
            self.all_durable()

    # ---- fetches

    async def fetch(self) -> None:
        asked: list[tuple[str, int, Partition, int]] = []
        for _ in range(self.rng.randrange(1, 4)):
            found = self.any_partition()
            if found is None:
                return
            name, number, partition = found
            offset = self.rng.randrange(max(0, partition.start - 2), partition.end + 2)
            asked.append((name, number, partition, offset))
        size = self.rng.choice([1, 200, 20_000, 0])
        positions = [streams.Position(name, number, offset) for name, number, _, offset in asked]
        fetched = {
            part.position: part
            for part in await streams.fetch(self.volume, self.stream, positions, size_bytes=size)
        }
        left, any_data = size or 1 << 20, False
        for index, (_, _, partition, offset) in enumerate(asked):
            part = fetched.pop(index, None)
            error = part.error.kind if part is not None and part.error is not None else None
            if offset < partition.start:
                assert error == ErrorKind.STALE
                continue
            if offset > partition.end:
                assert error == ErrorKind.INVALID
                continue
            assert error is None
            batches = self.expected(partition, offset, left, any_data)
            if not batches:
                assert part is None
                continue
            assert part is not None
            left -= sum(batch.size_bytes for batch in batches)
            any_data = True
            assert decode(part.buffers) == [
                (batch.base + i, value) for batch in batches for i, value in enumerate(batch.values)
            ]
            assert (part.start_offset, part.end_offset) == (partition.start, partition.durable_end)
        assert not fetched

    def expected(self, partition: Partition, offset: int, left: int, any_data: bool) -> list[Batch]:
        found: list[Batch] = []
        if any_data and left <= 0:
            return found
        for batch in partition.batches:
            if batch.end <= offset or batch.end > partition.durable_end:
                continue
            left -= batch.size_bytes
            if left < 0 and (found or any_data):
                break
            found.append(batch)
        return found

    async def find_offsets(self) -> None:
        found = self.any_partition()
        if found is None:
            await self.refused(
                ErrorKind.NOT_FOUND, streams.offsets(self.volume, self.stream, "a", -1)
            )
            return
        name, number, partition = found
        wanted = self.rng.choice([-1, -2, 0, self.now_ms() - self.rng.randrange(60_000)])
        got = (await streams.offsets(self.volume, self.stream, name, wanted))[number]
        if wanted == -1:
            assert got.offset == partition.durable_end
        elif wanted == -2:
            assert got.offset == partition.start
        else:
            first = bisect.bisect_left(partition.newest, wanted)
            batches = partition.batches
            visible = first < len(batches) and batches[first].end <= partition.durable_end
            assert got.offset == (batches[first].base if visible else partition.durable_end)

    # ---- groups

    async def commit_offset(self) -> None:
        group = self.rng.choice(["g", "g2", "ü"])
        found = self.any_partition()
        if found is None:
            return
        name, number, _ = found
        offset = self.rng.randrange(1000)
        commit = groups.Commit(name, number, offset)

        def work(unit: Unit) -> Awaitable[None]:
            return groups.commit_offsets(unit, self.stream, group, [commit])

        await self.write(work)
        self.offsets[group, self.topics[name].id, name, number] = offset

    async def describe_groups(self) -> None:
        expected: dict[str, list[tuple[str, int, int, int]]] = {}
        for (group, _, name, number), offset in self.offsets.items():
            end = self.topics[name].partitions[number].durable_end
            expected.setdefault(group, []).append((name, number, offset, max(0, end - offset)))
        found = await groups.describe(self.volume, self.stream)
        assert {view.name: [tuple(o[:4]) for o in view.offsets] for view in found} == {
            group: sorted(offsets) for group, offsets in expected.items()
        }

    async def delete_group(self) -> None:
        def work(unit: Unit) -> Awaitable[None]:
            return groups.delete_group(unit, self.stream, "g")

        if any(key[0] == "g" for key in self.offsets):
            await self.write(work)
            self.offsets = {key: o for key, o in self.offsets.items() if key[0] != "g"}
            return
        # Offsets of topics that are being swept may still make it exist.
        try:
            await self.write(work)
        except PlatformError as error:
            expect(error, ErrorKind.NOT_FOUND)

    # ---- what happens by itself

    async def change_settings(self) -> None:
        self.settings["ttl_ms"] = self.rng.choice([0, 60_000])
        self.settings["bytes_max"] = self.rng.choice([0, 50_000])
        self.settings["partitions"] = self.rng.randrange(1, 4)

        async def work(unit: Unit) -> None:
            inode = await unit.inode(self.stream)
            inode.settings.update(self.settings)
            unit.save(inode)

        await self.write(work)

    async def trim(self) -> None:
        await retention.run_once(self.volume)
        oldest = self.now_ms() - self.settings["ttl_ms"] if self.settings["ttl_ms"] else None
        limit = self.settings["bytes_max"] or None
        for topic in self.topics.values():
            for partition in topic.partitions:
                self.trim_partition(partition, oldest, limit)
        await self.check_topics()

    def trim_partition(self, partition: Partition, oldest: int | None, limit: int | None) -> None:
        while partition.batches:
            batch = partition.batches[0]
            size = sum(b.size_bytes for b in partition.batches)
            aged = oldest is not None and batch.appended_ms < oldest
            too_much = limit is not None and size > limit and len(partition.batches) > 1
            if batch.end > partition.durable_end or not (aged or too_much):
                return
            del partition.batches[0], partition.newest[0]
            partition.start = batch.end

    async def compact(self) -> None:
        await compaction.run_once(self.volume)
        # Deleting dead segments waits until nothing durable names them.
        if self.volume.lane.last_ticket <= self.volume.storage.engine.durable_ticket:
            await self.volume.lane.run_once()
            self.all_durable()

    async def make_durable(self) -> None:
        await self.volume.lane.run_once()
        self.all_durable()
        await self.check_topics()

    async def restart(self) -> None:
        await check_stream(self.volume, self.stream)
        await self.volume.close()
        self.all_durable()
        await self.open()
        await self.check_topics()


@pytest.mark.parametrize("engine", ENGINES)
async def test_streams_against_lists(engine: str, seed: int, tmp_path: Path) -> None:
    make, steps = ENGINES[engine]
    storages = await make(tmp_path)
    try:
        await Walk(random.Random(seed), storages).run(steps)
    finally:
        await storages.close()


# ---------------------------------------------------------------- power cuts


class World:
    """A volume in memory whose power is cut now and then, and those who use it."""

    PARTITIONS = 2

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.storages = MemoryStorages(segment_bytes=SEGMENT_BYTES)
        self.volume: Volume
        self.stream = 0
        self.up = asyncio.Event()
        self.seen: dict[tuple[int, int], bytes] = {}  # by readers: partition, offset
        self.acknowledged: dict[tuple[int, int], bytes] = {}
        self.sent: dict[int, list[bytes]] = {}  # by producers, in order

    async def start(self) -> None:
        self.volume = await open_or_create(self.storages, self.clock)
        self.stream = await new_stream(self.volume, partitions=self.PARTITIONS)
        self.up.set()

    async def cut(self) -> None:
        self.up.clear()
        self.storages.crash(self.rng)
        self.volume.partitions.close()
        await turns(self.rng.randrange(5))
        self.volume = await open_or_create(self.storages, self.clock)
        self.up.set()

    async def produce(self, producer: int, count: int) -> None:
        """An idempotent producer of one partition that repeats what was not acknowledged, with or
        without a request id."""
        rng = random.Random(self.rng.random())
        partition = producer % self.PARTITIONS
        sequence = 0
        session = rng.randbytes(16)
        sent = self.sent[producer] = []
        for number in range(1, count + 1):
            values = [b"%d/%d" % (producer, sequence + i) for i in range(rng.randrange(1, 4))]
            batch = build_batch(values, producer=(producer, 0, sequence))
            request = (
                Request(admin("p"), session, 0, number)
                if rng.random() < 0.5
                else Request(admin("p"))
            )
            base = await self.send(rng, partition, batch, request)
            sequence += len(values)
            sent += values
            for index, value in enumerate(values):
                assert self.acknowledged.setdefault((partition, base + index), value) == value

    async def send(self, rng: random.Random, partition: int, batch: bytes, request: Request) -> int:
        while True:
            await self.up.wait()
            try:
                ((base, _, _),) = await append(
                    self.volume,
                    self.stream,
                    ("a", partition, batch),
                    request=request,
                    extent_bytes_min=rng.choice([1, 1 << 20]),
                )
            except PlatformError as error:
                expect(error, ErrorKind.UNAVAILABLE)
                await asyncio.sleep(0)
                continue
            if rng.random() < 0.9:
                return int(base)  # else the reply is lost

    async def disturb(self, count: int) -> None:
        """Lazy appends in between, which a power cut may take away; retention, compaction."""
        for _ in range(count):
            await self.up.wait()
            try:
                part = ("a", self.rng.randrange(self.PARTITIONS), build_batch([b"lazy"]))
                await append(self.volume, self.stream, part, durable=False)
                if self.rng.random() < 0.2:
                    await compaction.run_once(self.volume)
            except PlatformError as error:
                expect(error, ErrorKind.UNAVAILABLE)
            await turns(self.rng.randrange(4))

    async def read(self, partition: int) -> None:
        """Follows to the end; what a reader has seen once stays as it is."""
        offset = 0
        while True:
            await self.up.wait()
            try:
                fetched = await streams.fetch(
                    self.volume, self.stream, [streams.Position("a", partition, offset)], wait_s=60
                )
            except PlatformError as error:
                expect(error, ErrorKind.UNAVAILABLE)
                fetched = []
            for part in fetched:
                if part.error is not None:
                    assert part.error.kind in (ErrorKind.NOT_FOUND, ErrorKind.UNAVAILABLE)
                    continue
                for got, value in decode(part.buffers):
                    assert got <= offset
                    assert self.seen.setdefault((partition, got), value) == value
                    offset = max(offset, got + 1)
            await asyncio.sleep(0)

    async def check(self) -> None:
        """Nothing acknowledged or seen is lost, nothing is there twice, offsets have no gap."""
        (topic,) = await streams.topics(self.volume, self.stream, ["a"])
        stored: dict[tuple[int, int], bytes] = {}
        for ends in topic.partitions:
            offset = ends.start_offset
            assert offset == 0
            while offset < ends.end_offset:
                position = streams.Position("a", ends.partition, offset)
                (part,) = await streams.fetch(self.volume, self.stream, [position])
                assert part.error is None
                for got, value in decode(part.buffers):
                    assert got == offset
                    stored[ends.partition, got] = value
                    offset += 1
        for expected in (self.acknowledged, self.seen):
            assert {key: stored.get(key) for key in expected} == expected
        for producer, sent in self.sent.items():
            prefix = b"%d/" % producer
            found = [stored[key] for key in sorted(stored) if stored[key].startswith(prefix)]
            assert found == sent
        await check_stream(self.volume, self.stream)


@pytest.mark.allow_warnings("stopped after a failed write")
@pytest.mark.parametrize("round_number", range(20))
async def test_power_cuts(seed: int, round_number: int) -> None:
    world = World(seed + round_number)
    await world.start()
    readers = [asyncio.ensure_future(world.read(p)) for p in range(world.PARTITIONS)]
    others = [asyncio.ensure_future(world.produce(p, 40)) for p in range(1, 5)]
    others.append(asyncio.ensure_future(world.disturb(60)))
    try:
        while not all(task.done() for task in others):
            await turns(world.rng.randrange(1, 60))
            if world.rng.random() < 0.3:
                await world.cut()
            assert not any(task.done() for task in readers)
    finally:
        for task in readers:
            task.cancel()
        results = await asyncio.gather(*others, return_exceptions=True)
        await asyncio.gather(*readers, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    await world.volume.lane.durable()
    await world.check()
    await world.volume.close()
