"""The embedded engine: the contracts, and what files, crashes and damage do to it."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataplatform.base.errors import (
    Corrupt,
    Exhausted,
    Invalid,
    NotFound,
    PlatformError,
    Unavailable,
)
from dataplatform.engine.base import Engine, Location, Reader, Storages, scan_all
from dataplatform.engine.rocks import RocksEngine, RocksStorages, databases

from .clones import ClonesContract
from .engine import END, START, EngineContract, everything, expect_broken
from .segments import SegmentsContract
from .storages import VOLUME, Harness, StoragesContract

ROOT = Path(__file__).parents[2]


class RocksHarness(Harness):
    async def storages(self, tmp_path: Path) -> Storages:
        size = SegmentsContract.small_segment_bytes
        return await RocksStorages.at(tmp_path / "data", segment_bytes=size)


class TestRocksEngine(RocksHarness, EngineContract):
    pass


class TestLocalSegments(RocksHarness, SegmentsContract):
    pass


class TestRocksClones(RocksHarness, ClonesContract):
    pass


class TestRocksStorages(RocksHarness, StoragesContract):
    def write_format(self, tmp_path: Path, text: str | None) -> bool:
        path = tmp_path / "data" / "format.json"
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        return True

    async def test_the_second_opener_learns_who_is_first(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        with pytest.raises(Unavailable, match=f"pid {os.getpid()}"):
            await self.storages(tmp_path)
        await storages.close()

    async def test_a_foreign_directory_is_refused_untouched(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "holiday.jpg").write_bytes(b"x")
        with pytest.raises(Invalid):
            await self.storages(tmp_path)
        assert [p.name for p in data.iterdir()] == ["holiday.jpg"]

    async def test_another_engines_data_is_refused(self, tmp_path: Path) -> None:
        await (await self.storages(tmp_path)).close()
        self.write_format(tmp_path, '{"format": 1, "engine": "slate"}')
        with pytest.raises(Invalid, match="another engine"):
            await self.storages(tmp_path)

    async def test_half_made_and_half_removed_volumes_vanish(self, tmp_path: Path) -> None:
        await (await self.storages(tmp_path)).close()
        volumes = tmp_path / "data" / "volumes"
        (volumes / "3.new" / "db").mkdir(parents=True)
        (volumes / "4.old" / "db").mkdir(parents=True)
        storages = await self.storages(tmp_path)
        assert await storages.volumes() == []
        assert list(volumes.iterdir()) == []
        await (await storages.open(3, create=True)).engine.commit({b"a": b"1"})
        await storages.close()

    async def test_a_volume_without_its_database_is_damaged_not_new(self, tmp_path: Path) -> None:
        storages = await self.storages(tmp_path)
        await storages.open(VOLUME, create=True)
        await storages.close()
        (tmp_path / "data" / "volumes" / str(VOLUME) / "db" / "CURRENT").unlink()
        storages = await self.storages(tmp_path)
        with pytest.raises(Corrupt, match=str(tmp_path)):
            await storages.open(VOLUME, create=True)
        await storages.close()


# ------------------------------------------------------------------------------------- crashes

CHILD = """
import asyncio, sys
from dataplatform.engine.rocks import RocksStorages

async def main():
    storages = await RocksStorages.at(sys.argv[1])
    engine, segments = await storages.open(1, create=True)

    async def write(i):
        where = await segments.append(b"%08d" % i)
        await segments.sync()
        ticket = await engine.commit({b"%08d" % i: b"%d %d %d" % where, b"last": b"%08d" % i})
        if i % 3:
            await engine.durable(ticket)
            print(i, flush=True)

    i = 0
    while True:
        await asyncio.gather(*(write(i + j) for j in range(8)))
        i += 8

asyncio.run(main())
"""


def acknowledged_until_killed(path: Path, count: int) -> set[int]:
    """Run CHILD until it has acknowledged `count` commits, kill it, and collect them all."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(count)]
        child.kill()
        lines += child.stdout.readlines()
    return {int(line) for line in lines if line.endswith(b"\n")}


