"""Rights on streams and consumer groups."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from dataplatform.base.errors import Denied
from dataplatform.core import groups, streams
from dataplatform.core.principals import Principal
from dataplatform.core.units import ASKED_AGAIN_S, Request, Unit
from dataplatform.keyspace.records import Kind
from tests.streaming import build_batch

from .worlds import ANA, ANYBODY, BOB, ROOT, World, in_world

ZOE = Principal("zoe", uid=1002)


class Stream:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.volume, self.number = world, world.volume, number

    @classmethod
    async def make(cls, world: World, access: dict[str, str], mode: int = 0o700) -> Stream:
        number = await world.make_node("/s", mode, kind=Kind.STREAM, access=access)
        stream = cls(world, number)
        await stream.append(ROOT, "a")
        return stream

    async def append(self, who: Principal, topic: str) -> None:
        part = streams.Part(topic, 0, build_batch([b"x"]))
        prepared = await streams.prepare(
            self.volume, [part], stream=self.number, request=Request(who)
        )
        await self.world.run(lambda u: streams.append(u, self.number, prepared), who)
        await self.volume.lane.durable()

    async def fetch(self, who: Principal, offset: int = 0, **options: Any) -> Any:
        position = streams.Position("a", 0, offset)
        return await streams.fetch(
            self.volume, self.number, [position], ask=lambda: Request(who), **options
        )

    async def topics(self, who: Principal) -> list[str]:
        found = await streams.topics(self.volume, self.number, request=Request(who))
        return [topic.name for topic in found]

    async def create_topic(self, who: Principal, name: str) -> Any:
        return await self.world.run(lambda u: streams.create_topic(u, self.number, name), who)

    async def set(self, **access: str) -> None:
        async def work(unit: Unit) -> None:
            inode = await unit.inode(self.number)
            inode.access = access
            unit.save(inode)

        await self.world.run(work)


async def denied(work: Awaitable[Any]) -> Denied:
    with pytest.raises(Denied) as caught:
        await work
    return caught.value


@in_world
async def test_modes_decide_where_no_expression_does(world: World) -> None:
    stream = await Stream.make(world, {}, mode=0o744)
    assert await stream.fetch(BOB)
    assert await stream.topics(BOB) == ["a"]
    await denied(stream.append(BOB, "a"))
    await denied(stream.create_topic(BOB, "b"))


@in_world
async def test_each_verb_is_its_own(world: World) -> None:
    stream = await Stream.make(
        world, {"produce": "u:ana", "consume": "u:bob", "topics": "u:zoe"}, mode=0o777
    )
    await stream.append(ANA, "a")
    await denied(stream.append(BOB, "a"))
    assert await stream.fetch(BOB)
    await denied(stream.fetch(ANA))
    await stream.create_topic(ZOE, "b")
    await denied(stream.create_topic(ANA, "c"))
    await denied(world.run(lambda u: streams.delete_topic(u, stream.number, "b"), ANA))
    for who in (ANA, BOB, ZOE):
        assert await stream.topics(who) == ["a", "b"]
    await denied(stream.topics(ANYBODY))
    await denied(world.run(lambda u: streams.init_producer(u, stream.number), BOB))
    await world.run(lambda u: streams.init_producer(u, stream.number), ANA)
    offsets = streams.offsets(stream.volume, stream.number, "a", -1, Request(ANA))
    await denied(offsets)


@in_world
async def test_a_topic_comes_with_its_first_record_unless_a_rule_is_about_that(
    world: World,
) -> None:
    stream = await Stream.make(world, {"produce": "u:ana"})
    await stream.append(ANA, "new")
    await stream.set(produce="u:ana", topics="u:zoe")
    await denied(stream.append(ANA, "newer"))
    await stream.append(ANA, "new")


@in_world
async def test_nothing_is_written_for_whom_may_not_append(world: World) -> None:
    stream = await Stream.make(world, {"produce": "u:ana"})
    part = streams.Part("a", 0, build_batch([b"x" * 200_000]))
    told: list[Any] = []
    world.guard.on_denied = told.append
    await denied(streams.prepare(world.volume, [part], stream=stream.number, request=Request(BOB)))
    assert len(told) == 1


@in_world
async def test_groups_need_consume(world: World) -> None:
    stream = await Stream.make(world, {"consume": "u:bob"})
    coordinator, number = world.volume.groups, stream.number
    joined = await coordinator.join(number, "g", "m", ["a"], request=Request(BOB))
    beat = coordinator.heartbeat
    await beat(number, "g", "m", joined.epoch, [], request=Request(BOB))
    await denied(beat(number, "g", "m", joined.epoch, [], request=Request(ANA)))
    await denied(coordinator.join(number, "g", "n", ["a"], request=Request(ANA)))
    commits = [groups.Commit("a", 0, 1)]
    await denied(world.run(lambda u: groups.commit_offsets(u, number, "x", commits), ANA))
    await world.run(lambda u: groups.commit_offsets(u, number, "x", commits), BOB)
    await denied(groups.describe(world.volume, number, request=Request(ANA)))
    assert await groups.describe(world.volume, number, request=Request(BOB))
    await denied(world.run(lambda u: groups.delete_group(u, number, "x"), ANA))
    await world.run(lambda u: groups.delete_group(u, number, "x"), BOB)
    await stream.set(consume="u:ana")
    await denied(beat(number, "g", "m", joined.epoch, [], request=Request(BOB)))


@in_world
async def test_a_fetch_that_waits_ends_when_the_right_is_withdrawn(world: World) -> None:
    stream = await Stream.make(world, {"consume": "u:bob"})
    waiting = asyncio.ensure_future(stream.fetch(BOB, offset=1, wait_s=60))
    await asyncio.sleep(0)
    await stream.set(consume="u:ana")
    await denied(asyncio.wait_for(waiting, 2 * ASKED_AGAIN_S + 1))


@in_world
async def test_a_fetch_that_waits_is_given_nothing_that_came_after_that(world: World) -> None:
    stream = await Stream.make(world, {"consume": "u:bob"})
    waiting = asyncio.ensure_future(stream.fetch(BOB, offset=1, wait_s=60))
    await asyncio.sleep(0)
    await stream.set(consume="u:ana")
    await stream.append(ROOT, "a")
    await denied(waiting)


@in_world
async def test_whoever_waits_is_asked_who_they_are(world: World) -> None:
    """A token that is revoked ends a fetch that waits."""
    stream = await Stream.make(world, {"consume": "p"})
    good = True

    def ask() -> Request:
        if not good:
            raise Denied("the token was revoked")
        return Request(BOB)

    position = streams.Position("a", 0, 1)
    waiting = asyncio.ensure_future(
        streams.fetch(stream.volume, stream.number, [position], wait_s=60, ask=ask)
    )
    await asyncio.sleep(0)
    good = False
    await denied(asyncio.wait_for(waiting, 2 * ASKED_AGAIN_S + 1))
