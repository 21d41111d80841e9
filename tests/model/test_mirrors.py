"""The walk of the whole core, followed by real mirrors, with power loss on either side and links
that are cut at any call.

Whatever happened, a mirror is a commit of its source: byte for byte what a pin showed of that
commit. In the end it is promoted, written, failed back, and both are equal again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from dataplatform.base.clock import SeededEntropy
from dataplatform.base.errors import Conflict, PlatformError, Stale, Unavailable
from dataplatform.core import compaction
from dataplatform.core.platform import Platform
from dataplatform.core.replication import apply, copying, incoming
from dataplatform.core.replication.apply import cursor_of
from dataplatform.core.replication.links import Link, Schedule
from dataplatform.core.replication.seam import Described, Pin, Source
from dataplatform.core.replication.source import LocalSource
from dataplatform.core.units import Request
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.engine.wrappers import FaultyStorages
from dataplatform.keyspace.records import VolumeSettings
from tests.masters import masters
from tests.principals import admin
from tests.replicas import Picture, assert_equal, picture
from tests.sim.power import Power, PowerCut

from .core_steps import Steps, run
from .core_walk import NEVER, SEGMENT_BYTES
from .platform_driver import Driver, assert_clean

pytestmark = pytest.mark.allow_warnings  # a write that is cut short is logged as an error

SEEDS, STEPS = 24, 80
SEEDS_FOR_A_BUG = 60

ADMIN = Request(admin("ana"))


class LinkCut(Unavailable):
    """At this call."""


class Side:
    """A server whose power may go at any point."""

    def __init__(self, seed: int, name: str) -> None:
        self.rng = random.Random(seed)
        self.name = name
        self.disk = MemoryDisk()
        self.storages = MemoryStorages(self.disk, segment_bytes=SEGMENT_BYTES)
        self.power: Power
        self.platform: Platform
        self.crashes = 0

    async def start(self, walk: Mirrored) -> None:
        while True:
            self.power = Power(self.rng, self.storages, NEVER, None)
            if self.rng.random() < 0.1:
                self.power.cut_at = self.rng.randrange(1, 20)
            try:
                self.platform = await Platform.start(
                    FaultyStorages(self.storages, self.power),
                    cluster=self.name,
                    clock=walk.clock,
                    entropy=SeededEntropy(self.rng.getrandbits(32)),
                    masters=masters(self.rng.getrandbits(32)),
                )
            except PowerCut:
                self.crashes += 1
                continue
            except PlatformError:
                if not self.power.off.is_set():
                    raise
                self.crashes += 1
                continue
            self.power.cut_at = NEVER
            self.platform.mirrors.connect = walk.connect
            return

    def crash(self) -> None:
        if not self.power.off.is_set():
            with contextlib.suppress(PowerCut):
                self.power.cut("between two steps")


class Mirrored(Steps):
    """A walk with a mirror of each of its volumes."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.chances = random.Random(seed + 1)
        self.there = Side(seed + 2, "west")
        self.mirrors: dict[int, int] = {}  # volumes there, by volume here
        self.pictures: dict[int, dict[int, Picture]] = {}
        self.cut_in = 0  # calls until the link is cut

    async def run_step(self, step: Callable[[], Awaitable[None]]) -> None:
        await super().run_step(step)
        if not hasattr(self.there, "platform"):
            await self.there.start(self)
        if self.steps % 3 == 0:
            await super().run_step(self.follow)

    async def end(self) -> None:
        await self.catch_up()
        await self.check()
        await self.turn_around()
        await assert_clean(self.there.platform)
        await self.there.platform.close()
        await self.platform.close()

    # ---- the link

    async def connect(self, link: Link) -> Source:
        self.call_over_link()
        side = self.platform if link.address == "grpc://east" else self.there.platform
        return _Linked(self, side, int(link.path.removeprefix("/volume")))

    def call_over_link(self) -> None:
        if self.cut_in:
            self.cut_in -= 1
            if not self.cut_in:
                self.note("link cut")
                raise LinkCut("the link is cut")

    def taken(self, volume: int, pin: Pin, seen: Picture) -> None:
        self.pictures.setdefault(volume, {})[pin.commit] = seen

    # ---- following

    async def follow(self) -> None:
        for number in list(self.lines):
            await self.round(number)

    async def round(self, number: int) -> None:
        """One round of a mirror, in which anything may break."""
        side, chances = self.there, self.chances
        if chances.random() < 0.25:
            side.power.cut_at = side.power.points + chances.randrange(1, 30)
        if chances.random() < 0.2:
            self.cut_in = chances.randrange(1, 8)
        apply.ROWS_MAX = chances.choice([100_000, 100_000, 10])
        apply.CHANGES_MAX = chances.choice([100_000, 5])
        copying.PART_BYTES = chances.choice([1 << 25, 2_000])
        try:
            await self.one_round(number)
        except (PowerCut, PlatformError, BaseExceptionGroup) as error:
            await self.survived(error)
        finally:
            side.power.cut_at = NEVER
            self.cut_in = 0
        await self.compare(number)

    async def one_round(self, number: int) -> None:
        platform = self.there.platform
        if number not in self.mirrors:
            await self.make(number)
        volume = self.mirrors[number]
        await platform.mirrors.step(volume)
        self.note("round")
        if self.chances.random() < 0.2:
            held = await platform.acquire(volume)
            try:
                await compaction.run_once(held)
            finally:
                platform.release(held)

    async def make(self, number: int) -> None:
        platform = self.there.platform
        at = await platform.locate_name(f"/m{number}")
        try:
            self.mirrors[number] = await platform.mirrors.create(
                ADMIN,
                at,
                Link(f"/volume{number}", "grpc://east"),
                Schedule(every_ms=1000),
                VolumeSettings(),
                encrypt=self.chances.random() < 0.5,
            )
        finally:
            platform.release(at.volume)

    async def survived(self, error: BaseException) -> None:
        """What is off is started again; an error that nobody caused is a bug."""
        if self.there.power.off.is_set():
            self.note("mirror's power cut")
            for _ in range(20):
                await asyncio.sleep(0)
            await self.there.start(self)
            for number in self.lines:
                await self.know_again(number)
            if not self.power.off.is_set():
                return
        if self.power.off.is_set():
            raise PowerCut
        if isinstance(error, (LinkCut, Stale)) or isinstance(error.__cause__, LinkCut):
            return
        raise AssertionError(f"not expected: {error!r}") from error

    async def know_again(self, number: int) -> None:
        """A mirror that was being made may be there or not."""
        platform = self.there.platform
        at = await platform.locate_name(f"/m{number}")
        platform.release(at.volume)
        if not at.inode:
            self.mirrors.pop(number, None)
            return
        node = await platform.locate(f"/m{number}")
        self.mirrors[number] = node.volume.id
        platform.release(node.volume)

    async def compare(self, number: int) -> None:
        """It is what a pin has shown of the commit that its cursor names."""
        platform, volume = self.there.platform, self.mirrors.get(number)
        if not volume:
            return
        held = await platform.acquire(volume)
        try:
            cursor = await cursor_of(held)
            if cursor is None:
                return
            self.counts["compared"] += 1
            async with await LocalSource(platform, volume).pin() as pin:
                assert pin.commit == cursor.commit
                assert_equal(_without_log(await picture(pin)), self.pictures[number][pin.commit])
        finally:
            platform.release(held)

    async def catch_up(self) -> None:
        """Until each mirror is all that its source is."""
        self.there.power.cut_at = NEVER
        for number in self.lines:
            for _ in range(60):
                with contextlib.suppress(Stale):
                    await self.one_round(number)
                held = await self.there.platform.acquire(self.mirrors[number])
                status = await self.there.platform.mirrors.status(held)
                self.there.platform.release(held)
                if status.state == "current":
                    break
            else:
                raise AssertionError(f"it does not come to an end: {status}")
            await self.compare(number)

    # ---- promoted, written, failed back

    async def turn_around(self) -> None:
        number, platform = self.second, self.there.platform
        volume = self.mirrors[number]
        held = await platform.acquire(volume)
        await platform.mirrors.promote(ADMIN, held)
        platform.release(held)
        other = Driver(platform, b"the other client")
        for n in range(5):
            await other.write_file(f"/m{number}/promoted{n}", bytes([n]) * 1000 * n)
        for name in (await other.names(f"/m{number}"))[:2]:
            with contextlib.suppress(PlatformError):
                await other.unlink(f"/m{number}/{name}")
        own = await self.platform.acquire(number)
        await own.sync()
        home = await self.platform.catalog.mount_path(number)
        away = self.chances.random() < 0.5
        if away:
            await self.driver.write_file(f"{home}/discarded", b"d" * 5000)
            await own.sync()
        self.platform.release(own)
        await other.sync()
        self.platform.mirrors.connect = self.connect
        at = await self.platform.locate_name(home)
        link, schedule = Link(f"/volume{volume}", "grpc://west"), Schedule(every_ms=1000)
        try:
            for discard in (False, True):
                with contextlib.suppress(Conflict):
                    await self.platform.mirrors.create(
                        ADMIN, at, link, schedule, VolumeSettings(), discard=discard
                    )
                    break
        finally:
            self.platform.release(at.volume)
        for _ in range(60):
            await self.platform.mirrors.step(number)
            held = await self.platform.acquire(number)
            status = await self.platform.mirrors.status(held)
            self.platform.release(held)
            if status.state == "current":
                break
        async with (
            await LocalSource(self.platform, number).pin() as here,
            await LocalSource(platform, volume).pin() as there,
        ):
            assert here.commit == there.commit
            assert_equal(_without_log(await picture(here)), _without_log(await picture(there)))
        self.counts["failed back"] += 1
        await assert_clean(self.platform)


