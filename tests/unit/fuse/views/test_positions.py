"""The index from bytes to offsets, beside a list of all lines in the order of their discovery."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Corrupt, PlatformError, Stale
from dataplatform_clients.fuse.views import positions
from dataplatform_clients.fuse.views.fetches import Fetched, Lines, Source
from dataplatform_clients.fuse.views.positions import Positions


class Part(Fetched):
    """As fetched, of batches that need no decoding."""

    batches: list[Lines]

    def lines(self) -> Iterator[Lines]:
        for batch in self.batches:
            skipped = max(self.offset - batch.first, 0)
            text = b"".join(batch.text.splitlines(keepends=True)[skipped:])
            yield Lines(batch.first + skipped, batch.end, text, len(batch.text))


class Logs(Source):
    """Partitions in memory. `broken`: (partition, offset) that cannot be read."""

    def __init__(self, count: int, chance: random.Random) -> None:
        self.batches: list[list[Lines]] = [[] for _ in range(count)]
        self.starts = [0] * count
        self.broken: dict[tuple[int, int], PlatformError] = {}
        self.fetches = 0
        self._chance = chance

    def end(self, partition: int) -> int:
        listed = self.batches[partition]
        return listed[-1].end if listed else 0

    def append(self, partition: int, records: int) -> None:
        first = self.end(partition)
        text = b"".join(
            b"%d/%d%s\n" % (partition, first + n, b"." * self._chance.randrange(9))
            for n in range(records)
        )
        self.batches[partition].append(Lines(first, first + records, text, len(text)))

    def trim(self, partition: int) -> None:
        """The oldest batch goes."""
        listed = self.batches[partition]
        left = [batch for batch in listed if batch.first >= self.starts[partition]]
        if len(left) > 1:
            self.starts[partition] = left[1].first

    async def fetch(self, offsets: Mapping[int, int], size_bytes: int) -> list[Fetched]:
        self.fetches += 1
        await asyncio.sleep(0)
        found: list[Fetched] = []
        for partition, offset in offsets.items():
            start, error = self.starts[partition], None
            chosen: list[Lines] = []
            if offset < start:
                error = Stale("trimmed")
            else:
                behind = [b for b in self.batches[partition] if b.end > offset]
                chosen = behind[: self._chance.randrange(1, 4)]
                for batch in chosen:
                    if (partition, batch.first) in self.broken:
                        chosen = chosen[: chosen.index(batch)]
                        error = None if chosen else self.broken[partition, batch.first]
                        break
            if chosen or error:
                part = Part("t", partition, offset, memoryview(b""), start, error)
                part.batches = chosen
                found.append(part)
        return found[: self._chance.randrange(1, len(found) + 1)] if found else []

    def ends(self) -> list[pb.Partition]:
        return [
            pb.Partition(partition=n, start_offset=start, end_offset=self.end(n))
            for n, start in enumerate(self.starts)
        ]


async def whole(index: Positions) -> bytes:
    """Everything, gaps as `_`."""
    text = b""
    while (chunk := await index.chunk(len(text))) is not None:
        text += b"_" * (chunk.position - len(text))
        text += chunk.text[len(text) - chunk.position :]
    return text


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("keeps_tail", [False, True])
async def test_a_record_keeps_its_position(
    count: int, keeps_tail: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(positions, "MARK_BYTES", 50)
    monkeypatch.setattr(positions, "TAIL_BYTES", 40)
    logs = Logs(count, chance)
    index = Positions(logs)
    index.keeps_tail = keeps_tail
    seen = b""
    for _ in range(150):
        partition = chance.randrange(count)
        action = chance.randrange(10)
        if action < 5:
            logs.append(partition, chance.randrange(1, 6))
        elif action == 5 and not keeps_tail:
            logs.trim(partition)
        elif action == 6 and not keeps_tail:
            kept = b"".join(
                line
                for line in seen.splitlines(keepends=True)
                if int(line.split(b"/")[1].split(b".")[0]) >= logs.starts[int(line[:1])]
            )
            await index.compact(logs.ends(), lambda: False)
            seen = kept
        await index.catch_up(logs.ends())
        assert index.end >= len(seen)
        text = await whole(index)
        assert len(text) == index.end
        for line, now in zip(
            seen.splitlines(keepends=True), _split(text, seen), strict=True
        ):  # as it was, or gone
            assert now in (line, b"_" * len(line))
        seen += text[len(seen) :]
    assert {int(line[:1]) for line in seen.splitlines()} == set(range(count))


def _split(text: bytes, like: bytes) -> Iterator[bytes]:
    at = 0
    for line in like.splitlines(keepends=True):
        yield text[at : at + len(line)]
        at += len(line)


async def test_an_end_that_was_interrupted_is_gone_on_from() -> None:
    logs = Logs(1, random.Random(1))
    for _ in range(50):
        logs.append(0, 3)
    index = Positions(logs)
    while index.end < sum(len(batch.text) for batch in logs.batches[0]):
        task = asyncio.create_task(index.catch_up(logs.ends()))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await whole(index) == b"".join(batch.text for batch in logs.batches[0])


async def test_many_who_ask_at_once_fetch_once() -> None:
    logs = Logs(1, random.Random(1))
    logs.append(0, 3)
    index = Positions(logs)
    await asyncio.gather(*(index.catch_up(logs.ends()) for _ in range(10)))
    assert logs.fetches == 1


async def test_it_goes_as_far_as_records_can_be_read() -> None:
    logs = Logs(2, random.Random(1))
    for partition in 0, 1:
        for _ in range(4):
            logs.append(partition, 2)
    damage = Corrupt("a record batch is damaged")
    logs.broken[0, 4] = damage
    index = Positions(logs)
    await index.catch_up(logs.ends())
    assert index.damage is damage
    text = await whole(index)
    assert text.count(b"0/") == 4
    assert text.count(b"1/") == 8
    logs.broken.clear()
    await index.catch_up(logs.ends())
    assert index.damage is None
    assert (await whole(index)).startswith(text)
    assert (await whole(index)).count(b"0/") == 8


async def test_marks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "MARKS_MAX", 10)
    logs = Logs(2, random.Random(1))
    index = Positions(logs)
    for turn in range(40):
        logs.append(turn % 2, 1)
        await index.catch_up(logs.ends())
    text = await whole(index)
    assert len(text) == index.end
    lines = text.lstrip(b"_").splitlines()
    assert 5 <= len(lines) <= 10
    assert lines[-1].startswith(b"1/19")


async def test_compacting_gives_way_to_readers() -> None:
    logs = Logs(1, random.Random(1))
    for _ in range(4):
        logs.append(0, 2)
    index = Positions(logs)
    await index.catch_up(logs.ends())
    logs.trim(0)
    await index.catch_up(logs.ends())
    before = await whole(index)
    await index.compact(logs.ends(), lambda: True)
    assert await whole(index) == before
    await index.compact(logs.ends(), lambda: False)
    assert await whole(index) == before.lstrip(b"_")