@pytest.mark.parametrize("count", [50, 87, 124])
async def test_acknowledged_commits_survive_sigkill(tmp_path: Path, count: int) -> None:
    acknowledged = acknowledged_until_killed(tmp_path / "data", count)
    storages = await RocksStorages.at(tmp_path / "data")
    engine, segments = await storages.open(1)
    found = await everything(engine)
    last = int(found.pop(b"last"))
    assert acknowledged <= {int(key) for key in found}
    assert sorted(map(int, found)) == list(range(last + 1))  # a prefix, nothing missing
    for key, value in found.items():
        assert await segments.read(Location(*map(int, value.split()))) == key
    await storages.close()


async def committed(path: Path, count: int = 200) -> list[bytes]:
    """A data directory as a crash leaves it, with `count` commits in its log, and their keys."""
    live = path.with_name(path.name + ".live")
    storages = await RocksStorages.at(live)
    engine, _ = await storages.open(1, create=True)
    keys = [b"%04d" % i for i in range(count)]
    for key in keys:
        await engine.commit({key: random.Random(key).randbytes(400)})
    shutil.copytree(live, path, dirs_exist_ok=True)
    await storages.close()
    return keys


def newest_log(path: Path) -> Path:
    (log,) = (path / "volumes/1/db").glob("*.log")
    assert log.stat().st_size > 80_000
    return log


DAMAGE_AT_THE_END = {
    "cut": lambda log: log[:-100],
    "cut in a header": lambda log: log[: -(len(log) % 400) - 3] if len(log) % 400 else log[:-3],
    "last bytes not written": lambda log: log[:-200] + bytes(200),
    "last pages not written": lambda log: log[:-40_000] + bytes(40_000),
    "last record flipped": lambda log: log[:-50] + b"\xff\x00\xff" + log[-47:],
    "garbage after": lambda log: log + random.Random(1).randbytes(5000),
    "zeros after": lambda log: log + bytes(5000),
}
DAMAGE_IN_THE_MIDDLE = {
    "bit flipped": lambda log: log[:20_000] + bytes([log[20_000] ^ 1]) + log[20_001:],
    "page lost": lambda log: log[:36_864] + bytes(4096) + log[40_960:],
    "length flipped": lambda log: log[:4] + b"\xff" + log[5:],
    "first bytes lost": lambda log: bytes(100) + log[100:],
}


@pytest.mark.parametrize("damage", DAMAGE_AT_THE_END)
async def test_a_torn_log_end_costs_only_what_was_torn(tmp_path: Path, damage: str) -> None:
    keys = await committed(tmp_path)
    log = newest_log(tmp_path)
    log.write_bytes(DAMAGE_AT_THE_END[damage](log.read_bytes()))
    storages = await RocksStorages.at(tmp_path)
    engine, _ = await storages.open(1)
    found = [key for key, _ in await engine.scan(START, END)]
    assert found == keys[: len(found)]
    assert len(found) >= 80
    await engine.durable(await engine.commit({b"z": b"1"}))
    await storages.close()
    storages = await RocksStorages.at(tmp_path)
    engine, _ = await storages.open(1)
    assert len(await engine.scan(START, END)) == len(found) + 1
    await storages.close()


@pytest.mark.parametrize("damage", DAMAGE_IN_THE_MIDDLE)
async def test_damage_before_whole_records_is_noticed(tmp_path: Path, damage: str) -> None:
    await committed(tmp_path)
    log = newest_log(tmp_path)
    log.write_bytes(DAMAGE_IN_THE_MIDDLE[damage](log.read_bytes()))
    storages = await RocksStorages.at(tmp_path)
    with pytest.raises(Corrupt, match=str(tmp_path / "volumes/1")):
        await storages.open(1)
    with pytest.raises(Corrupt):
        await storages.open(1)
    await storages.close()


async def get_each(reader: Reader, keys: list[bytes]) -> None:
    for key in keys:
        await reader.get(key)