def _without_log(seen: Picture) -> Picture:
    return {key: value for key, value in seen.items() if key[:1] != b"C"}


class _Linked(Source):
    def __init__(self, walk: Mirrored, platform: Platform, number: int) -> None:
        self._walk = walk
        self._platform = platform
        self._number = number

    def _source(self) -> LocalSource:
        self._walk.call_over_link()
        platform = self._platform
        if self._platform.cluster == "local":
            platform = self._walk.platform  # which was started again meanwhile
        return LocalSource(platform, self._number)

    async def describe(self, commit_at_least: int = 0, wait_s: float = 0.0) -> Described:
        found = await self._source().describe()
        return _named(found, self._number)

    async def pin(self, commit_at_least: int = 0, wait_s: float = 0.0) -> Pin:
        pin = await self._source().pin()
        if pin.volume.id in self._walk.lines:
            self._walk.lines[pin.volume.id].acknowledge(pin.commit)
        self._walk.taken(self._number, pin, _without_log(await picture(pin)))
        return _LinkedPin(self._walk, pin, self._number)

    async def close(self) -> None:
        return


class _LinkedPin(Pin):
    def __init__(self, walk: Mirrored, pin: Pin, number: int) -> None:
        self.described = _named(pin.described, number)
        self._walk = walk
        self._pin = pin

    async def changed(self, *args: Any, **options: Any) -> list[bytes]:
        self._walk.call_over_link()
        return await self._pin.changed(*args, **options)

    async def values(self, *args: Any) -> list[bytes | None]:
        self._walk.call_over_link()
        return await self._pin.values(*args)

    async def scan(self, *args: Any, **options: Any) -> list[tuple[bytes, bytes]]:
        self._walk.call_over_link()
        return await self._pin.scan(*args, **{"limit": 7, **options})

    async def extents(self, *args: Any) -> list[bytes | memoryview]:
        self._walk.call_over_link()
        return await self._pin.extents(*args)

    async def close(self) -> None:
        await self._pin.close()


