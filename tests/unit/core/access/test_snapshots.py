"""Nobody gets through a snapshot at what they could not get at then, or cannot get at today."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from dataplatform.base.errors import Denied, NotFound
from dataplatform.core import namespace, tables
from dataplatform.core.access import settings
from dataplatform.core.access.verbs import REACH, Verb
from dataplatform.core.principals import Principal
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME, Kind

from .worlds import ANA, BOB, ROOT, World, in_world


class Then:
    """A snapshot of the world's root volume."""

    def __init__(self, world: World, volume: Volume) -> None:
        self.world, self.volume = world, volume

    @classmethod
    async def take(cls, world: World, name: str = "s") -> Then:
        taken = await world.platform.snapshots.create(Request(ROOT), world.volume, name)
        return cls(world, await world.platform.acquire(taken.number))

    def close(self) -> None:
        self.world.platform.release(self.volume)

    async def may(self, who: Principal, number: int, verb: Verb) -> bool:
        """By number, and the same by a path that leads there if there is one."""
        allowed = await self.world.guard.may(who, self.volume, number, verb)
        again = await self.world.guard.may(who, self.volume, number, verb)  # from memory
        assert again == allowed
        return allowed

    async def located(self, who: Principal, path: str) -> bool:
        try:
            node = await self.world.platform.locate(path, request=Request(who))
        except Denied:
            return False
        self.world.platform.release(node.volume)
        return True


async def change(world: World, number: int, **attributes: Any) -> None:
    await world.run(lambda unit: namespace.set_attributes(unit, number, **attributes))


async def rule(world: World, number: int, **wanted: str | None) -> None:
    await world.run(lambda unit: settings.set_rules(unit, number, wanted))


async def remove(world: World, directory: int, name: str) -> None:
    async def work(unit: Unit) -> None:
        await namespace.remove(unit, directory, name.encode(), directories=True, others=True)

    await world.run(work)


@in_world
async def test_modes_as_they_were_and_as_they_are(world: World) -> None:
    opened = await world.make_node("/opened", 0o600)
    shut = await world.make_node("/shut", 0o644)
    then = await Then.take(world)
    try:
        await change(world, opened, mode=0o644)
        await change(world, shut, mode=0o600)
        assert await world.may(ANA, "/opened", Verb.READ)
        assert not await then.may(ANA, opened, Verb.READ)
        assert not await then.may(ANA, shut, Verb.READ)
        assert await then.may(ROOT, shut, Verb.READ)
        await change(world, shut, mode=0o644)
        assert await then.may(ANA, shut, Verb.READ)
        await change(world, shut, uid=ANA.uid, mode=0o600)
        assert await then.may(ANA, shut, Verb.READ)
        assert not await then.may(BOB, shut, Verb.READ)
    finally:
        then.close()


@in_world
async def test_expressions_as_they_were_and_as_they_are(world: World) -> None:
    directory = await world.make_node("/d", 0o755, kind=Kind.DIRECTORY, access={"read": "u:ana"})
    file = await world.make_node("/d/f", 0o644)
    gone = await world.make_node("/d/gone", 0o644)
    then = await Then.take(world)
    try:
        for number in (file, gone):
            assert await then.may(ANA, number, Verb.READ)
            assert not await then.may(BOB, number, Verb.READ)
        await remove(world, directory, "gone")
        await rule(world, directory, read="u:ana | u:bob")
        for number in (file, gone):
            assert await then.may(ANA, number, Verb.READ)
            assert not await then.may(BOB, number, Verb.READ)
        await rule(world, directory, read="u:bob")
        for number in (file, gone):
            assert not await then.may(ANA, number, Verb.READ)
            assert not await then.may(BOB, number, Verb.READ)
        await rule(world, directory, read=None)
        assert await then.may(ANA, file, Verb.READ)
        await rule(world, ROOT_INODE, read="u:bob")
        assert not await then.may(ANA, file, Verb.READ)
        assert not await then.may(ANA, gone, Verb.READ)
    finally:
        then.close()


