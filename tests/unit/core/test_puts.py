"""Puts that share a unit: the rows, versions, events and stored replies of separate ones."""

from __future__ import annotations

import asyncio
import random

import msgpack
import pytest

from dataplatform.base.errors import Conflict, Invalid, NotFound, PlatformError
from dataplatform.core import changes, namespace, tables
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Platform
from dataplatform.core.units import SYSTEM, Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.engine.memory import MemoryStorages
from dataplatform.keyspace.records import ROOT_VOLUME, Kind
from tests.checking import assert_clean
from tests.principals import admin

PUT = 50


class World:
    def __init__(self, platform: Platform, volume: Volume, table: int) -> None:
        self.platform, self.volume, self.table = platform, volume, table
        self.sequences: dict[int, int] = {}

    @classmethod
    async def make(cls) -> World:
        platform = await Platform.start(MemoryStorages())
        volume = await platform.acquire(ROOT_VOLUME)

        async def work(unit: Unit) -> int:
            return await namespace.create(unit, 1, "t", Attributes(Kind.TABLE))

        return cls(platform, volume, await volume.run(SYSTEM, work, durable=True))

    def request(self, slot: int, sequence: int | None = None, who: str = "ana") -> Request:
        if sequence is None:
            sequence = self.sequences[slot] = self.sequences.get(slot, 0) + 1
        return Request(admin(who), b"s" * 16, slot, sequence, PUT)

    def put(
        self, request: Request, key: bytes, columns: object, table: int | None = None
    ) -> asyncio.Future[int]:
        packed = columns if isinstance(columns, bytes) else msgpack.packb(columns)
        return self.volume.puts.put(request, table or self.table, key, packed)

    async def rows(self) -> dict[bytes, object]:
        page = await tables.scan(self.volume, self.table)
        objects = iter(msgpack.Unpacker(_stream(page.data), raw=False))
        return {key: columns for key, (_, _, columns) in zip(objects, objects, strict=True)}

    async def end(self) -> None:
        await assert_clean(self.platform)
        self.platform.release(self.volume)
        await self.platform.close()


def key_and_columns(key: bytes, columns: object) -> bytes:
    packed: bytes = msgpack.packb(key) + msgpack.packb(columns)
    return packed


def _stream(data: bytes):  # type: ignore[no-untyped-def]
    import io

    return io.BytesIO(data)


async def test_together_is_one_commit_with_an_event_each() -> None:
    world = await World.make()
    before = world.volume.state.commit
    versions = await asyncio.gather(
        *(world.put(world.request(n), b"k%d" % n, {"n": n}) for n in range(20))
    )
    assert set(versions) == {before + 1}
    assert world.volume.state.commit == before + 1
    assert await world.rows() == {b"k%d" % n: {"n": n} for n in range(20)}
    found, _ = await changes.read(world.volume, "/", before, 100, 0)
    events = [change.event for change in found]
    assert [event.verb for event in events] == ["row put"] * 20
    assert [event.facts["key"] for event in events] == [b"k%d" % n for n in range(20)]
    await world.end()


async def test_puts_of_one_row_follow_each_other() -> None:
    world = await World.make()
    versions = await asyncio.gather(
        world.put(world.request(1), b"k", {"a": 1, "b": 1}),
        world.put(world.request(2), b"k", {"b": 2}),
        world.put(world.request(3), b"other", {"a": 1}),
        world.put(world.request(4), b"k", {"c": 3}),
    )
    assert await world.rows() == {b"k": {"a": 1, "b": 2, "c": 3}, b"other": {"a": 1}}
    assert versions[0] == versions[2] < versions[1] < versions[3]  # each a version of its own
    await world.end()


