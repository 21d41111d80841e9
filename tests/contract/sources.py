"""What every source of a mirror keeps, wherever it is: see core/replication/seam.py."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest

from dataplatform.base.clock import SystemClock
from dataplatform.base.errors import Invalid, NotFound, Stale, Unavailable
from dataplatform.core import change_trims, compaction, namespace, tables
from dataplatform.core.platform import Platform
from dataplatform.core.replication import source as sources
from dataplatform.core.replication.seam import (
    RANGES,
    REFERRING,
    Pin,
    PinLost,
    Source,
    deltas,
    is_replicable,
    scan_ranges,
)
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME, Entry, Inode
from tests.checking import assert_clean
from tests.model.platform_driver import Driver, Place
from tests.replicas import Replica, assert_equal, extent_of, picture

PART = 256 << 10


class ShiftedClock(SystemClock):
    """A clock that goes, and can be put forward."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def now_ns(self) -> int:
        return super().now_ns() + int(self._ahead_s * 1e9)

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds


class World(NamedTuple):
    platform: Platform
    driver: Driver
    volume: Volume  # the root
    clock: ShiftedClock


async def put(driver: Driver, table: str, key: bytes, columns: dict[str, Any]) -> None:
    await put_many(driver, table, [(key, columns)])


async def put_many(
    driver: Driver, table: str, rows: Sequence[tuple[bytes, dict[str, Any]]]
) -> None:
    async def work(unit: Unit, number: int) -> int:
        data = b"".join(msgpack.packb(key) + msgpack.packb(columns) for key, columns in rows)
        return await tables.put_many(unit, number, data)

    await driver.unit(table, work)


