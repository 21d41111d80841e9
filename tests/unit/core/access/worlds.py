"""A platform in memory for tests of rights, and principals of all sorts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dataplatform.base.errors import Denied
from dataplatform.core import namespace
from dataplatform.core.access.verbs import Verb
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Platform
from dataplatform.core.principals import Principal
from dataplatform.core.units import SYSTEM, Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.memory import MemoryStorages
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME, Kind

ANA = Principal("ana", uid=1000, gid=1000, gids=frozenset((1000, 50)), groups=frozenset(("eng",)))
BOB = Principal("bob", uid=1001, gid=1001, gids=frozenset((1001,)))
ANYBODY = Principal("anonymous")
ROOT = Principal("root", uid=0, gid=0, gids=frozenset((0,)), is_admin=True)


class World:
    """One platform; things are named by paths in its root volume."""

    def __init__(self, platform: Platform, volume: Volume) -> None:
        self.platform = platform
        self.volume = volume
        self.guard = platform.guard

    @classmethod
    async def make(cls) -> World:
        platform = await Platform.start(MemoryStorages())
        return cls(platform, await platform.acquire(ROOT_VOLUME))

    async def close(self) -> None:
        self.platform.release(self.volume)
        await self.platform.close()

    async def number(self, path: str) -> int:
        node = await self.platform.locate(path)
        self.platform.release(node.volume)
        return node.inode.number

    async def run(self, work: Callable[[Unit], Awaitable[Any]], who: Principal = ROOT) -> Any:
        return await self.volume.run(Request(who), work, durable=False)

    async def make_node(
        self,
        path: str,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        *,
        kind: Kind = Kind.FILE,
        access: dict[str, str] | None = None,
    ) -> int:
        above, _, name = path.rpartition("/")
        directory = await self.number(above) if above else ROOT_INODE

        async def work(unit: Unit) -> int:
            number = await namespace.create(unit, directory, name, Attributes(kind, mode, uid, gid))
            if access:
                inode = await unit.inode(number)
                inode.access = dict(access)
                unit.save(inode)
            return number

        number: int = await self.volume.run(SYSTEM, work, durable=False)
        return number

    async def may(self, who: Principal, path: str, verb: Verb) -> bool:
        return await self.guard.may(who, self.volume, await self.number(path), verb)

    async def refused(self, who: Principal, path: str, verb: Verb) -> Denied:
        with pytest.raises(Denied) as caught:
            await self.volume.allow(who, await self.number(path), verb)
        return caught.value


def in_world(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    """Run the test in a fresh world."""

    def run() -> None:
        async def go() -> None:
            world = await World.make()
            try:
                await test(world)
            finally:
                await world.close()

        asyncio.run(go())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run
