"""Who sees which events of the change feed."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from dataplatform.base.errors import Denied
from dataplatform.core import changes, namespace, tables
from dataplatform.core.principals import Principal
from dataplatform.core.units import ASKED_AGAIN_S, Request
from dataplatform.keyspace.records import ROOT_INODE, Kind

from .test_streams import Stream
from .worlds import ANA, BOB, ROOT, World, in_world

pack = msgpack.packb


async def seen(world: World, who: Principal) -> list[tuple[str, str]]:
    await world.volume.lane.durable()
    found, _ = await changes.read(world.volume, "/", 0, 0, 0, lambda: Request(who))
    return [(change.event.verb, change.event.path) for change in found]


async def put(world: World, table: int, columns: Any) -> None:
    await world.run(lambda u: tables.put(u, table, b"k", pack(columns)))


@in_world
async def test_names_are_seen_by_who_may_list_their_directory(world: World) -> None:
    await world.make_node("/d", 0o700, 1001, kind=Kind.DIRECTORY)
    await world.make_node("/d/f", 0o644)
    assert await seen(world, BOB) == [("created", "/d"), ("created", "/d/f")]
    assert await seen(world, ANA) == [("created", "/d")]


@in_world
async def test_rows_are_seen_by_who_may_read_the_table(world: World) -> None:
    table = await world.make_node("/t", 0o777, kind=Kind.TABLE, access={"read": "u:ana"})
    await put(world, table, {"a": 1})
    assert ("row put", "/t") in await seen(world, ANA)
    assert ("row put", "/t") not in await seen(world, BOB)


@in_world
async def test_records_are_seen_by_who_may_consume(world: World) -> None:
    await Stream.make(world, {"consume": "u:ana"}, mode=0o777)
    assert ("records appended", "/s") in await seen(world, ANA)
    assert await seen(world, BOB) == [("created", "/s")]


@in_world
async def test_columns_that_may_not_be_read_are_not_named(world: World) -> None:
    access = {"read": "p", "read:owner": "u:ana"}
    table = await world.make_node("/t", 0o777, kind=Kind.TABLE, access=access)
    await put(world, table, {"a": 1, "owner": 1})
    await world.run(lambda u: tables.increment(u, table, b"k", "owner", 1))
    await world.run(lambda u: tables.delete(u, table, b"k", ["a", "owner"]))
    await world.volume.lane.durable()
    found, _ = await changes.read(world.volume, "/t", 0, 0, 0, lambda: Request(BOB))
    assert [change.event.verb for change in found] == ["created", "row put", "columns deleted"]
    assert found[-1].event.facts["columns"] == ["a"]
    assert ("row incremented", "/t") in await seen(world, ANA)


@in_world
async def test_what_is_gone_is_not_judged_by_what_came_after(world: World) -> None:
    table = await world.make_node("/t", 0o777, kind=Kind.TABLE, access={"read": "u:ana"})
    await put(world, table, {"a": 1})
    await world.run(lambda u: namespace.remove(u, ROOT_INODE, b"t"))
    assert ("row put", "/t") not in await seen(world, BOB)
    await world.make_node("/t", 0o777, kind=Kind.TABLE, access={"read": "p"})
    assert ("row put", "/t") not in await seen(world, BOB)
    assert ("row put", "/t") in await seen(world, ROOT)


@in_world
async def test_where_something_came_from_is_seen_by_who_may_list_that(world: World) -> None:
    directory = await world.make_node("/d", 0o700, 1001, kind=Kind.DIRECTORY)
    await world.make_node("/d/f", 0o644)
    await world.run(lambda u: namespace.rename(u, directory, b"f", ROOT_INODE, "f"))
    await world.volume.lane.durable()
    for who, is_told in ((BOB, True), (ANA, False)):
        found, _ = await changes.read(world.volume, "/", 0, 0, 0, lambda who=who: Request(who))
        assert found[-1].event.path == "/f"
        assert ("from" in found[-1].event.facts) == is_told


@in_world
async def test_who_follows_is_asked_again(world: World) -> None:
    good = True

    def ask() -> Request:
        if not good:
            raise Denied("the token was revoked")
        return Request(BOB)

    await world.volume.lane.durable()
    _, at = await changes.read(world.volume, "/", 0, 0, 0)
    waiting = asyncio.ensure_future(changes.read(world.volume, "/", at, 0, 60, ask))
    await asyncio.sleep(0)
    good = False
    with pytest.raises(Denied):
        await asyncio.wait_for(waiting, 2 * ASKED_AGAIN_S + 1)
