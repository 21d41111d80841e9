"""The workloads: each returns what it did and how long that took.

Durability is stated beside every figure: "durable" means synced before it was acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dataplatform
from dataplatform import aio

BASE = "/bench"


@dataclass(frozen=True, slots=True)
class Figure:
    work: str
    value: float
    unit: str
    durability: str


class Stopwatch:
    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    watch = Stopwatch()
    started = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - started


def streams(address: str) -> list[Figure]:
    count, value = 500_000, b"x" * 100
    with dataplatform.connect(address) as dp:
        stream = dp.create_stream(f"{BASE}/stream")
        stream.create_topic("t")
        with timed() as producing, stream.producer() as producer:
            for _ in range(count // 10_000):
                producer.send_many("t", [value] * 10_000)
            producer.flush()
        with timed() as consuming, stream.consumer("t", start="earliest") as consumer:
            read = 0
            while read < count:
                read += len(consumer.poll(timeout_s=5))
    return [
        Figure("produce, 100-byte records", count / producing.seconds, "/s", "durable"),
        Figure("consume them", count / consuming.seconds, "/s", "-"),
    ]


def single_calls(address: str) -> list[Figure]:
    count = 2000
    with dataplatform.connect(address) as dp:
        table = dp.create_table(f"{BASE}/single")
        with timed() as putting:
            for i in range(count):
                table.put(f"k{i}", {"v": "x" * 80})
        with timed() as getting:
            for i in range(count):
                table.get(f"k{i}")
    return [
        Figure("put, one at a time", putting.seconds / count * 1e6, "µs", "durable"),
        Figure("get, one at a time", getting.seconds / count * 1e6, "µs", "-"),
    ]


def bulk_rows(address: str) -> list[Figure]:
    count = 200_000
    rows = {f"k{i:08}": {"v": "x" * 80} for i in range(count)}
    with dataplatform.connect(address) as dp:
        table = dp.create_table(f"{BASE}/bulk")
        with timed() as putting:
            table.put_many(rows)
        with timed() as scanning:
            found = sum(1 for _ in table.scan())
        assert found == count
    return [
        Figure("put_many, 100-byte rows", count / putting.seconds, "rows/s", "durable"),
        Figure("scan", count / scanning.seconds, "rows/s", "-"),
    ]


async def concurrent(address: str) -> list[Figure]:
    count, clients = 30_000, 64
    async with await aio.connect(address) as dp:
        table = await dp.create_table(f"{BASE}/concurrent")
        with timed() as putting:
            await _together(clients, count, lambda i: table.put(f"k{i}", {"v": "x" * 80}))
        with timed() as getting:
            await _together(clients, count, lambda i: table.get(f"k{i}"))
        files = 5000
        await dp.mkdir(f"{BASE}/small")
        block = os.urandom(4096)
        with timed() as writing:
            await _together(clients, files, lambda i: dp.write_file(f"{BASE}/small/{i}", block))
            await dp.sync()
    return [
        Figure(f"put, {clients} at a time", count / putting.seconds, "/s", "durable"),
        Figure(f"get, {clients} at a time", count / getting.seconds, "/s", "-"),
        Figure("4 KiB files written whole", files / writing.seconds, "/s", "synced at the end"),
    ]


async def _together(clients: int, count: int, call: Callable[[int], Awaitable[object]]) -> None:
    async def client(first: int) -> None:
        for i in range(first, count, clients):
            await call(i)

    await asyncio.gather(*(client(first) for first in range(clients)))


def large_file(address: str) -> list[Figure]:
    size, block = 512 << 20, os.urandom(1 << 20)
    with dataplatform.connect(address) as dp:
        with timed() as writing, dp.open(f"{BASE}/large", "wb") as file:
            for _ in range(size >> 20):
                file.write(block)
        with timed() as syncing:
            dp.sync()
        with timed() as reading, dp.open(f"{BASE}/large", "rb") as file:
            while file.read(1 << 20):
                pass
    return [
        Figure("file write, 1 MiB calls", size / writing.seconds / 1e6, "MB/s", "buffered"),
        Figure("… and its sync", syncing.seconds * 1e3, "ms", "durable"),
        Figure("file read, 1 MiB calls", size / reading.seconds / 1e6, "MB/s", "-"),
    ]


def all_of_them(address: str) -> Iterator[Figure]:
    with dataplatform.connect(address) as dp:
        dp.mkdir(BASE, exist_ok=True)
    yield from single_calls(address)
    yield from asyncio.run(concurrent(address))
    yield from bulk_rows(address)
    yield from streams(address)
    yield from large_file(address)