def _named(described: Described, number: int) -> Described:
    return replace(described, path=f"/volume{number}")


async def _run_many(seed: int, count: int, steps: int) -> Counter[str]:
    total: Counter[str] = Counter()
    kept = apply.ROWS_MAX, apply.CHANGES_MAX, copying.PART_BYTES
    try:
        for number in range(seed, seed + count):
            walk = await run(number, steps, Mirrored)
            total += walk.counts
    finally:
        apply.ROWS_MAX, apply.CHANGES_MAX, copying.PART_BYTES = kept
    return total


async def test_mirrors_are_commits_of_their_sources(seed: int) -> None:
    total = await _run_many(seed, SEEDS, STEPS)
    for what in ("round", "crash", "mirror's power cut", "link cut", "compared", "failed back"):
        assert total[what], f"the walk never came to: {what}"


# ---------------------------------------------------------------- planted bugs


def name_extents_before_they_are_synced(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Any) -> None:
        return

    patch.setattr(incoming.Incoming, "sync", nothing)


def forget_what_was_deleted(patch: pytest.MonkeyPatch) -> None:
    original = incoming.write

    async def write(unit: Any, rows: Any, coming: Any) -> None:
        await original(unit, {k: v for k, v in rows.items() if v is not None}, coming)

    patch.setattr(incoming, "write", write)


def leave_out_what_changed_while_it_was_copied(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Any, cursor: Any) -> None:
        return

    patch.setattr(copying.Copy, "_apply_changes", nothing)


@pytest.mark.parametrize(
    "plant",
    [
        name_extents_before_they_are_synced,
        forget_what_was_deleted,
        leave_out_what_changed_while_it_was_copied,
    ],
)
async def test_planted_bugs_are_found(
    plant: Callable[[pytest.MonkeyPatch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        await _run_many(seed, SEEDS_FOR_A_BUG, STEPS)