async def test_a_damaged_block_is_corrupt_and_names_the_volume(tmp_path: Path) -> None:
    storages = await RocksStorages.at(tmp_path)
    engine, _ = await storages.open(1, create=True)
    keys = [b"%06d" % i for i in range(20_000)]
    await engine.commit({key: random.Random(key).randbytes(60) for key in keys})
    await engine.checkpoint("flushed")
    await storages.close()
    (table,) = (tmp_path / "volumes/1/db").glob("*.sst")
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 0xFF
    table.write_bytes(content)  # the checkpoint's hard link too
    storages = await RocksStorages.at(tmp_path)
    engine, _ = await storages.open(1)
    for reader in (engine, await engine.view(), await engine.open_checkpoint("flushed")):
        with pytest.raises(Corrupt, match=str(tmp_path / "volumes/1")):
            await reader.scan(START, END, limit=100_000, size_bytes=1 << 30)
        with pytest.raises(Corrupt):
            await reader.scan(START, END, limit=100_000, size_bytes=1 << 30, reverse=True)
        with pytest.raises(Corrupt):
            await reader.get_many(keys)
        with pytest.raises(Corrupt):
            await get_each(reader, keys)
    pinned = await engine.view()
    await engine.commit({b"new": b"1"})
    with pytest.raises(Corrupt):
        await pinned.scan(START, END, limit=100_000, size_bytes=1 << 30)
    with pytest.raises(Corrupt):
        await pinned.get_many(keys)
    await storages.close()
    storages = await RocksStorages.at(tmp_path)  # closing let go of it, damaged or not
    engine, _ = await storages.open(1)
    assert await engine.get(b"new") == b"1"
    await storages.close()


# ------------------------------------------------------------------------------------- failing


class FailingDatabase:
    """A database of which one method fails."""

    def __init__(self, database: object, method: str, message: str) -> None:
        self._database = database
        self._method = method
        self._message = message
        self.calls = 0

    def __getattr__(self, name: str) -> object:
        if name != self._method:
            return getattr(self._database, name)
        return self._fail

    def _fail(self, *_args: object) -> None:
        self.calls += 1
        raise Exception(self._message)  # as rocksdict does


def fail(engine: Engine, method: str, message: str) -> FailingDatabase:
    assert isinstance(engine, RocksEngine)
    failing = FailingDatabase(engine._database, method, message)
    engine._database = failing  # type: ignore[assignment]
    return failing


FULL = "IO error: No space left on device: While appending to file: /x/000004.log: ..."