class SourceContract:
    """Subclasses say how the source of a volume is reached."""

    engine = "memory"

    @contextlib.asynccontextmanager
    async def world(self, tmp_path: Path) -> AsyncIterator[World]:
        """A platform with a root volume, which is clean in the end."""
        place = Place(self.engine, tmp_path / "data")
        place.clock = clock = ShiftedClock()  # type: ignore[assignment]
        async with self.serving(place, tmp_path) as platform:
            volume = await platform.acquire(ROOT_VOLUME)
            yield World(platform, Driver(platform, b"a client        "), volume, clock)
            platform.release(volume)
            await assert_clean(platform)

    @contextlib.asynccontextmanager
    async def serving(self, place: Place, tmp_path: Path) -> AsyncIterator[Platform]:
        platform = await place.open()
        yield platform
        await platform.close()

    async def connect(self, platform: Platform, volume: int = ROOT_VOLUME) -> Source:
        raise NotImplementedError

    # ---- what it says of itself

    async def test_it_describes_the_volume(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            number = await driver.create_volume("/v")
            await driver.write_file("/v/f", b"x" * 10)
            volume = await platform.acquire(number)
            await volume.sync()
            async with await self.connect(platform, number) as source:
                told = await source.describe()
                assert (told.cluster, told.store) == (platform.cluster, platform.identity)
                assert (told.volume, told.path) == (number, "/v")
                assert told.history == volume.settings.history
                assert len(told.history) == 16
                assert told.lineage == []
                assert told.commit == volume.state.commit == told.state.commit
                assert told.commit_ns
                assert told.oldest_change == 1
                assert told.state.used_bytes == volume.state.used_bytes
                async with await source.pin() as pin:
                    assert pin.described.history == told.history
                    assert pin.described.state == volume.state
                    assert pin.commit == told.commit
            platform.release(volume)

    async def test_secrets_and_schedules_are_not_told(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, _driver, volume, _clock):

            async def work(unit: Unit) -> None:
                volume.settings.encryption = {"id": b"i", "keys": {1: b"wrapped"}}
                volume.settings.snapshots = [["s", 1, 1]]
                volume.settings.quota_bytes = 5 << 30
                unit.put(keys.SETTINGS_KEY, volume.settings.pack())

            await volume.run(SYSTEM, work, durable=True)
            async with await self.connect(platform) as source, await source.pin() as pin:
                for told in (pin.described.settings, (await source.describe()).settings):
                    assert told.encryption == {}
                    assert told.snapshots == []
                    assert told.identity == b""
                    assert told.quota_bytes == 5 << 30
            volume.settings.encryption = {}

    async def test_waiting_for_a_commit(self, tmp_path: Path) -> None:
        async with (
            self.world(tmp_path) as (platform, driver, volume, _clock),
            await self.connect(platform) as source,
        ):
            now = (await source.describe()).commit
            assert (await source.describe(now + 1, 0.05)).commit == now
            with pytest.raises(Unavailable):
                await source.pin(now + 1, 0.05)
            waiting = asyncio.ensure_future(source.pin(now + 1, 30))
            described = asyncio.ensure_future(source.describe(now + 1, 30))
            await asyncio.sleep(0.02)
            await driver.mkdir("/d")
            await volume.sync()
            async with await waiting as pin:
                assert pin.commit == now + 1
            assert (await described).commit == now + 1

    # ---- a pin stands still

    async def test_a_pin_is_one_commit(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await self._fill(driver)
            await volume.sync()
            async with await self.connect(platform) as source, await source.pin() as pin:
                before = await picture(pin)
                await driver.write("/d/large", 3, b"other bytes", durable=True)
                await driver.unlink("/d/small")
                await put(driver, "/t", b"row", {"n": 2})
                await driver.rename("/d", "/e")
                await compaction.run_once(volume)
                assert_equal(before, await picture(pin))
                async with await source.pin() as later:
                    assert later.commit > pin.commit
                    assert await picture(later) != before
                assert_equal(before, await picture(pin))

    async def test_segments_stay_for_a_pin(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await driver.write_file("/a", b"a" * PART * 3)
            await volume.sync()
            async with await self.connect(platform) as source:
                async with await source.pin() as pin:
                    before = await picture(pin)
                    await driver.unlink("/a")
                    await volume.storage.segments.seal()
                    await compaction.run_once(volume)
                    assert_equal(before, await picture(pin))
                assert await compaction.run_once(volume) == 1

    async def test_what_is_pinned_is_durable(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await driver.mkdir("/d")
            async with await self.connect(platform) as source, await source.pin() as pin:
                assert volume.lane.durable_commit >= pin.commit

    async def test_only_what_is_replicable_is_shipped(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await self._fill(driver)
            await driver.create_volume("/d/v")
            await volume.sync()
            async with await self.connect(platform) as source, await source.pin() as pin:
                pairs = [pair for page in [p async for p in scan_ranges(pin)] for pair in page]
                assert pairs == sorted(pairs)
                assert all(is_replicable(key) for key, _ in pairs)
                everything = await self._scan_all(pin, b"\x00", b"\xff")
                assert everything == pairs
                for key in (keys.STATE_KEY, keys.SETTINGS_KEY, keys.volume(1), keys.segment(1)):
                    with pytest.raises(Invalid):
                        await pin.values([key])
                changed = {key for page in [p async for p in deltas(pin, 0)] for key, _ in page}
                assert all(is_replicable(key) and key[:1] != keys.CHANGE for key in changed)

    async def test_a_junction_becomes_an_empty_directory(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await driver.create_volume("/v")
            await volume.sync()
            entry = keys.entry(ROOT_INODE, b"v")
            value = await volume.storage.engine.get(entry)
            assert value is not None
            junction = Entry.unpack(value)
            assert junction.volume
            inode = keys.inode(junction.inode)
            async with await self.connect(platform) as source, await source.pin() as pin:
                scanned = dict(await self._scan_all(pin, b"\x00", b"\xff"))
                told = dict([pair for page in [p async for p in deltas(pin, 0)] for pair in page])
                values = dict(zip((entry, inode), await pin.values([entry, inode]), strict=True))
                for found in (scanned, told, values):
                    at_entry, at_inode = found[entry], found[inode]
                    assert at_entry is not None
                    assert at_inode is not None
                    assert Entry.unpack(at_entry) == junction._replace(volume=0)
                    assert Inode.unpack(at_inode).volume == 0
                    assert Inode.unpack(at_inode).is_directory

    # ---- what changed

    async def test_what_changed_is_told_once(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await self._fill(driver)
            await volume.sync()
            async with await self.connect(platform) as source:
                async with await source.pin() as pin:
                    replica = Replica()
                    await replica.follow(pin)
                for n in range(50):
                    await put(driver, "/t", b"row", {"n": n})
                await driver.unlink("/d/small")
                await volume.sync()
                async with await source.pin() as pin:
                    changed = await self._changed(pin, replica.commit)
                    assert changed == sorted(set(changed))
                    assert len([key for key in changed if key[:1] == keys.ROW]) == 1
                    await replica.follow(pin)
                    await replica.assert_is(pin)
                    assert replica.copies == 1

    async def test_moved_bytes_cost_nothing(self, tmp_path: Path) -> None:
        """What gives back space is a commit, but no change."""
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await driver.write_file("/gone", b"g" * PART * 3)
            await driver.write_file("/kept", b"k" * PART)
            await driver.unlink("/gone")
            await volume.sync()
            await volume.storage.segments.seal()
            async with await self.connect(platform) as source:
                async with await source.pin() as pin:
                    before, since = await picture(pin), pin.commit
                assert await compaction.run_once(volume)
                await volume.sync()
                async with await source.pin() as pin:
                    assert pin.commit > since
                    assert await pin.changed(since) == []
                    after = await picture(pin)
                    assert_equal(before, {k: v for k, v in after.items() if k in before})

    async def test_times_of_access_are_told(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            file = await driver.write_file("/f", b"x")
            await volume.sync()
            since = volume.state.commit

            async def work(unit: Unit) -> None:
                await namespace.accessed(unit, file.inode, unit.now_ns + 1)

            await volume.run(SYSTEM, work, durable=True)
            async with await self.connect(platform) as source, await source.pin() as pin:
                assert await pin.changed(since) == [keys.inode(file.inode)]

    async def test_pages_of_what_changed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many keys changed, and however few a pin holds at once."""
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await driver.table("/t")
            since = volume.state.commit
            names = [b"row %04d" % n for n in range(300)]
            random.Random(1).shuffle(names)
            for at in range(0, 300, 30):
                await put_many(driver, "/t", [(name, {"n": at}) for name in names[at : at + 30]])
                await put(driver, "/t", b"row 0007", {"n": at})
            await volume.sync()
            async with await self.connect(platform) as source:
                async with await source.pin() as pin:
                    whole = await self._changed(pin, since)
                    assert len([key for key in whole if key[:1] == keys.ROW]) == 300
                for most in (1000, 301, 50, 7):
                    monkeypatch.setattr(sources, "KEYS_MAX", most)
                    for limit in (1, 40, 10_000):
                        if limit * most < 40:
                            continue  # nothing but patience is tested by that
                        async with await source.pin() as pin:
                            assert await self._changed(pin, since, limit=limit) == whole
                    async with await source.pin() as pin:
                        cut = whole[len(whole) // 2]
                        low = await self._changed(pin, since, end=cut)
                        assert low == [key for key in whole if key < cut]
                        high = await self._changed(pin, since, after=cut)
                        assert high == [key for key in whole if key > cut]
                        assert await self._changed(pin, since) == whole

    async def test_nothing_changed(self, tmp_path: Path) -> None:
        async with (
            self.world(tmp_path) as (platform, _driver, _volume, _clock),
            await self.connect(platform) as source,
            await source.pin() as pin,
        ):
            assert await pin.changed(pin.commit) == []
            assert await pin.delta(pin.commit) == []
            with pytest.raises(Invalid):
                await pin.changed(pin.commit + 1)

    async def test_trimmed_changes_are_stale(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, clock):
            for name in ("/a", "/a/b", "/a/c"):
                await driver.mkdir(name)
            clock.advance(8 * 24 * 3600)
            await driver.mkdir("/b")
            await volume.sync()
            assert await change_trims.trim(volume)
            await volume.sync()
            async with await self.connect(platform) as source, await source.pin() as pin:
                assert pin.described.oldest_change > 1
                with pytest.raises(Stale):
                    await pin.changed(0)
                with pytest.raises(Stale):
                    await pin.delta(pin.described.oldest_change - 2)
                assert await pin.changed(pin.described.oldest_change - 1)

    async def test_a_copy_that_was_cut_goes_on_under_another_pin(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await self._fill(driver)
            await volume.sync()
            async with await self.connect(platform) as source:
                async with await source.pin() as pin:
                    first = pin.commit
                    whole = await self._scan_all(pin, b"\x00", b"\xff")
                    cut = whole[len(whole) // 2][0]
                    copied = {key: value for key, value in whole if key < cut}
                await driver.mkdir("/later")
                await driver.unlink("/d/small")
                await put(driver, "/t", b"row", {"n": 5})
                await volume.sync()
                async with await source.pin() as pin:
                    async for page in deltas(pin, first, end=cut):
                        for key, value in page:
                            if value is None:
                                copied.pop(key, None)
                            else:
                                copied[key] = value
                    rows = (keys.change(first + 1), cut)
                    copied |= dict(await self._scan_all(pin, *rows)) if rows[0] < rows[1] else {}
                    copied |= dict(await self._scan_all(pin, cut, b"\xff"))
                    assert copied == dict(await self._scan_all(pin, b"\x00", b"\xff"))

    # ---- bytes

    @pytest.mark.parametrize("compression", ["none", "lz4"])
    async def test_extents_are_uncompressed(self, tmp_path: Path, compression: str) -> None:
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            volume.settings.compression = compression
            files = {
                f"/f{n}": bytes([n]) * (PART + n) + random.Random(n).randbytes(n) for n in range(9)
            }
            for name, data in files.items():
                await driver.write_file(name, data)
            await volume.sync()
            async with await self.connect(platform) as source, await source.pin() as pin:
                pairs = await self._scan_all(pin, b"\x00", b"\xff")
                wanted = [e for e in (extent_of(*p) for p in pairs if p[0][:1] in REFERRING) if e]
                assert bool(compression == "lz4") == any(extent.flags for extent in wanted)
                random.Random(2).shuffle(wanted)
                found = await pin.extents(wanted)
                assert [len(data) for data in found] == [extent.length for extent in wanted]
                assert sum(map(len, found)) == sum(map(len, files.values()))
                assert await pin.extents([]) == []
                contents = await picture(pin)
                for name, data in files.items():
                    entry = contents[keys.entry(ROOT_INODE, name[1:].encode())]
                    pieces = keys.pieces(Entry.unpack(entry).inode)
                    stored = [
                        contents[key][1:] for key in sorted(contents) if key.startswith(pieces)
                    ]
                    assert b"".join(stored) == data

    # ---- large

    async def test_large_values(self, tmp_path: Path) -> None:
        """Also one that is larger than any message: a change row of very many keys."""
        async with self.world(tmp_path) as (platform, driver, volume, _clock):
            await driver.table("/t")
            since = volume.state.commit
            value = random.Random(1).randbytes(3 << 20)

            async def work(unit: Unit) -> None:
                for n in range(5000):
                    unit.put(keys.xattr(ROOT_INODE, b"%0200d" % n + b"x" * 4000), b"")
                unit.put(keys.xattr(ROOT_INODE, b"value"), value)

            await volume.run(SYSTEM, work, durable=True)
            for n in range(3):
                await put(driver, "/t", b"row %d" % n, {"data": value})
            await volume.sync()
            async with await self.connect(platform) as source, await source.pin() as pin:
                row = keys.change(since + 1)
                (stored,) = await pin.values([row])
                assert stored is not None
                assert len(stored) > 16 << 20
                assert stored == await volume.storage.engine.get(row)
                scanned = dict(await self._scan_all(pin, b"\x00", b"\xff"))
                assert scanned[row] == stored
                told = {key: v for page in [p async for p in deltas(pin, since)] for key, v in page}
                assert told[keys.xattr(ROOT_INODE, b"value")] == value
                wanted = [key for key in sorted(scanned) if key[:1] == keys.ROW] * 3
                assert await pin.values(wanted) == [scanned[key] for key in wanted]
                missing = [keys.inode(999_999), wanted[0], keys.inode(999_998)]
                assert await pin.values(missing) == [None, scanned[wanted[0]], None]

            async def undo(unit: Unit) -> None:
                for n in range(5000):
                    unit.delete(keys.xattr(ROOT_INODE, b"%0200d" % n + b"x" * 4000))
                unit.delete(keys.xattr(ROOT_INODE, b"value"))

            await volume.run(SYSTEM, undo, durable=True)

    # ---- the end

    async def test_a_pin_ends(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, _volume, _clock):
            number = await driver.create_volume("/v")
            async with await self.connect(platform, number) as source:
                pin = await source.pin()
                await pin.close()
                await pin.close()
                with pytest.raises(PinLost):
                    await pin.scan(*RANGES[0])
                pin = await source.pin()
                await driver.remove_volume(number)
                with pytest.raises((PinLost, NotFound)):
                    await pin.scan(*RANGES[0])
                await pin.close()
                with pytest.raises(NotFound):
                    await source.pin()
                with pytest.raises(NotFound):
                    await source.describe()

    async def test_who_waits_does_not_keep_a_volume(self, tmp_path: Path) -> None:
        async with self.world(tmp_path) as (platform, driver, _volume, _clock):
            number = await driver.create_volume("/v")
            async with await self.connect(platform, number) as source:
                now = (await source.describe()).commit
                waiting = asyncio.ensure_future(source.describe(now + 1, 30))
                await asyncio.sleep(0.05)
                await driver.remove_volume(number)
                with pytest.raises(NotFound):
                    await waiting

    # ---- for these tests

    async def _fill(self, driver: Driver) -> None:
        await driver.mkdir("/d")
        await driver.write_file("/d/small", b"small")
        await driver.write_file("/d/large", random.Random(0).randbytes(3 * PART))
        await driver.set_xattr("/d/large", "user.a", b"value")
        await driver.table("/t")
        await put(driver, "/t", b"row", {"n": 1})

    async def _changed(
        self, pin: Pin, since: int, *, after: bytes = b"", end: bytes = b"", limit: int = 10_000
    ) -> list[bytes]:
        found: list[bytes] = []
        while page := await pin.changed(since, after, end, limit):
            found += page
            after = page[-1]
        return found

    async def _scan_all(self, pin: Pin, start: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        while page := await pin.scan(start, end, limit=100):
            found += page
            start = page[-1][0] + b"\x00"
        return found