@in_world
async def test_the_way_there_has_to_let_pass_today(world: World) -> None:
    directory = await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    inner = await world.make_node("/d/inner", 0o755, kind=Kind.DIRECTORY)
    file = await world.make_node("/d/inner/f", 0o644)
    then = await Then.take(world)
    try:
        assert await then.located(ANA, "/.snapshot/s/d/inner/f")
        await change(world, directory, mode=0o700)
        for path in ("/.snapshot/s/d/inner/f", "/d/inner/.snapshot/s/f", "/d@s/inner/f"):
            assert not await then.located(ANA, path)
        assert not await then.may(ANA, file, REACH)
        await remove(world, inner, "f")
        await remove(world, directory, "inner")
        assert not await then.may(ANA, file, Verb.READ)  # the nearest one above that is there
        await remove(world, ROOT_INODE, "d")
        assert await then.may(ANA, file, Verb.READ)  # nothing of it is there today
        assert await then.located(ANA, "/.snapshot/s/d/inner/f")
        await rule(world, ROOT_INODE, execute="u:bob")
        assert not await then.may(ANA, file, Verb.READ)
        assert not await then.located(ANA, "/.snapshot/s/d/inner/f")
    finally:
        then.close()


@in_world
async def test_what_was_shut_then_stays_shut(world: World) -> None:
    directory = await world.make_node("/d", 0o700, kind=Kind.DIRECTORY)
    file = await world.make_node("/d/f", 0o644)
    then = await Then.take(world)
    try:
        await change(world, directory, mode=0o755)
        assert await world.may(ANA, "/d/f", Verb.READ)
        assert not await then.may(ANA, file, Verb.READ)
        assert not await then.located(ANA, "/d/.snapshot/s/f")
        assert await then.located(ANA, "/d/.snapshot/s")
    finally:
        then.close()


@in_world
async def test_a_token_for_a_subtree(world: World) -> None:
    directory = await world.make_node("/d", 0o755, kind=Kind.DIRECTORY)
    inside = await world.make_node("/d/f", 0o644)
    outside = await world.make_node("/f", 0o644)
    then = await Then.take(world)
    token = Principal("ana", uid=1000, roots=((ROOT_VOLUME, directory),))
    try:
        assert await then.may(token, inside, Verb.READ)
        assert not await then.may(token, outside, Verb.READ)
        assert await then.located(token, "/d/.snapshot/s/f")
        assert not await then.located(token, "/.snapshot/s/f")
        await world.run(lambda unit: namespace.rename(unit, directory, b"f", ROOT_INODE, "moved"))
        assert not await then.may(token, inside, Verb.READ)  # it is not there today
    finally:
        then.close()


@in_world
async def test_columns(world: World) -> None:
    pack = msgpack.packb
    number = await world.make_node("/t", 0o644, kind=Kind.TABLE, access={"read:owner": "u:bob"})
    await world.run(
        lambda unit: tables.put(unit, number, b"k", pack({"owner": "x", "km": 1, "vin": "v"}))
    )
    then = await Then.take(world)

    async def seen(who: Principal) -> set[str]:
        page = await tables.get_many(then.volume, number, [b"k"], (), Request(who))
        unpacker = msgpack.Unpacker()
        unpacker.feed(page)
        _, row = unpacker
        return set(row[2])

    try:
        assert await seen(ANA) == {"km", "vin"}
        assert await seen(BOB) == {"owner", "km", "vin"}
        await rule(world, number, **{"read:km": "u:ana"})
        assert await seen(ANA) == {"km", "vin"}
        assert await seen(BOB) == {"owner", "vin"}
        await rule(world, number, read="u:ana")
        assert await seen(BOB) == {"owner"}
        await remove(world, ROOT_INODE, "t")
        assert await seen(BOB) == {"owner", "km", "vin"}
    finally:
        then.close()


@in_world
async def test_who_may_take_one(world: World) -> None:
    for who in (ANA, BOB):
        with pytest.raises(Denied):
            await world.platform.snapshots.create(Request(who), world.volume, "s")
    await rule(world, ROOT_INODE, admin="u:ana")
    await world.platform.snapshots.create(Request(ANA), world.volume, "s")
    with pytest.raises(Denied):
        await world.platform.snapshots.remove(Request(BOB), world.volume, "s")
    await world.platform.snapshots.remove(Request(ANA), world.volume, "s")
    with pytest.raises(NotFound):
        await world.platform.snapshots.remove(Request(ANA), world.volume, "s")
