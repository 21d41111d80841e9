"""A volume with everything in it, for the tests of the check, which plant damages in it."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import msgpack

from dataplatform.base.limits import EXTENT_BYTES_MIN, KIB
from dataplatform.core import files, groups, namespace, streams, tables
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import NewName, Platform
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import Pair, scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ROOT_INODE,
    ROOT_VOLUME,
    Inode,
    Kind,
    Partition,
    Piece,
    StoredBatch,
    VolumeSettings,
    VolumeState,
)
from tests.model.platform_driver import Place
from tests.principals import admin
from tests.streaming import LZ4, build_batch

LARGE = 300 * KIB
SESSION = b"s" * 16


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no compression shortens."""
    return random.Random(seed).randbytes(size)


class World:
    """The root volume of a platform, and the inodes in it by path."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.platform: Platform
        self.volume: Volume
        self.inodes: dict[str, int] = {"/": ROOT_INODE}
        self.mounted = 0  # the volume at /mounted
        self.producer = 0
        self.topics: dict[str, int] = {}
        self._requests = 0

    async def open(self) -> None:
        self.platform = await self.place.open()
        self.volume = await self.platform.acquire(ROOT_VOLUME)

    async def close(self) -> None:
        self.platform.release(self.volume)
        await self.platform.close()

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    # ---- building

    def request(self) -> Request:
        self._requests += 1
        return Request(admin("ana"), SESSION, 0, self._requests)

    async def create(self, path: str, kind: int = Kind.FILE, **attributes: Any) -> int:
        parent, _, name = path.rpartition("/")
        new = Attributes(kind, **attributes)
        directory = self.inodes[parent or "/"]

        async def work(unit: Unit) -> int:
            return await namespace.create(unit, directory, name, new)

        number = await self.volume.run(self.request(), work, durable=False)
        self.inodes[path] = number
        return number

    async def write(self, path: str, offset: int, data: bytes) -> None:
        await files.write(
            self.volume, self.request(), self.inodes[path], offset, data, durable=True
        )

    async def remove(self, path: str, *, is_open: bool = True) -> None:
        parent, _, name = path.rpartition("/")
        number = self.inodes[path]
        if is_open:
            self.volume.opens[number] = 1

        async def work(unit: Unit) -> None:
            await namespace.remove(unit, self.inodes[parent or "/"], name.encode())

        await self.volume.run(self.request(), work, durable=False)

    async def append(self, stream: str, topic: str, partition: int, data: bytes) -> None:
        with self.volume.holds.append():
            prepared = await streams.prepare(
                self.volume, [streams.Part(topic, partition, data)], extent_bytes_min=32 * KIB
            )
            await self.volume.run(
                self.request(),
                lambda unit: streams.append(unit, self.inodes[stream], prepared),
                durable=True,
            )

    async def build(self) -> None:
        await self._build_files()
        await self._build_tables()
        await self._build_streams()
        await self._build_removed()
        at = NewName(self.volume, ROOT_INODE, (), "mounted", 0)
        self.mounted = await self.platform.catalog.create(self.request(), at, VolumeSettings())
        entry = await self.volume.find_entry(ROOT_INODE, b"mounted")
        assert entry is not None
        self.inodes["/mounted"] = entry.inode
        await self.volume.sync()

    async def _build_files(self) -> None:
        for path in ("/docs", "/docs/deep", "/docs/deep/er", "/empty"):
            await self.create(path, Kind.DIRECTORY)
        for path in ("/docs/small", "/docs/large", "/docs/sparse", "/docs/packed", "/docs/copy"):
            await self.create(path)
        await self.create("/docs/deep/er/file")
        await self.create("/docs/link", Kind.SYMLINK, symlink="small")
        await self.create("/docs/pipe", Kind.FIFO)
        await self.write("/docs/small", 0, b"hello")
        await self.write("/docs/deep/er/file", 0, b"deep")
        await self.write("/docs/large", 0, noise(LARGE))
        await self.write("/docs/large", 100 * KIB, b"cut")
        await self.write("/docs/sparse", 1 << 30, b"end")
        self.volume.settings.compression = "lz4"
        await self.write("/docs/packed", 0, bytes(LARGE))
        self.volume.settings.compression = "none"
        await files.copy_range(
            self.volume,
            self.request(),
            self.inodes["/docs/large"],
            self.inodes["/docs/copy"],
            0,
            0,
            LARGE,
            durable=True,
        )
        small, docs = self.inodes["/docs/small"], self.inodes["/docs"]
        for name in ("hard", "harder"):

            async def link(unit: Unit, name: str = name) -> int:
                return await namespace.link(unit, small, docs, name)

            await self.volume.run(self.request(), link, durable=False)

        async def xattr(unit: Unit) -> None:
            await namespace.set_xattr(
                unit, small, "user.colour", b"blue", create_only=False, replace_only=False
            )

        await self.volume.run(self.request(), xattr, durable=False)

    async def _build_tables(self) -> None:
        await self.create("/table", Kind.TABLE)
        await self.create("/blank", Kind.TABLE)
        for number in range(5):
            columns = msgpack.packb({"n": number, "name": f"row {number}"})

            async def put(unit: Unit, number: int = number, columns: bytes = columns) -> int:
                return await tables.put(unit, self.inodes["/table"], b"k%d" % number, columns)

            await self.volume.run(self.request(), put, durable=False)

    async def _build_streams(self) -> None:
        await self.create("/stream", Kind.STREAM)
        await self.create("/quiet", Kind.STREAM)
        stream = self.inodes["/stream"]
        for topic, partitions in (("cars", 2), ("gone", 1)):

            async def make(unit: Unit, topic: str = topic, count: int = partitions) -> list[int]:
                return await streams.create_topic(unit, stream, topic, count)

            self.topics[topic], _ = await self.volume.run(self.request(), make, durable=False)

        async def init(unit: Unit) -> list[int]:
            return await streams.init_producer(unit, stream)

        self.producer, _ = await self.volume.run(self.request(), init, durable=True)
        producer = self.producer
        await self.append(
            "/stream", "cars", 0, build_batch([b"a", b"b"], producer=(producer, 0, 0))
        )
        await self.append("/stream", "cars", 0, build_batch([b"c"], producer=(producer, 0, 2)))
        large = build_batch([noise(40 * KIB)], timestamps_ms=[5_000])
        await self.append("/stream", "cars", 0, large)
        await self.append("/stream", "cars", 0, build_batch([b"d"] * 3, compression=LZ4))
        await self.append("/stream", "cars", 1, build_batch([b"e"]))
        await self.append("/stream", "gone", 0, build_batch([b"f"]))

        async def commit(unit: Unit) -> None:
            for topic in ("cars", "gone"):
                await groups.commit_offsets(unit, stream, "readers", [groups.Commit(topic, 0, 1)])

        await self.volume.run(self.request(), commit, durable=True)

        async def drop(unit: Unit) -> None:
            await streams.delete_topic(unit, stream, "gone")

        await self.volume.run(self.request(), drop, durable=True)

    async def _build_removed(self) -> None:
        await self.create("/removed")
        await self.write("/removed", 0, noise(2 * EXTENT_BYTES_MIN))
        await self.remove("/removed")

    # ---- looking and planting

    @property
    def state(self) -> VolumeState:
        return self.volume.state

    async def get(self, key: bytes) -> bytes:
        value = await self.volume.storage.engine.get(key)
        assert value is not None, key
        return value

    async def plant(self, rows: dict[bytes, bytes | None]) -> None:
        """Write rows past the core."""
        engine = self.volume.storage.engine
        await engine.durable(await engine.commit(rows))

    async def edit(self, path: str, **fields: Any) -> None:
        """Change fields of an inode past the core."""
        inode = await self.inode(path)
        await self.plant({keys.inode(inode.number): dataclasses.replace(inode, **fields).pack()})

    async def edit_state(self, **fields: Any) -> None:
        state = VolumeState.unpack(await self.get(keys.STATE_KEY))
        await self.plant({keys.STATE_KEY: dataclasses.replace(state, **fields).pack()})

    async def inode(self, path: str) -> Inode:
        return Inode.unpack(await self.get(keys.inode(self.inodes[path])))

    async def rows(self, prefix: bytes) -> list[Pair]:
        engine = self.volume.storage.engine
        return [pair async for pair in scan_all(engine, *keys.prefix_range(prefix))]

    async def pieces(self, path: str) -> list[tuple[bytes, Piece]]:
        return [
            (key, Piece.unpack(keys.last_number_of(key), value))
            for key, value in await self.rows(keys.pieces(self.inodes[path]))
        ]

    async def bulk_piece(self, path: str) -> tuple[bytes, Piece]:
        """A piece of the file that is in a segment."""
        return next((k, p) for k, p in await self.pieces(path) if p.extent is not None)

    async def batches(self, partition: int = 0) -> list[tuple[bytes, StoredBatch]]:
        """Of /stream:cars."""
        prefix = keys.batches(self.inodes["/stream"], self.topics["cars"], partition)
        return [(key, StoredBatch.unpack(value)) for key, value in await self.rows(prefix)]

    def partition_key(self, partition: int = 0) -> bytes:
        return keys.partition(self.inodes["/stream"], self.topics["cars"], partition)

    async def partition(self) -> Partition:
        return Partition.unpack(await self.get(self.partition_key()))

    async def flip(self, segment: int, offset: int) -> None:
        """Flip a bit in a stored segment."""
        if self.place.engine == "memory":
            stored = self.place.disk.volumes[ROOT_VOLUME].segments[segment]
            stored.data[offset] ^= 1
            return
        path = self.segment_file(segment)
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)

    async def lose_segment(self, segment: int) -> None:
        if self.place.engine == "memory":
            del self.place.disk.volumes[ROOT_VOLUME].segments[segment]
        else:
            self.segment_file(segment).unlink()

    def segment_file(self, segment: int) -> Path:
        (path,) = self.place.path.glob(f"volumes/{ROOT_VOLUME}/segments/{segment:016x}.seg")
        return path
