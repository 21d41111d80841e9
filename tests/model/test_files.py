"""Files beside byte arrays: random reads and writes around every size at which something changes.

A model file is its bytes and, for each byte, whether it was written: what was not is a hole, takes
no space, and is what SEEK_DATA skips. `--seed N` repeats a run.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from dataplatform.core import compaction, orphans
from dataplatform.core.catalog import COMPRESSIONS
from dataplatform.core.platform import Platform
from dataplatform.core.units import SYSTEM
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_VOLUME, VolumeSettings

from .accounts import assert_accounts
from .platform_driver import Driver, Handle, Place, assert_clean, engines

STEPS = {"memory": 3000, "rocks": 1500, "slate": 300}
STEPS_SYSTEM = 10  # times as many
FILES = ["a", "b", "c", "d"]
SIZE_MAX = 2 << 20

BLOCK, PIECE, EXTENT = 4096, 64 << 10, 128 << 10
EDGES = [BLOCK, 2 * BLOCK, PIECE, PIECE + BLOCK, EXTENT, EXTENT + PIECE, 3 * EXTENT, 1 << 20]


class ModelFile:
    def __init__(self) -> None:
        self.data = bytearray()
        self.written = bytearray()

    def resize(self, size: int) -> None:
        for array in (self.data, self.written):
            if size < len(array):
                del array[size:]
            else:
                array.extend(bytes(size - len(array)))

    def write(self, offset: int, data: bytes, written: bytes | None = None) -> None:
        if not data:
            return
        if offset + len(data) > len(self.data):
            self.resize(offset + len(data))
        self.data[offset : offset + len(data)] = data
        self.written[offset : offset + len(data)] = written or b"\x01" * len(data)

    def punch(self, offset: int, length: int) -> None:
        length = min(length, len(self.data) - offset)
        if length > 0:
            self.write(offset, bytes(length), bytes(length))

    def ranges(self) -> list[tuple[int, int]]:
        """(offset, length) of what was written."""
        found = []
        at = 0
        while (start := self.written.find(1, at)) >= 0:
            end = self.written.find(0, start)
            at = len(self.written) if end < 0 else end
            found.append((start, at - start))
        return found


class Walk:
    def __init__(self, rng: random.Random, place: Place, compression: str) -> None:
        self.rng = rng
        self.place = place
        self.compression = compression
        self.models: dict[str, ModelFile] = {}
        self.unlinked: list[tuple[Handle, ModelFile]] = []
        self.segments_gone = 0
        self.log: list[str] = []
        self.platform: Platform
        self.driver: Driver
        self.volume: Volume

    async def start(self) -> None:
        self.platform = await self.place.open()
        session = self.rng.randbytes(16)
        self.driver = Driver(self.platform, session, rng=self.rng, repeat=0.05)
        self.volume = await self.platform.acquire(ROOT_VOLUME)
        if self.volume.settings.compression != self.compression:
            settings = VolumeSettings(compression=self.compression)
            await self.platform.catalog.set(SYSTEM, self.volume, settings)
        for handle, _ in self.unlinked:
            await self.driver.open(handle)

    async def stop(self) -> None:
        self.platform.release(self.volume)
        await self.platform.close()

    # ---- choosing

    def near(self, edges: list[int]) -> int:
        """A number at, just before or behind a multiple of an edge, or any."""
        rng = self.rng
        edge = rng.choice(edges)
        number = edge * rng.randrange(4) + rng.choice([-1, 0, 0, 0, 1, rng.randrange(edge)])
        return min(max(number, 0), SIZE_MAX)

    def length(self) -> int:
        rng = self.rng
        if rng.random() < 0.4:
            return rng.randrange(1, 3000)
        return max(1, min(self.near(EDGES), 700_000))

    def bytes(self, length: int) -> bytes:
        rng = self.rng
        if rng.random() < 0.5:
            return rng.randbytes(length)
        return (rng.randbytes(8) * (length // 8 + 1))[:length]  # compresses

    def name(self) -> str:
        return self.rng.choice(FILES)

    async def model(self, name: str) -> ModelFile:
        if name not in self.models:
            await self.driver.create("/" + name)
            self.models[name] = ModelFile()
        return self.models[name]

    # ---- steps

    async def step(self) -> None:
        self.place.clock.advance(self.rng.uniform(0.001, 0.3))
        if self.rng.random() < 0.1:
            await self.together()
            return
        chosen = self.rng.choices(
            [self.change, self.copy, self.replace, self.remove, self.look, self.background],
            [40, 8, 4, 4, 24, 20],
        )[0]
        if chosen in (self.copy, self.remove, self.background):
            await chosen()  # type: ignore[call-arg]
        else:
            await chosen(self.name())  # type: ignore[call-arg]

    async def together(self) -> None:
        """Several at once, on different files: whatever their order, the outcome is the same."""
        names = self.rng.sample(FILES, 3)
        for name in names:
            await self.model(name)
        self.log.append("together:")
        await asyncio.gather(
            *(self.change(name) for name in names),
            self.housekeep(self.rng.choice(["compaction", "writeback", "sync"])),
        )

    async def change(self, name: str) -> None:
        rng, path, model = self.rng, "/" + name, await self.model(name)
        size = len(model.data)
        how = rng.choice(["write", "write", "write", "append", "truncate", "punch", "reserve"])
        offset, length = self.near(EDGES), self.length()
        if rng.random() < 0.3:
            offset = rng.randrange(size + 1)
        if how in ("write", "append"):
            data, durable = self.bytes(length), rng.random() < 0.05
            if how == "append" and size + length <= 2 * SIZE_MAX:
                self.log.append(f"append {name} {length}")
                model.write(size, data)
                assert await self.driver.append(path, data, durable=durable) == size
            else:
                self.log.append(f"write {name} {offset} {length}")
                model.write(offset, data)
                await self.driver.write(path, offset, data, durable=durable)
        elif how == "truncate":
            self.log.append(f"truncate {name} {offset}")
            model.resize(offset)
            await self.driver.truncate(path, offset)
        elif how == "punch":
            self.log.append(f"punch {name} {offset} {length}")
            model.punch(offset, length)
            await self.driver.punch(path, offset, length)
        else:
            self.log.append(f"reserve {name} {offset} {length}")
            model.resize(max(size, offset + length))
            await self.driver.reserve(path, offset, length)

    async def copy(self) -> None:
        a, b = self.name(), self.name()
        source, target = await self.model(a), await self.model(b)
        source_offset, target_offset = self.near(EDGES), self.near(EDGES)
        length = min(self.length() * self.rng.choice([1, 4]), SIZE_MAX)
        if a == b and abs(source_offset - target_offset) < length:
            return
        self.log.append(f"copy {a} {source_offset} to {b} {target_offset}, {length}")
        end = source_offset + length
        data, written = source.data[source_offset:end], source.written[source_offset:end]
        target.write(target_offset, bytes(data), bytes(written))
        done = 0
        while done < len(data):
            count = await self.driver.copy_range(
                f"/{a}", f"/{b}", source_offset + done, target_offset + done, length - done
            )
            assert count > 0
            done += count
        assert done == len(data)

    async def replace(self, name: str) -> None:
        self.log.append(f"replace {name}")
        data = self.bytes(self.rng.choice([0, self.length(), self.length()]))
        new = self.models[name] = ModelFile()
        new.write(0, data)
        if self.rng.random() < 0.5:
            await self.driver.write_file("/" + name, data)
        else:
            await self.driver.write_file("/new", b"old")
            await self.driver.truncate("/new", 0)
            await self.driver.write("/new", 0, data)
            await self.driver.rename("/new", "/" + name)

    async def remove(self) -> None:
        """A removed file lives on while it is open."""
        rng = self.rng
        if self.unlinked and rng.random() < 0.5:
            handle, _ = self.unlinked.pop(rng.randrange(len(self.unlinked)))
            await self.driver.close(handle)
            return
        name = self.name()
        self.log.append(f"unlink {name}")
        model = await self.model(name)
        if rng.random() < 0.5:
            self.unlinked.append((await self.driver.open("/" + name), model))
        await self.driver.unlink("/" + name)
        del self.models[name]

    async def look(self, name: str) -> None:
        rng, model = self.rng, await self.model(name)
        if rng.random() < 0.2:
            assert await self.driver.data_ranges("/" + name) == model.ranges(), self.tell(name)
            return
        offset, length = self.near(EDGES), self.length()
        found = await self.driver.read("/" + name, offset, length)
        assert found == model.data[offset : offset + length], self.tell(
            f"read {name} {offset} {length}"
        )
        assert (await self.driver.stat("/" + name)).size == len(model.data), self.tell(name)

    async def background(self) -> None:
        how = self.rng.choice(
            ["sync", "fsync", "writeback", "lane", "compaction", "compaction", "orphans", "reopen"]
        )
        self.log.append(how)
        if how == "reopen":
            if self.rng.random() < 0.3:
                await self.stop()
                await self.start()
        else:
            await self.housekeep(how)

    async def housekeep(self, how: str) -> None:
        volume = self.volume
        if how == "sync":
            await volume.sync()
        elif how == "fsync" and self.models:
            await self.driver.sync("/" + self.rng.choice(sorted(self.models)))
        elif how == "writeback":
            await volume.writeback.run_once()
        elif how == "lane":
            await volume.lane.run_once()
        elif how == "orphans":
            await orphans.run_once(volume)
        elif how == "compaction":
            if self.rng.random() < 0.5:
                await volume.storage.segments.seal()
            self.segments_gone += await compaction.run_once(volume)

    # ---- everything

    async def compare(self) -> None:
        for name, model in self.models.items():
            await self.compare_file("/" + name, model)
        for handle, model in self.unlinked:
            await self.compare_file(handle, model)
        assert await self.driver.names("/") == sorted(self.models)

    async def compare_file(self, target: str | Handle, model: ModelFile) -> None:
        inode = await self.driver.stat(target)
        assert inode.size == len(model.data), self.tell(str(target))
        assert await self.driver.read(target) == model.data, self.tell(str(target))

    def tell(self, message: str) -> str:
        return "\n".join([message, "after:", *self.log[-60:]])


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("engine", engines())
async def test_random_work_beside_byte_arrays(
    engine: str, compression: str, seed: int, tmp_path: Path
) -> None:
    await _work_beside_byte_arrays(engine, compression, seed, tmp_path, STEPS[engine])


@pytest.mark.system
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("engine", engines())
async def test_long_random_work_beside_byte_arrays(
    engine: str, compression: str, seed: int, tmp_path: Path
) -> None:
    steps = STEPS[engine] * STEPS_SYSTEM
    await _work_beside_byte_arrays(engine, compression, seed, tmp_path, steps)


async def _work_beside_byte_arrays(
    engine: str, compression: str, seed: int, tmp_path: Path, steps: int
) -> None:
    walk = Walk(random.Random(seed), Place(engine, tmp_path / "data"), compression)
    await walk.start()
    for step in range(steps):
        await walk.step()
        if step % 40 == 0:
            await walk.compare()
        if step % 200 == 0:
            await assert_accounts(walk.volume)
    await walk.compare()
    for name, model in walk.models.items():
        await walk.driver.sync("/" + name)
        inode = await walk.driver.stat("/" + name)
        assert inode.used_bytes == sum(model.written), walk.tell(name)
    if engine == "memory":
        assert walk.segments_gone
    await assert_clean(walk.platform)
    await walk.stop()


@pytest.mark.parametrize("engine", engines())
async def test_the_far_end_of_a_file(engine: str, tmp_path: Path) -> None:
    """Offsets up to the largest that POSIX knows; a hole of exbibytes costs nothing."""
    place = Place(engine, tmp_path / "data")
    platform = await place.open()
    driver = Driver(platform)
    await driver.create("/f")
    far = (1 << 63) - 1
    await driver.truncate("/f", far)
    assert (await driver.stat("/f")).size == far
    assert await driver.data_ranges("/f") == []
    await driver.write("/f", 1 << 62, b"x" * 200_000)
    await driver.write("/f", far - 5, b"12345")
    assert await driver.data_ranges("/f") == [(1 << 62, 200_000), (far - 5, 5)]
    assert await driver.read("/f", far - 8, 100) == b"\0\0\0" + b"12345"
    await driver.create("/g")
    assert await driver.copy_range("/f", "/g", 0, 0, far)
    await driver.punch("/f", 1 << 62, 1 << 62)
    assert (await driver.stat("/f")).used_bytes == 0
    await assert_clean(platform)
    await platform.close()
