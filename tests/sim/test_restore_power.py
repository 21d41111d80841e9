"""The power goes at every point of cloning and of restoring: afterwards it was done, or was not."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from dataplatform.base.errors import PlatformError
from dataplatform.core import orphans
from dataplatform.core.volumes import LEASE_S
from dataplatform.engine.wrappers import Faults
from tests.model.platform_driver import Driver, Place, assert_clean

from .power import READS, PowerCut

T = TypeVar("T")

PART = 64 << 10

pytestmark = pytest.mark.allow_warnings


class Switch(Faults):
    """Counts operations that change something, and cuts the power at the `cut_at`-th."""

    def __init__(self, place: Place, rng: random.Random) -> None:
        super().__init__(rng)
        self._place = place
        self._rng_ = rng
        self.cut_at = 0
        self.points = 0
        self.is_off = False

    async def around(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        self._check(operation)
        result = await super().around(operation, call)
        self._check(operation)
        return result

    def _check(self, operation: str) -> None:
        if self.is_off:
            raise PowerCut
        if self.cut_at and operation not in READS:
            self.points += 1
            if self.points >= self.cut_at:
                self.is_off = True
                self._place.memory.crash(self._rng_)
                raise PowerCut


async def begin(place: Place) -> tuple[Driver, int]:
    driver = Driver(await place.open())
    number = await driver.create_volume("/a")
    await driver.write_file("/a/f", b"before")
    await driver.write_file("/a/large", b"x" * PART)
    await driver.take_snapshot("/a", "one")
    await driver.unlink("/a/large")
    await driver.write_file("/a/f", b"after!")
    await driver.write_file("/a/later", b"y" * PART)
    await driver.take_snapshot("/a", "two")
    await driver.sync()
    return driver, number


async def run(
    tmp_path: Path,
    seed: int,
    work: Callable[[Driver, int], Awaitable[object]],
    prepare: Callable[[Driver], Awaitable[object]] | None = None,
) -> list[tuple[Driver, Place, bool]]:
    """Every state that a power cut leaves, one after the other."""
    states = []
    cut_at, done = 1, False
    while not done:
        place = Place("memory", tmp_path)
        place.faults = switch = Switch(place, random.Random(seed * 1000 + cut_at))
        driver, number = await begin(place)
        if prepare is not None:
            await prepare(driver)
        switch.cut_at = cut_at
        try:
            await work(driver, number)
            done = True
            switch.cut_at = 0
            await driver.platform.close()
        except (PowerCut, PlatformError):
            assert switch.is_off
            with contextlib.suppress(PowerCut, PlatformError):
                await driver.platform.close()
            await place.crash()
        place.faults = Faults()
        driver.reconnect(await place.open())
        states.append((driver, place, done))
        cut_at += 1
    return states


async def test_restoring(tmp_path: Path, seed: int) -> None:
    seen = set()
    for driver, _, done in await run(tmp_path, seed, lambda d, n: d.restore(n, "one")):
        names = tuple(await driver.names("/a"))
        seen.add(names)
        if done or names == ("f", "large"):
            assert names == ("f", "large")
            assert await driver.read("/a/f") == b"before"
            assert await driver.read("/a/large") == b"x" * PART
        else:
            assert names == ("f", "later")
            assert await driver.read("/a/f") == b"after!"
        await assert_clean(driver.platform)
        (number,) = await driver.send_again()
        assert await driver.names("/a") == ["f", "large"]
        await driver.restore(number, "two")
        assert await driver.read("/a/later") == b"y" * PART
        assert len(await driver.platform.storages.volumes()) == 2
        await assert_clean(driver.platform)
        await driver.platform.close()
    assert len(seen) == 2


async def test_cloning(tmp_path: Path, seed: int) -> None:
    seen = set()
    for driver, _, done in await run(tmp_path, seed, lambda d, n: d.clone("/a", "one", "/b")):
        names = tuple(await driver.names("/"))
        seen.add(names)
        if done or "b" in names:
            assert await driver.read("/b/large") == b"x" * PART
        else:
            assert len(await driver.platform.storages.volumes()) == 2
        await assert_clean(driver.platform)
        await driver.send_again()
        assert await driver.read("/b/f") == b"before"
        await driver.remove_snapshot("/a", "one")
        await assert_clean(driver.platform)
        await driver.platform.close()
    assert len(seen) == 2


async def swept(driver: Driver, place: Place) -> list[str]:
    """What is in /a once all has gone that goes by itself."""
    place.clock.advance(LEASE_S + 1)
    async with driver.node("/a") as node:
        await orphans.run_once(node.volume)
    await assert_clean(driver.platform)
    return await driver.names("/a")


async def test_restoring_a_path(tmp_path: Path, seed: int) -> None:
    seen = set()
    for driver, place, done in await run(
        tmp_path, seed, lambda d, _: d.restore_path("/a/large", "one")
    ):
        names = tuple(name for name in await driver.names("/a") if not name.startswith("."))
        seen.add(names)
        assert names == ("f", "large", "later") or (not done and names == ("f", "later"))
        await assert_clean(driver.platform)
        assert await swept(driver, place) == list(names)
        await driver.send_again()
        assert await driver.read("/a/large") == b"x" * PART
        assert await swept(driver, place) == ["f", "large", "later"]
        await driver.platform.close()
    assert len(seen) == 2


async def test_promoting(tmp_path: Path, seed: int) -> None:
    async def work(driver: Driver, number: int) -> None:
        await driver.promote("/b/f")

    async def prepare(driver: Driver) -> None:
        await driver.clone("/a", "two", "/b")
        await driver.write_file("/b/f", b"better" * 1000)
        await driver.sync()

    seen = set()
    for driver, place, done in await run(tmp_path, seed, work, prepare):
        data = await driver.read("/a/f")
        seen.add(data)
        assert data == b"better" * 1000 or (not done and data == b"after!")
        await driver.send_again()
        assert await driver.read("/a/f") == b"better" * 1000
        assert await swept(driver, place) == ["f", "later"]
        await driver.platform.close()
    assert len(seen) == 2
