"""A torn last write in every log and segment, at every byte of it, and garbage behind the end.

Acknowledged data that lies before the tear is there. What is torn is dropped or reported, never
half shown.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplatform.base.errors import Corrupt
from dataplatform.engine.base import Location, Storages
from dataplatform.engine.checksums import crc32c
from dataplatform.engine.rocks import RocksStorages
from dataplatform.engine.slate import SlateStorages
from tests.contract.engine import everything

VALUE = 60
BEFORE = {b"before %d" % n: b"%d" % n * VALUE for n in range(5)}
LAST = {b"last": b"x" * VALUE, b"other": b"y" * VALUE}
"""The two rows of the last batch: both or none."""


async def open_storages(engine: str, directory: Path) -> Storages:
    if engine == "rocks":
        return await RocksStorages.at(directory)
    return await SlateStorages.at(f"file://{directory}", store_seconds=5.0)


async def fill(engine: str, directory: Path, log: str) -> tuple[Path, int]:
    """A copy of the data as the disk has it after the last batch was written, while the engine is
    open; the log that the last batch is in, and how long that was before."""
    storages = await open_storages(engine, directory)
    storage = await storages.open(1, create=True)
    for key, value in BEFORE.items():
        await storage.engine.durable(await storage.engine.commit({key: value}))
    (path,) = sorted(directory.glob(log))[-1:]
    before = path.stat().st_size if engine == "rocks" else 0
    await storage.engine.durable(await storage.engine.commit(LAST))
    copy = directory.with_name("killed")
    shutil.copytree(directory, copy)
    await storages.close()
    (path,) = sorted(copy.glob(log))[-1:]
    return path, before


async def reopened(engine: str, directory: Path) -> dict[bytes, bytes] | None:
    """What is there; None if the damage is reported."""
    storages = await open_storages(engine, directory)
    try:
        storage = await storages.open(1)
        found = await everything(storage.engine)
        await storage.engine.durable(await storage.engine.commit({b"after": b"1"}))
    except Corrupt:
        return None
    else:
        return found
    finally:
        await storages.close()


EVERY = pytest.mark.parametrize(
    "step", [13, pytest.param(1, marks=[pytest.mark.system, pytest.mark.timeout(3600)])]
)
"""Every byte in the long campaign, some of them otherwise."""

TAILS: dict[str, Callable[[bytes, int], bytes]] = {
    "cut": lambda whole, at: whole[:at],
    "zeros": lambda whole, at: whole[:at] + bytes(len(whole) - at),
    "garbage": lambda whole, at: whole[:at] + random.Random(at).randbytes(len(whole) - at),
    "garbage behind": lambda whole, at: whole + random.Random(at).randbytes(at % 97 + 1),
}


@EVERY
@pytest.mark.parametrize("tail", TAILS)
async def test_the_log_of_rocksdb(tmp_path: Path, tail: str, step: int) -> None:
    log, before = await fill("rocks", tmp_path / "data", "volumes/1/db/*.log")
    whole = log.read_bytes().rstrip(b"\x00")
    assert before < len(whole)
    name = log.relative_to(tmp_path / "killed")
    for at in range(before, len(whole), step):
        directory = tmp_path / "torn"
        shutil.copytree(tmp_path / "killed", directory)
        (directory / name).write_bytes(TAILS[tail](whole, at))
        found = await reopened("rocks", directory)
        assert found in (BEFORE, BEFORE | LAST), f"{tail} at {at}: {found}"
        assert tail != "garbage behind" or found == BEFORE | LAST, f"lost, at {at}"
        shutil.rmtree(directory)


@EVERY
@pytest.mark.parametrize("tail", ["cut", "garbage"])
async def test_the_last_log_object_of_slatedb(tmp_path: Path, tail: str, step: int) -> None:
    """Objects come whole or not at all; on ``file://`` one could be torn, and that is noticed."""
    log, _ = await fill("slate", tmp_path / "data", "volumes/1/db/wal/*.sst")
    whole = log.read_bytes()
    name = log.relative_to(tmp_path / "killed")
    for at in range(0, len(whole), step * len(whole) // 50):
        directory = tmp_path / f"torn {at}"
        shutil.copytree(tmp_path / "killed", directory)
        (directory / name).write_bytes(TAILS[tail](whole, at))
        found = await reopened("slate", directory)
        assert found is None or found in (BEFORE, BEFORE | LAST), f"{tail} at {at}: {found}"


@EVERY
@pytest.mark.parametrize("tail", ["cut", "garbage"])
async def test_the_manifest_of_rocksdb(tmp_path: Path, tail: str, step: int) -> None:
    """Torn while tables were written: the log still has all that the manifest does not name."""
    await fill("rocks", tmp_path / "data", "volumes/1/db/*.log")
    before = manifest(tmp_path / "killed").stat().st_size
    flushed = tmp_path / "flushed"
    shutil.copytree(tmp_path / "killed", flushed)
    storages = await open_storages("rocks", flushed)
    await storages.open(1)
    # Opening wrote tables and a manifest; the logs of before go when that is synced.
    logs = {p.name: p.read_bytes() for p in (tmp_path / "killed").glob("volumes/1/db/*.log")}
    shutil.copytree(flushed, tmp_path / "torn")
    await storages.close()
    assert before
    torn = manifest(tmp_path / "torn")
    whole = torn.read_bytes().rstrip(b"\x00")
    for at in range(len(whole) - 1, max(0, len(whole) - 200), -step):
        directory = tmp_path / "case"
        shutil.copytree(tmp_path / "torn", directory)
        manifest(directory).write_bytes(TAILS[tail](whole, at))
        for log, data in logs.items():
            (directory / "volumes/1/db" / log).write_bytes(data)
        found = await reopened("rocks", directory)
        assert found is None or found == BEFORE | LAST, f"{tail} at {at}: {found}"
        shutil.rmtree(directory)


@EVERY
@pytest.mark.parametrize("tail", ["cut", "garbage"])
async def test_a_manifest_that_lost_what_was_synced(tmp_path: Path, tail: str, step: int) -> None:
    """No power cut does that, but a disk may: the tables are there and nothing names them."""
    storages = await open_storages("rocks", tmp_path / "data")
    storage = await storages.open(1, create=True)
    await storage.engine.durable(await storage.engine.commit(BEFORE | LAST))
    await storages.close()  # writes the rows to a table, and the log goes
    whole = manifest(tmp_path / "data").read_bytes().rstrip(b"\x00")
    for at in range(len(whole) - 1, 0, -step):
        directory = tmp_path / "case"
        shutil.copytree(tmp_path / "data", directory)
        manifest(directory).write_bytes(TAILS[tail](whole, at))
        found = await reopened("rocks", directory)
        assert found is None or found == BEFORE | LAST, (
            f"{tail} at {at} of {len(whole)}: lost unnoticed"
        )
        shutil.rmtree(directory)


def manifest(directory: Path) -> Path:
    return sorted(directory.glob("volumes/1/db/MANIFEST-*"))[-1]


@EVERY
@pytest.mark.parametrize("engine", ["rocks", "slate"])
@pytest.mark.parametrize("tail", TAILS)
async def test_the_last_extent_of_a_segment(
    tmp_path: Path, engine: str, tail: str, step: int
) -> None:
    data = tmp_path / "data"
    storages = await open_storages(engine, data)
    storage = await storages.open(1, create=True)
    pieces = [random.Random(n).randbytes(200) for n in range(3)]
    places = [await storage.segments.append(piece) for piece in pieces]
    await storage.segments.sync()
    await storages.close()
    (path,) = (p for p in data.glob("volumes/1/segments/*") if p.is_file())
    whole = path.read_bytes()
    for at in range(places[-1].offset, len(whole), step * (1 if engine == "rocks" else 5)):
        path.write_bytes(TAILS[tail](whole, at))
        storages = await open_storages(engine, data)
        segments = (await storages.open(1)).segments
        for place, piece in zip(places[:-1], pieces[:-1], strict=True):
            assert await segments.read(place) == piece
        await check_last(segments.read, places[-1], pieces[-1], tail)
        # What is appended now goes to another segment, never behind what is torn.
        assert (await segments.append(b"more")).segment > places[-1].segment
        await storages.close()
        for new in data.glob("volumes/1/segments/*"):
            if new.is_file() and new != path:
                new.unlink()


async def check_last(read: Callable, place: Location, piece: bytes, tail: str) -> None:  # type: ignore[type-arg]
    """Too short is CORRUPT at once; other bytes fail the checksum that the extent's row has."""
    if tail == "cut":
        with pytest.raises(Corrupt):
            await read(place)
        return
    found = await read(place)
    assert (found == piece) == (crc32c(found) == crc32c(piece))
    assert tail != "garbage behind" or found == piece
