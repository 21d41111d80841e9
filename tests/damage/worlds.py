"""Data of every kind in three volumes, and a reader that compares all of it with what was written.

A world is built once by a server and then copied for each test, which damages its copy. `look`
reads everything back, item by item: an item is as it was written, or its reading fails with a
`PlatformError`; anything else is an `AssertionError`, whatever the damage.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplatform import aio
from dataplatform.base.errors import ErrorKind, PlatformError
from dataplatform.base.limits import KIB
from dataplatform.engine.base import Storages
from dataplatform.engine.rocks import RocksStorages
from dataplatform.engine.slate import SlateStorages
from dataplatform_server.servers import Server
from dataplatform_server.settings import read_settings

VOLUMES = ("", "/one", "/two")
"""Where the volumes are mounted: the root, and two below it."""

SEGMENT_BYTES = 256 * KIB
"""Small, so that some are sealed and one is open."""

FILES = {"small": 100, "block": 5_000, "medium": 70 * KIB, "large": 300 * KIB}
ROWS = 300
RECORDS = 60
LARGE_RECORD = 80 * KIB


def content(name: str, size: int) -> bytes:
    """Bytes that are found nowhere else, and that no compression shortens."""
    return random.Random(name).randbytes(size)


def row(path: str, number: int) -> dict[str, Any]:
    return {"n": number, "data": content(f"{path} {number}", 150)}


def record(path: str, number: int) -> bytes:
    size = LARGE_RECORD if number % 20 == 19 else 300
    return content(f"{path} record {number}", size)


@dataclass(frozen=True)
class Image:
    """The data of a server that does not run, to be copied."""

    engine: str
    path: Path
    volumes: dict[str, int]  # ids by where they are mounted

    def copy(self, directory: Path) -> Path:
        """The copied data, where `open_storages` looks for it."""
        return Path(shutil.copytree(self.path, directory / "data"))


# ------------------------------------------------------------------------------------- servers


async def open_storages(engine: str, directory: Path) -> Storages:
    place = directory / "data"
    if engine == "rocks":
        return await RocksStorages.at(place, segment_bytes=SEGMENT_BYTES)
    url = f"file://{place}"
    return await SlateStorages.at(url, segment_bytes=SEGMENT_BYTES, store_seconds=5.0)


@contextlib.asynccontextmanager
async def serving(directory: Path, storages: Storages) -> AsyncIterator[tuple[Server, aio.Client]]:
    """A whole server in this loop, and a client of it. What fails when it stops is no matter here:
    a damaged volume may not close cleanly."""
    flags = {
        "data": str(directory / "data"),
        "cluster": "test",
        "listen": "none",
        "grpc": "none",
        "http": "none",
        "socket": str(directory / "dp.sock"),
    }
    server = await Server.start(read_settings(flags, {}), storages)
    try:
        async with await aio.connect(server.endpoints.socket, patience_s=2) as client:
            yield server, client
    finally:
        with contextlib.suppress(PlatformError):
            await server.stop(1.0)


# ------------------------------------------------------------------------------------ building


async def build(client: aio.Client) -> None:
    for mount in VOLUMES:
        if mount:
            await client.create_volume(mount)
        await _build(client, mount)
    await client.sync()


async def _build(client: aio.Client, mount: str) -> None:
    base = f"{mount}/things"
    await client.mkdir(f"{base}/deep/er", parents=True)
    for name, size in FILES.items():
        path = f"{base}/{name}"
        await client.write_file(path, content(path, size), durable=True)
    await client.link(f"{base}/small", f"{base}/deep/hard")
    await client.symlink("small", f"{base}/soft")
    await client.setxattr(f"{base}/small", "user.colour", b"blue")
    for number in range(40):
        path = f"{base}/deep/er/{number:02}"
        await client.write_file(path, content(path, 200))
    await client.write_file(f"{base}/removed", content("removed", 70 * KIB))
    await client.remove(f"{base}/removed")
    table = await client.create_table(f"{base}/table")
    for start in range(0, ROWS, 100):
        await table.put_many({f"k{n:04}": row(table.path, n) for n in range(start, start + 100)})
    stream = await client.create_stream(f"{base}/stream", partitions=2, compression="none")
    async with await stream.producer() as producer:
        for number in range(RECORDS):
            await producer.send("t", value=record(stream.path, number), partition=number % 2)
            if number % 10 == 9:
                await producer.flush()
    async with await stream.consumer("t", group="readers", start="earliest", follow=False) as group:
        await group.poll(timeout_s=2)
        await group.commit()
    async with client.transaction(base) as tx:
        tx.write_file("together", b"all or nothing")
        tx.table("table").put("together", {"n": 1})


# ------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Item:
    """Something that can be read by itself."""

    mount: str  # of its volume
    path: str
    read: Callable[[aio.Client], Awaitable[object]]
    expected: object
    part: str = ""  # of the path: a partition


def items() -> list[Item]:
    found: list[Item] = []
    for mount in VOLUMES:
        found += _items(mount)
    return found


def _items(mount: str) -> list[Item]:
    base = f"{mount}/things"
    found = []

    def add(
        path: str, read: Callable[..., Awaitable[object]], expected: object, *more: Any
    ) -> None:
        found.append(Item(mount, path, lambda client: read(client, path, *more), expected))

    for name, size in FILES.items():
        add(f"{base}/{name}", _file, (size, content(f"{base}/{name}", size)))
    add(f"{base}/deep/hard", _file, (FILES["small"], content(f"{base}/small", FILES["small"])))
    add(f"{base}/soft", _link, "small")
    add(f"{base}/small", _xattr, b"blue")
    for number in range(40):
        path = f"{base}/deep/er/{number:02}"
        add(path, _file, (200, content(path, 200)))
    add(f"{base}/deep/er", _names, [f"{n:02}" for n in range(40)])
    listed = ["deep", *sorted(FILES), "soft", "stream", "table", "together"]
    add(base, _names, sorted(listed))
    add(f"{base}/together", _file, (14, b"all or nothing"))
    expected = {f"k{n:04}": row(f"{base}/table", n) for n in range(ROWS)}
    add(f"{base}/table", _rows, expected | {"together": {"n": 1}})
    add(f"{base}/table", _one_row, row(f"{base}/table", 7), "k0007")
    add(f"{base}/table", _one_row, row(f"{base}/table", 290), "k0290")
    add(f"{base}/table", _count, ROWS + 1)
    for partition in range(2):
        values = [record(f"{base}/stream", n) for n in range(partition, RECORDS, 2)]
        add(f"{base}/stream", _records, values, partition)
    add(f"{base}/stream", _group, [(p, RECORDS // 2) for p in range(2)])
    return found


async def _file(client: aio.Client, path: str) -> object:
    return (await client.stat(path)).size, await client.read_file(path)


async def _link(client: aio.Client, path: str) -> object:
    return await client.readlink(path)


async def _xattr(client: aio.Client, path: str) -> object:
    return await client.getxattr(path, "user.colour")


async def _names(client: aio.Client, path: str) -> object:
    return sorted(await client.listdir(path))


async def _rows(client: aio.Client, path: str) -> object:
    table = await client.table(path)
    return {r.key: dict(r.columns) async for r in table.scan()}


async def _one_row(client: aio.Client, path: str, key: str) -> object:
    found = await (await client.table(path)).get(key)
    return None if found is None else dict(found.columns)


async def _count(client: aio.Client, path: str) -> object:
    return (await (await client.table(path)).info()).rows


async def _records(client: aio.Client, path: str, partition: int) -> object:
    stream = await client.stream(path)
    values: list[bytes | None] = []
    async with await stream.consumer(
        "t", start="earliest", follow=False, partitions=[partition]
    ) as consumer:
        async for found in consumer:
            assert found.offset == len(values), "an offset is missing"
            values.append(found.value)
    return values


async def _group(client: aio.Client, path: str) -> object:
    stream = await client.stream(path)
    return sorted((o.partition, o.offset) for o in (await stream.group("readers")).offsets)


# ------------------------------------------------------------------------------------- looking


@dataclass
class Seen:
    """What became of each item: None where it is as it was written."""

    errors: dict[int, PlatformError]
    all: list[Item]

    @property
    def damaged(self) -> set[str]:
        """Mounts of volumes in which something cannot be read."""
        return {self.all[index].mount for index in self.errors}

    def paths(self) -> list[str]:
        return sorted({self.all[index].path for index in self.errors})


async def look(client: aio.Client) -> Seen:
    """Read every item. AssertionError if one reads as something that was never written, or fails
    in any way that is no `PlatformError` of the kind CORRUPT naming its path (or its volume)."""
    seen = Seen({}, items())
    for index, item in enumerate(seen.all):
        try:
            found = await item.read(client)
        except PlatformError as error:
            seen.errors[index] = error
        else:
            assert found == item.expected, f"{item.path} reads as {found!r}"[:500]
    for index, error in seen.errors.items():
        item = seen.all[index]
        assert error.kind is ErrorKind.CORRUPT, f"{item.path}: {error!r}"
        named = str(error.facts.get("path", "")) or str(error)
        # A damage above a thing (its directory, its volume) is named there.
        parents = [item.path, *(str(p) for p in Path(item.path).parents)]
        assert named in parents or item.path in str(error), f"{item.path}: {error!r}"
    return seen


async def write(client: aio.Client, mount: str, name: str) -> None:
    """Something of each kind, durably, and read back."""
    base = f"{mount}/after-{name}"
    await client.mkdir(base)
    await client.write_file(f"{base}/file", content(base, 100 * KIB), durable=True)
    table = await client.create_table(f"{base}/table")
    await table.put("k", {"n": 1})
    stream = await client.create_stream(f"{base}/stream")
    await stream.append("t", b"value")
    assert await client.read_file(f"{base}/file") == content(base, 100 * KIB)
    assert (await table.get("k")).columns == {"n": 1}  # type: ignore[union-attr]