async def test_the_same_key_twice_is_an_event_each() -> None:
    """The feed counts puts, whoever made one request of them: the server or a client."""
    world = await World.make()
    keys = [b"a", b"k", b"a", b"a", b"b", b"k"]
    before = world.volume.state.commit
    await asyncio.gather(
        *(world.put(world.request(n), key, {"n": n}) for n, key in enumerate(keys))
    )
    assert world.volume.state.commit == before + 4  # a k b, a, a, k
    travelled = b"".join(key_and_columns(key, {"n": 1}) for key in keys)

    async def work(unit: Unit) -> int:
        return await tables.put_many(unit, world.table, travelled, separate=True)

    await world.volume.run(SYSTEM, work, durable=True)
    found, _ = await changes.read(world.volume, "/", before, 100, 0)
    assert [change.event.verb for change in found] == ["row put"] * 2 * len(keys)
    assert [change.event.facts["key"] for change in found] == [bytes([n]) for n in b"akbaak"] + keys
    await world.end()


async def test_a_bad_put_hurts_only_itself() -> None:
    world = await World.make()
    calls = [
        world.put(world.request(1), b"good", {"a": 1}),
        world.put(world.request(2), b"", {"a": 1}),
        world.put(world.request(3), b"two", msgpack.packb({"a": 1}) + b"\xc4\x01x\x80"),
        world.put(world.request(4), b"text", msgpack.packb("no map")),
        world.put(world.request(5), b"good too", {"a": 2}),
    ]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(outcome, int) for outcome in found] == [True, False, False, False, True]
    assert all(isinstance(found[n], Invalid) for n in (1, 2, 3))
    assert found[1].facts["table"] == "/t"  # type: ignore[union-attr]
    assert await world.rows() == {b"good": {"a": 1}, b"good too": {"a": 2}}
    await world.end()


async def test_a_retry_among_others_changes_nothing() -> None:
    world = await World.make()
    first = await world.put(world.request(1), b"k", {"n": 1})
    again, other = await asyncio.gather(
        world.put(world.request(1, 1), b"k", {"n": 99}),
        world.put(world.request(2), b"other", {"n": 2}),
    )
    assert again == first
    assert other > first
    assert await world.rows() == {b"k": {"n": 1}, b"other": {"n": 2}}
    await world.end()


async def test_a_request_and_its_own_retry_at_once() -> None:
    world = await World.make()
    before = world.volume.state.commit
    found = await asyncio.gather(
        world.put(world.request(1, 1), b"k", {"n": 1}),
        world.put(world.request(1, 1), b"k", {"n": 1}),
        world.put(world.request(2), b"other", {"n": 2}),
    )
    assert found[0] == found[1]
    assert world.volume.state.commit == before + 1  # its retry found it done
    await world.end()


async def test_others_principals_and_tables_are_units_of_their_own() -> None:
    world = await World.make()
    found = await asyncio.gather(
        world.put(world.request(1), b"a", {"n": 1}),
        world.put(world.request(2, who="bob"), b"b", {"n": 1}),
        world.put(world.request(3), b"c", {"n": 1}, table=4711),
        return_exceptions=True,
    )
    assert found[0] != found[1]
    assert isinstance(found[2], NotFound)
    await world.end()


async def test_random_puts_beside_a_dict(seed: int) -> None:
    world = await World.make()
    rng = random.Random(seed)
    expected: dict[bytes, dict[str, int]] = {}

    async def client(slot: int) -> None:
        for n in range(30):
            key = b"%d %d" % (slot, rng.randrange(5))
            columns = {f"c{rng.randrange(3)}": n}
            request = world.request(slot)
            version = await world.put(request, key, columns)
            expected.setdefault(key, {}).update(columns)
            if rng.random() < 0.2:
                assert await world.put(request, key, {"never": 1}) == version
            if rng.random() < 0.1:
                with pytest.raises(PlatformError):
                    await world.put(world.request(slot), b"", columns)

    await asyncio.gather(*(client(slot) for slot in range(8)))
    assert await world.rows() == expected
    await world.end()


async def test_two_requests_of_a_slot_do_not_mix() -> None:
    world = await World.make()
    found = await asyncio.gather(
        world.put(world.request(1, 2), b"new", {"n": 2}),
        world.put(world.request(1, 1), b"old", {"n": 1}),
        return_exceptions=True,
    )
    assert isinstance(found[0], int)
    assert isinstance(found[1], PlatformError)
    assert not isinstance(found[1], Conflict)
    assert await world.rows() == {b"new": {"n": 2}}
    await world.end()
