"""Random changes, snapshots, clones and restores, beside copies of a dict.

A volume is a dict of directories of files, and of rows; a snapshot is a copy of it, a clone is a
copy of that, restoring puts a copy in its place. Now and then the power goes, or the platform is
closed and opened again; compaction and the sweep of orphans run at any time. In the end, and after
each step that touches several volumes, everything is compared: volumes, and what snapshots show.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from dataplatform.base.errors import Conflict, NotFound, PlatformError
from dataplatform.core import change_log, compaction, orphans, tables
from dataplatform.core.grafts import Growing
from dataplatform.core.volumes import LEASE_S, Volume
from dataplatform.engine.memory import _Volume as MemoryVolume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import row_columns
from tests.pictures import picture

from .platform_driver import Driver, Place, assert_clean

STEPS = 150
STEPS_SYSTEM = 3000
DIRECTORIES = ["d0", "d1", "d2"]
FILES = ["f0", "f1", "f2", "f3"]
SIZES = [0, 10, 5000, 70_000, 300_000]

Tree = dict[str, dict[str, Any]]
"""Files of directories, by name; rows of the table `t`, by key."""


async def read(volume: Volume) -> Tree:
    """What a volume, or a snapshot, holds."""
    tree: Tree = {"t": {}}
    for path, about in (await picture(volume)).items():
        names = path.split("/")[1:]
        if about["kind"] == 2 and len(names) == 1:
            tree[names[0]] = {}
        elif about["kind"] == 1:
            tree[names[0]][names[1]] = _content(about)
        elif about["kind"] == 4:
            for key, value in about["rows"].items():
                tree["t"][key[1:].decode()] = msgpack.unpackb(row_columns(value))
    return tree


def _content(about: dict[str, Any]) -> bytes:
    data = bytearray(about["size"])
    for key, stored in about["rows"].items():
        assert key[:1] == keys.PIECE
        at = int.from_bytes(key[-8:], "big")
        piece = stored[1:] if len(key) and stored[:1] == b"\x00" else stored
        data[at : at + len(piece)] = piece
    return bytes(data[: about["size"]])


class Walk:
    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.rng = random.Random(seed)
        self.driver: Driver
        self.volumes: dict[str, Tree] = {}
        self.numbers: dict[str, int] = {}
        self.snapshots: dict[str, dict[str, tuple[int, Tree]]] = {}
        self.made_of: dict[str, tuple[str, str]] = {}  # clones: source and snapshot
        self.counter = 0

    async def begin(self) -> None:
        self.driver = Driver(await self.place.open(), b"walking client..")
        await self.create("v0")

    async def create(self, name: str) -> None:
        self.numbers[name] = await self.driver.create_volume(f"/{name}")
        await self.driver.table(f"/{name}/t")
        for directory in DIRECTORIES:
            await self.driver.mkdir(f"/{name}/{directory}")
        self.volumes[name] = {"t": {}, **{directory: {} for directory in DIRECTORIES}}
        self.snapshots[name] = {}

    def fresh(self, prefix: str) -> str:
        self.counter += 1
        return f"{prefix}{self.counter}"

    def volume(self) -> str:
        return self.rng.choice(sorted(self.volumes))

    def snapshot(self) -> tuple[str, str] | None:
        known = [(v, s) for v in sorted(self.snapshots) for s in sorted(self.snapshots[v])]
        return self.rng.choice(known) if known else None

    # ---- steps

    async def write(self) -> None:
        volume = self.volume()
        directory, file = self.rng.choice(DIRECTORIES), self.rng.choice(FILES)
        if directory not in self.volumes[volume]:
            return
        data = self.rng.randbytes(self.rng.choice(SIZES))
        await self.driver.write_file(f"/{volume}/{directory}/{file}", data)
        self.volumes[volume][directory][file] = data

    async def overwrite(self) -> None:
        volume = self.volume()
        for directory, files in self.volumes[volume].items():
            for file, data in files.items():
                if directory != "t" and data and self.rng.random() < 0.3:
                    at = self.rng.randrange(len(data))
                    part = self.rng.randbytes(min(len(data) - at, 1000))
                    await self.driver.write(f"/{volume}/{directory}/{file}", at, part)
                    files[file] = data[:at] + part + data[at + len(part) :]
                    return

    async def remove(self) -> None:
        volume = self.volume()
        directory, file = self.rng.choice(DIRECTORIES), self.rng.choice(FILES)
        if file in self.volumes[volume].get(directory, {}):
            await self.driver.unlink(f"/{volume}/{directory}/{file}")
            del self.volumes[volume][directory][file]

    async def put(self) -> None:
        volume, key = self.volume(), f"k{self.rng.randrange(20)}"
        columns = {"n": self.rng.randrange(1000)}
        packed = msgpack.packb(columns)
        await self.driver.unit(
            f"/{volume}/t", lambda u, n: tables.put(u, n, key.encode(), packed, replace=True)
        )
        self.volumes[volume]["t"][key] = columns

    async def take(self) -> None:
        volume, name = self.volume(), self.fresh("s")
        number = await self.driver.take_snapshot(f"/{volume}", name)
        self.snapshots[volume][name] = number, copy.deepcopy(self.volumes[volume])

    async def let_go(self) -> None:
        if (found := self.snapshot()) and found not in self.needed():
            await self.driver.remove_snapshot(f"/{found[0]}", found[1])
            del self.snapshots[found[0]][found[1]]

    def needed(self) -> set[tuple[str, str]]:
        return set(self.made_of.values()) if self.driver.platform.storages.clones_refer else set()

    async def clone(self) -> None:
        if len(self.volumes) > 4 or not (found := self.snapshot()):
            return
        name = self.fresh("v")
        self.numbers[name] = await self.driver.clone(f"/{found[0]}", found[1], f"/{name}")
        self.volumes[name] = copy.deepcopy(self.snapshots[found[0]][found[1]][1])
        self.snapshots[name], self.made_of[name] = {}, found

    async def drop(self) -> None:
        volume = self.volume()
        if volume == "v0" or any(source == volume for source, _ in self.made_of.values()):
            return
        for name in list(self.snapshots[volume]):
            await self.driver.remove_snapshot(f"/{volume}", name)
        await self.driver.remove_volume(self.numbers[volume], recursive=True)
        for known in (self.volumes, self.snapshots, self.made_of, self.numbers):
            known.pop(volume, None)  # type: ignore[attr-defined]

    async def restore(self) -> None:
        if found := self.snapshot():
            await self.driver.restore(self.numbers[found[0]], found[1])
            tree = self.snapshots[found[0]][found[1]][1]
            self.volumes[found[0]] = copy.deepcopy(tree)

    async def restore_path(self) -> None:
        if not (found := self.snapshot()):
            return
        volume, name = found
        tree = self.snapshots[volume][name][1]
        part = self.rng.choice([*DIRECTORIES, "t"])
        file = self.rng.choice(FILES)
        if part != "t" and self.rng.random() < 0.5:
            if file in tree[part]:
                await self.driver.restore_path(f"/{volume}/{part}/{file}", name)
                self.volumes[volume][part][file] = tree[part][file]
            else:
                with pytest.raises(NotFound):
                    await self.driver.restore_path(f"/{volume}/{part}/{file}", name)
            return
        await self.driver.restore_path(f"/{volume}/{part}", name)
        self.volumes[volume][part] = copy.deepcopy(tree[part])

    async def promote(self) -> None:
        if not self.made_of:
            return
        clone = self.rng.choice(sorted(self.made_of))
        source, _ = self.made_of[clone]
        part = self.rng.choice([*DIRECTORIES, "t"])
        try:
            await self.driver.promote(f"/{clone}/{part}")
        except Conflict:
            return  # when it has to be is tested on its own
        self.volumes[source][part] = copy.deepcopy(self.volumes[clone][part])

    async def tidy(self) -> None:
        self.place.clock.advance(self.rng.choice([1.0, LEASE_S + 1]))
        for number in self.numbers.values():
            volume = await self.driver.platform.acquire(number)
            try:
                await orphans.run_once(volume)
                await compaction.run_once(volume)
                await change_log.drop_cut(volume)
            finally:
                self.driver.platform.release(volume)

    async def reopen(self) -> None:
        if self.place.engine == "memory" and self.rng.random() < 0.5:
            for number in self.numbers.values():
                volume = await self.driver.platform.acquire(number)
                await volume.sync()
                self.driver.platform.release(volume)
            await self.place.crash()
        else:
            await self.driver.platform.close()
        self.driver.reconnect(await self.place.open())

    async def compare(self) -> None:
        for name, tree in self.volumes.items():
            await self._compare(self.numbers[name], tree, name)
            for snapshot, (number, then) in self.snapshots[name].items():
                await self._compare(number, then, f"{name}@{snapshot}")

    async def _compare(self, number: int, tree: Tree, what: str) -> None:
        volume = await self.driver.platform.acquire(number)
        try:
            found = await read(volume)
        finally:
            self.driver.platform.release(volume)
        hidden = [name for name in found if name.startswith(".")]
        assert not hidden, (what, hidden)
        assert found == tree, what

    async def run(self, steps: int) -> None:
        often = [self.write, self.overwrite, self.remove, self.put]
        rarely = [
            *(self.take, self.take, self.let_go, self.clone, self.drop, self.restore),
            *(self.restore_path, self.restore_path, self.promote, self.tidy, self.reopen),
        ]
        for _ in range(steps):
            if self.rng.random() < 0.6:
                await self.rng.choice(often)()
            else:
                await self.rng.choice(rarely)()
                await self.compare()
        await self.tidy()
        await self.compare()
        await assert_clean(self.driver.platform)
        await self.driver.platform.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["memory", "rocks", "slate"])
async def test_a_walk(engine: str, tmp_path: Path, seed: int) -> None:
    walk = Walk(Place(engine, tmp_path), seed)
    await walk.begin()
    await walk.run(STEPS if engine == "memory" else STEPS // 3)


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("engine", ["memory", "rocks", "slate"])
async def test_a_long_walk(engine: str, tmp_path: Path, seed: int) -> None:
    walk = Walk(Place(engine, tmp_path), seed)
    await walk.begin()
    await walk.run(STEPS_SYSTEM if engine == "memory" else STEPS_SYSTEM // 10)


# ---------------------------------------------------------------- planted bugs


def let_segments_of_snapshots_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(compaction, "_pinned", lambda *args: False)


def share_what_is_written_to(patch: pytest.MonkeyPatch) -> None:
    """A clone is its source."""
    patch.setattr(MemoryVolume, "clone", lambda self, checkpoint: self)


def forget_the_rows_that_were_restored(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Growing, old: int, number: int) -> None:
        return

    patch.setattr(Growing, "_table", nothing)


@pytest.mark.allow_warnings
@pytest.mark.parametrize(
    "plant",
    [
        let_segments_of_snapshots_go,
        share_what_is_written_to,
        forget_the_rows_that_were_restored,
    ],
    ids=lambda plant: plant.__name__,
)
async def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)

    async def walks() -> None:
        for number in range(seed, seed + 20):
            walk = Walk(Place("memory", tmp_path), number)
            await walk.begin()
            await walk.run(STEPS)

    with pytest.raises((AssertionError, PlatformError)):
        await walks()
