"""Servers that mirror each other, in one process: what the tests of mirrors share.

A `World` holds platforms by name; the address of each is `grpc://NAME`. Links between them are cut
and mended by name. `follow` runs rounds until a mirror is what its source is.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dataplatform.base.clock import SeededEntropy
from dataplatform.base.errors import Unavailable
from dataplatform.core.platform import Platform
from dataplatform.core.replication.links import Link, Schedule
from dataplatform.core.replication.seam import Described, Pin, Source
from dataplatform.core.replication.source import LocalSource
from dataplatform.core.units import Request
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import VolumeSettings
from tests.model.platform_driver import Driver, Place
from tests.principals import admin
from tests.replicas import assert_same

ADMIN = Request(admin("ana"))
ROUNDS_MAX = 50


class World:
    """Servers by name."""

    def __init__(self, engine: str, path: Path, *names: str) -> None:
        self.places = {name: Place(engine, path / name) for name in names or ("east", "west")}
        self.platforms: dict[str, Platform] = {}
        self.cut: set[str] = set()
        self.wait_s = 0.0  # how long a listening mirror waits
        self.listened = 0
        self._drivers: dict[str, Driver] = {}

    async def open(self, name: str) -> Platform:
        place = self.places[name]
        place.opened += 1
        platform = self.platforms[name] = await Platform.start(
            await place.storages(),
            cluster=name,
            clock=place.clock,
            entropy=_entropy(name, place.opened),
        )
        platform.mirrors.connect = self.connect
        return platform

    async def connect(self, link: Link) -> Source:
        name = link.address.removeprefix("grpc://") or link.cluster
        if name in self.cut or name not in self.platforms:
            raise Unavailable("no server answers", address=link.address)
        source = LinkedSource(self, name, link.path)
        await source.local()
        return source

    def check(self, name: str) -> Platform:
        """UNAVAILABLE while the link is cut."""
        if name in self.cut or name not in self.platforms:
            raise Unavailable("the link is cut", to=name)
        return self.platforms[name]

    def driver(self, name: str) -> Driver:
        """One client of each server, also after the server was started again."""
        driver = self._drivers.get(name)
        if driver is None:
            session = name.encode().ljust(16, b".")
            driver = self._drivers[name] = Driver(self.platforms[name], session)
        if driver.platform is not self.platforms[name]:
            driver.reconnect(self.platforms[name])
        return driver

    async def close(self) -> None:
        for platform in self.platforms.values():
            await platform.close()

    async def reopen(self, name: str) -> Platform:
        await self.platforms[name].close()
        return await self.open(name)

    # ---- mirrors

    async def mirror(
        self, target: str, path: str, source: str, source_path: str, **options: Any
    ) -> int:
        platform = self.platforms[target]
        at = await platform.locate_name(path)
        settings = options.pop("settings", None) or VolumeSettings()
        schedule = options.pop("schedule", Schedule(every_ms=1000))
        try:
            return await platform.mirrors.create(
                ADMIN,
                at,
                Link(source_path, f"grpc://{source}"),
                schedule,
                settings,
                **options,
            )
        finally:
            platform.release(at.volume)

    async def follow(self, target: str, volume_id: int) -> None:
        """Rounds until it is what its source now is."""
        mirrors = self.platforms[target].mirrors
        for _ in range(ROUNDS_MAX):
            await mirrors.step(volume_id)
            async with self.volume(target, volume_id) as volume:
                status = await mirrors.status(volume)
            if status.state == "current":
                return
        raise AssertionError(f"it does not come to an end: {status}")

    @contextlib.asynccontextmanager
    async def volume(self, name: str, volume: int | str) -> AsyncIterator[Volume]:
        platform = self.platforms[name]
        if isinstance(volume, str):
            node = await platform.locate(volume)
            held = node.volume
        else:
            held = await platform.acquire(volume)
        try:
            yield held
        finally:
            platform.release(held)

    async def assert_mirrored(self, target: str, volume_id: int, source: str, path: str) -> None:
        """Byte for byte, with versions, offsets and counters."""
        async with self.volume(source, path) as volume:
            number = volume.id
        first = LocalSource(self.platforms[source], number)
        second = LocalSource(self.platforms[target], volume_id)
        async with await first.pin() as one, await second.pin() as other:
            await assert_same(one, other)


class LinkedSource(Source):
    """A source behind a link that can be cut: whatever is at its path."""

    def __init__(self, world: World, name: str, path: str) -> None:
        self._world = world
        self._name = name
        self._path = path

    async def local(self) -> LocalSource:
        platform = self._world.check(self._name)
        node = await platform.locate(self._path)
        platform.release(node.volume)
        return LocalSource(platform, node.volume.id)

    async def describe(self, commit_at_least: int = 0, wait_s: float = 0.0) -> Described:
        source = await self.local()
        if wait_s:
            self._world.listened += 1
        return await source.describe(commit_at_least, self._world.wait_s if wait_s else 0.0)

    async def pin(self, commit_at_least: int = 0, wait_s: float = 0.0) -> Pin:
        source = await self.local()
        return LinkedPin(self._world, self._name, await source.pin(commit_at_least))

    async def close(self) -> None:
        return


class LinkedPin(Pin):
    def __init__(self, world: World, name: str, pin: Pin) -> None:
        self.described = pin.described
        self._world = world
        self._name = name
        self._pin = pin

    async def changed(self, *args: Any, **options: Any) -> list[bytes]:
        self._world.check(self._name)
        return await self._pin.changed(*args, **options)

    async def values(self, *args: Any) -> list[bytes | None]:
        self._world.check(self._name)
        return await self._pin.values(*args)

    async def scan(self, *args: Any, **options: Any) -> list[tuple[bytes, bytes]]:
        self._world.check(self._name)
        return await self._pin.scan(*args, **options)

    async def extents(self, *args: Any) -> list[bytes | memoryview]:
        self._world.check(self._name)
        return await self._pin.extents(*args)

    async def close(self) -> None:
        await self._pin.close()


def _entropy(name: str, number: int) -> SeededEntropy:
    return SeededEntropy(sum(name.encode()) * 1000 + number)