async def test_a_failed_sync_breaks_the_engine(tmp_path: Path) -> None:
    storages = await RocksStorages.at(tmp_path)
    engine, _ = await storages.open(1, create=True)
    good = await engine.commit({b"a": b"1"})
    await engine.durable(good)
    failing = fail(engine, "flush_wal", "IO error: While fdatasync: Input/output error")
    tickets = [await engine.commit({b"%d" % i: b"1"}) for i in range(4)]
    results = await asyncio.gather(*map(engine.durable, tickets), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert failing.calls == 1
    await expect_broken(engine, good)
    assert failing.calls == 1  # nothing was tried again
    await engine.close()
    await storages.close()
    assert failing.calls == 1


async def test_a_full_disk_is_exhausted_once_then_unavailable(tmp_path: Path) -> None:
    storages = await RocksStorages.at(tmp_path)
    for volume, method in ((1, "write"), (2, "flush_wal")):
        engine, segments = await storages.open(volume, create=True)
        good = await engine.commit({b"a": b"1"})
        await engine.durable(good)
        fail(engine, method, FULL)
        with pytest.raises(Exhausted):
            await engine.durable(await engine.commit({b"b": b"1"}))
        await expect_broken(engine, good)
        await segments.close()
        await engine.close()
    engine, _ = await storages.open(1)
    assert await engine.get(b"a") == b"1"
    await storages.close()


async def test_commits_wait_while_rocksdb_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers so small that RocksDB refuses some of the writes at first."""
    monkeypatch.setattr(databases, "WRITE_BUFFER_BYTES", 64 << 10)
    waits: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", counted)
    storages = await RocksStorages.at(tmp_path)
    engine, _ = await storages.open(1, create=True)
    written = 0
    while len(waits) < 3:
        view = await engine.view()
        await engine.commit({b"%08d" % written: bytes(30_000)})
        written += 1
        assert await view.get(b"%08d" % (written - 1)) is None
        view.close()
    found = [key async for key, _ in scan_all(engine, START, END)]
    assert found == [b"%08d" % i for i in range(written)]
    await storages.close()


RUNS_FULL = """
import asyncio, resource, sys
from dataplatform.engine.rocks import RocksStorages

async def main():
    storages = await RocksStorages.at(sys.argv[1])
    engine, _ = await storages.open(1, create=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for i in range(100_000):
        print(i, flush=True)
        await engine.durable(await engine.commit({b"%08d" % i: b"x" * 10_000}))

asyncio.run(main())
"""


def run_full(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUNS_FULL, str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


async def test_what_was_acknowledged_before_writes_failed_is_there(tmp_path: Path) -> None:
    child = run_full(tmp_path / "data")
    assert child.returncode == 1, child.stderr
    failed = int(child.stdout.splitlines()[-1])
    assert failed > 10
    storages = await RocksStorages.at(tmp_path / "data")
    engine, _ = await storages.open(1)
    found = [int(key) for key, _ in await engine.scan(START, END, size_bytes=1 << 30)]
    assert found == list(range(failed))
    await storages.close()


# ------------------------------------------------------------------------------------ segments


async def test_segment_numbers_go_on_after_the_newest_are_lost(tmp_path: Path) -> None:
    storages = await RocksStorages.at(tmp_path)
    _, segments = await storages.open(1, create=True)
    first = await segments.append(b"one")
    await segments.seal()
    second = await segments.append(b"two")  # its name is not synced yet
    await segments.delete(first.segment)
    await storages.close()
    (tmp_path / f"volumes/1/segments/{second.segment:016x}.seg").unlink()
    storages = await RocksStorages.at(tmp_path)
    _, segments = await storages.open(1)
    assert (await segments.append(b"three")).segment > first.segment
    await storages.close()


async def test_a_segment_cut_short_is_corrupt(tmp_path: Path) -> None:
    storages = await RocksStorages.at(tmp_path)
    _, segments = await storages.open(1, create=True)
    where = await segments.append(b"x" * 1000)
    await segments.seal()
    path = tmp_path / f"volumes/1/segments/{where.segment:016x}.seg"
    os.truncate(path, 500)
    with pytest.raises(Corrupt, match=str(path)):
        await segments.read(where)
    path.unlink()
    await storages.close()
    storages = await RocksStorages.at(tmp_path)
    _, segments = await storages.open(1)
    with pytest.raises(Corrupt):
        await segments.read(where)
    await storages.close()


async def test_a_failed_append_harms_no_other(tmp_path: Path) -> None:
    storages = await RocksStorages.at(tmp_path)
    _, segments = await storages.open(1, create=True)
    first = await segments.append(b"first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for size in (2000, 600_000):  # on the loop, in a thread
            with pytest.raises(PlatformError):
                await segments.append(b"x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    last = await segments.append(b"last")
    await segments.sync()
    assert await segments.read(first) == b"first"
    assert await segments.read(last) == b"last"
    await storages.close()


async def test_a_failed_segment_sync_breaks_the_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages = await RocksStorages.at(tmp_path)
    _, segments = await storages.open(1, create=True)
    where = await segments.append(b"one")
    calls = []

    def fail_sync(_fd: int) -> None:
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail_sync)
    results = await asyncio.gather(
        segments.sync(), segments.sync(), segments.seal(), return_exceptions=True
    )
    assert all(isinstance(result, Exhausted) for result in results)
    for call in (segments.sync(), segments.append(b"two")):
        with pytest.raises(Unavailable):
            await call
    assert await segments.read(where) == b"one"
    await segments.close()
    assert calls == [1]
    monkeypatch.undo()
    await storages.close()


async def test_a_checkpoint_deletion_survives_a_crash(tmp_path: Path) -> None:
    storages = await RocksStorages.at(tmp_path)
    engine, _ = await storages.open(1, create=True)
    await engine.checkpoint("one")
    reader = await engine.open_checkpoint("one")
    await engine.delete_checkpoint("one")
    directory = tmp_path / "volumes/1/checkpoints"
    assert sorted(p.name for p in directory.iterdir()) == ["one", "one.doomed"]
    # What a crash would leave now, beside what RocksDB leaves of one being made:
    (directory / "half.tmp").mkdir()
    reader.close()
    await storages.close()
    (directory / "one").mkdir(exist_ok=True)
    (directory / "one.doomed").touch()
    storages = await RocksStorages.at(tmp_path)
    engine, _ = await storages.open(1)
    assert list(directory.iterdir()) == []
    with pytest.raises(NotFound):
        await engine.open_checkpoint("one")
    await storages.close()
