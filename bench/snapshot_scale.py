"""Snapshots and clones of a large volume, beside one who writes: `python -m bench.snapshot_scale`.

Builds a volume of many files and rows straight through the core, then measures, with the disk as
busy as the writer makes it: how long a snapshot and a clone take, and the slowest durable write in
the time around each, with as long a time before that nothing happened in.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgpack

from dataplatform.core import clones, namespace, restore_paths, tables
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Platform
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.rocks import RocksStorages
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ROOT_INODE,
    Entry,
    Inode,
    Kind,
    Piece,
    VolumeSettings,
    pack_row,
)

FILES_PER_DIRECTORY = 1000
FILE_BYTES = 100
ROWS_PER_UNIT = 50_000
AROUND_S = 1.0


async def add_files(volume: Volume, count: int) -> None:
    """Small ones, as many to a directory as stand in one unit, written as the namespace would."""
    value = Piece(0, FILE_BYTES, b"x" * FILE_BYTES).pack()
    for number in range(0, count, FILES_PER_DIRECTORY):
        name = f"d{number // FILES_PER_DIRECTORY}"

        async def work(unit: Unit, name: str = name) -> None:
            new = Attributes(Kind.DIRECTORY, 0o755)
            directory = await namespace.create(unit, ROOT_INODE, name, new)
            parent = await unit.inode(directory)
            first = directory + 1
            unit.raise_counters(first + FILES_PER_DIRECTORY, 0)
            for i in range(FILES_PER_DIRECTORY):
                encoded = b"file-%d" % i
                inode = Inode(first + i, Kind.FILE, 0o644, 0, 0, parent=directory, name=encoded)
                inode.size = inode.used_bytes = FILE_BYTES
                inode.mtime_ns = inode.ctime_ns = inode.birth_ns = unit.now_ns
                unit.save(inode)
                unit.put(keys.entry(directory, encoded), Entry(inode.number, Kind.FILE).pack())
                unit.put(keys.piece(inode.number, 0), value)
            parent.size += FILES_PER_DIRECTORY
            unit.save(parent)
            unit.used(FILE_BYTES * FILES_PER_DIRECTORY, FILES_PER_DIRECTORY, directory)
            unit.quiet = True

        await volume.run(SYSTEM, work, durable=False)


async def add_table(volume: Volume, name: str) -> int:
    async def work(unit: Unit) -> int:
        return await namespace.create(unit, ROOT_INODE, name, Attributes(Kind.TABLE))

    return await volume.run(SYSTEM, work, durable=True)


async def add_rows(volume: Volume, table: int, count: int) -> None:
    """As a put of many rows would write them."""
    pack = msgpack.Packer().pack
    for first in range(0, count, ROWS_PER_UNIT):

        async def work(unit: Unit, first: int = first) -> None:
            head, rows = pack_row(unit.commit, 0, b""), keys.rows(table)
            size = 0
            for i in range(first, first + ROWS_PER_UNIT):
                key, value = b"row-%09d" % i, head + pack({"model": "ES8", "n": i})
                unit.put(rows + key, value)
                size += len(key) + len(value)
            await unit.account(table, count=ROWS_PER_UNIT, size_bytes=size)
            unit.quiet = True

        await volume.run(SYSTEM, work, durable=False)


class Writer:
    """One durable put after the other."""

    def __init__(self, volume: Volume, table: int) -> None:
        self._volume = volume
        self._table = table
        self.slowest_s = 0.0
        self.count = 0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        row = msgpack.packb({"n": 1})
        while True:
            key = b"w%d" % (self.count % 1000)
            start = time.perf_counter()

            async def put(unit: Unit, key: bytes = key) -> object:
                return await tables.put(unit, self._table, key, row)

            await self._volume.run(SYSTEM, put, durable=True)
            self.slowest_s = max(self.slowest_s, time.perf_counter() - start)
            self.count += 1

    async def around(self, what: str, call: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(AROUND_S)
        self.slowest_s, self.count = 0.0, 0
        start = time.perf_counter()
        await call()
        took_s = time.perf_counter() - start
        await asyncio.sleep(AROUND_S)
        writes_s = self.count / (took_s + AROUND_S)
        print(
            f"{what:<22} {took_s * 1e3:8.0f} ms, slowest durable write "
            f"{self.slowest_s * 1e3:6.1f} ms, {writes_s:6.0f} writes/s",
            flush=True,
        )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def main(directory: Path, files: int, rows: int) -> None:
    platform = await Platform.start(await RocksStorages.at(directory))
    at = await platform.locate_name("/v")
    number = await platform.catalog.create(SYSTEM, at, VolumeSettings())
    platform.release(at.volume)
    volume = await platform.acquire(number)
    start = time.perf_counter()
    await add_files(volume, files)
    print(f"{files} files in {time.perf_counter() - start:.0f} s", flush=True)
    start = time.perf_counter()
    await add_rows(volume, await add_table(volume, "rows"), rows)
    await volume.sync()
    print(f"{rows} rows in {time.perf_counter() - start:.0f} s", flush=True)
    tables_count = sum(1 for _ in (directory / "volumes" / str(number) / "db").glob("*.sst"))
    print(f"{tables_count} sorted files", flush=True)
    writer = Writer(volume, await add_table(volume, "writes"))
    try:
        await writer.around("nothing", lambda: asyncio.sleep(1))
        for name in ("first", "second", "third"):
            await writer.around(
                "snapshot",
                partial(platform.snapshots.create, SYSTEM, volume, name),
            )
            snapshot = platform.snapshots.get(number, name)
            frees = await platform.snapshots.freed_bytes(volume, snapshot)
            print(f"  removing it would give back {frees / 1024:.0f} KiB", flush=True)

            async def clone(name: str = name) -> None:
                at = await platform.locate_name(f"/clone-{name}")
                try:
                    await clones.clone(platform, SYSTEM, volume, name, at)
                finally:
                    platform.release(at.volume)

            await writer.around("clone", clone)

        async def restore() -> None:
            at = await platform.locate_name("/v/d1")
            try:
                await restore_paths.restore(platform, SYSTEM, at, "first")
            finally:
                platform.release(at.volume)

        await writer.around("restore 1000 files", restore)
    finally:
        await writer.stop()
    platform.release(volume)
    await platform.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        asyncio.run(main(place, options.files, options.rows))
    finally:
        shutil.rmtree(place)
