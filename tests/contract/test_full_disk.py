"""Engines on a file system that really is full: a small tmpfs, which needs root."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplatform.base.errors import Exhausted
from dataplatform.base.limits import KIB, MIB
from dataplatform.engine.base import Storages
from dataplatform.engine.rocks import RocksStorages
from dataplatform.engine.slate import SlateStorages
from dataplatform.engine.space import Space

from .engine import everything, expect_broken
from .storages import close

SIZE = "48m"
STORE_SECONDS = 2.0
FAILS_WITHIN_SECONDS = 15.0

ENGINES = pytest.mark.parametrize("kind", ["rocks", "slate"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The mount point of a file system of SIZE."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield path
    finally:  # lazily: what a broken engine was abandoned with may still have files open
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=512m", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space there is; delete the file to give it back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        piece = MIB
        while piece >= 4 * KIB:
            try:
                file.write(bytes(piece))
            except OSError:
                piece //= 2
    return ballast


async def open_storages(kind: str, disk: Path) -> Storages:
    if kind == "rocks":
        return await RocksStorages.at(disk / "data", segment_bytes=MIB)
    url = f"file://{disk}/data"
    return await SlateStorages.at(url, segment_bytes=MIB, store_seconds=STORE_SECONDS)


@ENGINES
async def test_puts_are_refused_before_the_disk_is_full(kind: str, disk: Path) -> None:
    storages = await open_storages(kind, disk)
    engine, segments = await storages.open(1, create=True)
    rng = random.Random(1)
    acknowledged: dict[bytes, bytes] = {}
    places = {}

    async def put_for_ever() -> None:
        while True:
            key, value = b"%08d" % len(acknowledged), rng.randbytes(100 * KIB)
            where = await segments.append(value)
            await segments.sync()
            await engine.durable(await engine.commit({key: value[:KIB]}))
            acknowledged[key] = value[:KIB]
            places[where] = value

    with pytest.raises(Exhausted, match="free space on it"):
        await put_for_ever()
    assert len(acknowledged) > 10
    with pytest.raises(Exhausted):
        await engine.commit({b"put": b"1" * 32 * MIB})
    assert not engine.broken
    assert await everything(engine) == acknowledged
    gone = acknowledged.popitem()[0]
    await engine.durable(await engine.commit({gone: None, b"count": b"1"}))  # deletes go on
    acknowledged[b"count"] = b"1"

    enlarge(disk)
    await engine.durable(await engine.commit({b"put": b"1"}))
    acknowledged[b"put"] = b"1"
    await segments.append(b"more")
    await segments.sync()
    await storages.close()
    storages = await open_storages(kind, disk)
    engine, segments = await storages.open(1)
    assert await everything(engine) == acknowledged
    for where, value in places.items():
        assert await segments.read(where) == value
    await storages.close()


@ENGINES
async def test_a_disk_that_fills_up_under_a_commit(
    kind: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else took the space: bounded time, reads go on, nothing acknowledged is lost."""
    storages = await open_storages(kind, disk)
    storage = await storages.open(1, create=True)
    engine = storage.engine
    good = await engine.commit({b"good": b"1"})
    await engine.durable(good)
    where = await storage.segments.append(b"bytes")
    await storage.segments.sync()
    acknowledged = {b"good": b"1"}
    ballast = fill(disk)
    monkeypatch.setattr(Space, "check_commit", lambda *_: 0)  # it was taken since the last look
    rng = random.Random(2)

    async def put_for_ever() -> None:
        while True:  # RocksDB has allocated its log ahead
            key, value = b"%08d" % len(acknowledged), rng.randbytes(MIB)
            await engine.durable(await engine.commit({key: value}))
            acknowledged[key] = value

    start = time.monotonic()
    with pytest.raises(Exhausted, match="disk is full"):
        await put_for_ever()
    assert time.monotonic() - start < FAILS_WITHIN_SECONDS
    await expect_broken(engine, good)
    found = await everything(engine)
    assert acknowledged.items() <= found.items()
    assert await storage.segments.read(where) == b"bytes"
    start = time.monotonic()
    await close(storage)
    assert time.monotonic() - start < FAILS_WITHIN_SECONDS

    ballast.unlink()
    enlarge(disk)
    storage = await storages.open(1)
    assert acknowledged.items() <= (await everything(storage.engine)).items()
    assert await storage.segments.read(where) == b"bytes"
    await storage.engine.durable(await storage.engine.commit({b"after": b"1"}))
    await storages.close()
