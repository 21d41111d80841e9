"""A real server on a disk that gets full under load, and is killed: nothing confirmed is lost.

Needs root, to mount a small tmpfs. What cannot be written is refused as EXHAUSTED, clients go on by
themselves once there is room, and everything acknowledged as durable is there in the end.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dataplatform import Exhausted, aio

from .servers import ServerProcess

SIZES_MIB = (96, 128, 160)
"""Of the file system: full, then larger, twice."""

REFUSED = 20
DONE = 10
"""How often each kind must have been refused, and have got on again, before things change."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZES_MIB[0]}m", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def enlarge(disk: Path, size_mib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_mib}m", str(disk)], check=True)


class Load:
    """Rows, a counter, files and records, until told to stop; what was acknowledged is kept."""

    def __init__(self, dp: aio.Client, seed: int) -> None:
        self.dp = dp
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.rows: dict[str, int] = {}
        self.counted = 0
        self.files: dict[str, bytes] = {}
        self.records: set[bytes] = set()
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        self.table = await self.dp.create_table("/t")
        self.stream = await self.dp.create_stream("/s")
        await self.dp.mkdir("/f")
        works = [self._row(n) for n in range(8)] + [self._count(), self._file(), self._record()]
        self._tasks = [asyncio.create_task(work) for work in works]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def until(self, counts: Counter[str], least: int) -> None:
        """Every kind was counted so often more."""
        wanted = {kind: counts[kind] + least for kind in ("row", "count", "file", "record")}
        async with self._changed, asyncio.timeout(60):
            await self._changed.wait_for(
                lambda: all(counts[kind] >= count for kind, count in wanted.items())
            )

    async def _repeat(self, kind: str, step: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            try:
                await step()
                self.done[kind] += 1
            except Exhausted:
                self.refused[kind] += 1
            async with self._changed:
                self._changed.notify_all()

    async def _row(self, number: int) -> None:
        key, version = f"r{number}", 0

        async def step() -> None:
            nonlocal version
            version += 1
            blob = self.rng.randbytes(self.rng.choice((10, 1000, 20_000)))
            await self.table.put(key, {"n": version, "blob": blob})
            self.rows[key] = version

        await self._repeat("row", step)

    async def _count(self) -> None:
        async def step() -> None:
            await self.table.increment("counter", "n", 1)
            self.counted += 1

        await self._repeat("count", step)

    async def _file(self) -> None:
        made = 0

        async def step() -> None:
            nonlocal made
            made += 1
            path, data = f"/f/{made}", self.rng.randbytes(self.rng.choice((100, 300_000, 1 << 20)))
            await self.dp.write_file(path, data, durable=True)
            self.files[path] = data

        await self._repeat("file", step)

    async def _record(self) -> None:
        async with self._producer() as producer:

            async def step() -> None:
                sent = []
                for _ in range(20):
                    value = os.urandom(500)
                    sent.append((value, await producer.send("t", value)))
                await producer.flush()
                for value, delivery in sent:
                    await delivery.result()
                    self.records.add(value)

            await self._repeat("record", step)

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[aio.Producer]:
        producer = await self.stream.producer()
        yield producer
        await producer.close()

    async def verify(self) -> None:
        for key, version in self.rows.items():
            row = await self.table.get(key)
            assert row is not None
            assert row.columns["n"] >= version
        row = await self.table.get("counter")
        assert row is not None
        assert row.columns["n"] == self.counted
        for path, data in self.files.items():
            assert await self.dp.read_file(path) == data
        found: Counter[bytes] = Counter()
        async with await self.stream.consumer("t", start="earliest", follow=False) as consumer:
            async for record in consumer:
                found[record.value] += 1
        assert set(found.values()) <= {1}, "a record twice"
        assert self.records <= found.keys(), "an acknowledged record is lost"


async def test_a_disk_that_gets_full_and_a_kill(disk: Path, seed: int) -> None:
    server = ServerProcess(disk)
    await asyncio.to_thread(server.start)
    try:
        async with await aio.connect(server.address) as dp:
            load = Load(dp, seed)
            await load.start()
            for size_mib in SIZES_MIB[1:]:
                await load.until(load.refused, REFUSED)
                enlarge(disk, size_mib)
                await load.until(load.done, DONE)
            await load.until(load.refused, REFUSED)
            server.kill()
            enlarge(disk, 2 * SIZES_MIB[-1])
            await asyncio.to_thread(server.start)
            await load.until(load.done, DONE)
            await load.stop()
            await load.verify()
    finally:
        server.stop()
    checked = server.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr
