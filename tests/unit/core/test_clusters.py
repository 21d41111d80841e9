"""Known clusters: who may change them, what names and identities exclude, what is kept secret."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Denied, Exists, Invalid, NotFound
from dataplatform.base.masterkeys import master_key
from dataplatform.core import namespace
from dataplatform.core.clusters import SLOT_SHIFT, Asked
from dataplatform.core.keys import LocalMaster, Masters
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Platform
from dataplatform.core.principals import Principal
from dataplatform.core.units import SYSTEM, Request, Unit
from dataplatform.engine.base import scan_all
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME, Kind
from tests.checking import assert_clean
from tests.principals import admin

EAST = Asked("east", b"e" * 16, may_speak=True, grpc_port=7223)
WEST = Asked("west", b"w" * 16)
TOKEN = "secret.token.of-east"


def masters(number: int) -> Masters:
    entropy = SeededEntropy(number)
    return Masters(lambda: [LocalMaster(master_key(entropy.token(32)), entropy)], entropy)


@contextlib.asynccontextmanager
async def platform(
    disk: MemoryDisk | None = None, keeping: Masters | None = None
) -> AsyncIterator[Platform]:
    made = await Platform.start(
        MemoryStorages(disk),
        cluster="home",
        clock=ManualClock(),
        entropy=SeededEntropy(1),
        masters=keeping,
    )
    try:
        yield made
        await assert_clean(made)
    finally:
        await made.close()


async def make_directory(p: Platform, name: str) -> int:
    root = await p.acquire(ROOT_VOLUME)

    async def work(unit: Unit) -> int:
        return await namespace.create(unit, ROOT_INODE, name, Attributes(Kind.DIRECTORY))

    try:
        return await root.run(SYSTEM, work, durable=False)
    finally:
        p.release(root)


async def stored(p: Platform) -> bytes:
    root = await p.acquire(ROOT_VOLUME)
    try:
        pairs = [pair async for pair in scan_all(root.storage.engine, b"\x00", b"\xff")]
    finally:
        p.release(root)
    return b"".join(key + value for key, value in pairs)


async def test_known_after_a_restart_and_by_their_slots() -> None:
    disk = MemoryDisk()
    async with platform(disk) as p:
        assert not p.clusters
        await p.clusters.add(SYSTEM, "east", "dps://e:7222", token=TOKEN, asked=EAST)
        await p.clusters.add(SYSTEM, "west", "dp://w:7222", asked=WEST)
        assert p.clusters
    async with platform(disk) as p:
        assert p.clusters.names == ["east", "west"]
        access = await p.clusters.access("east")
        assert (access.token, access.identity, access.grpc_port) == (TOKEN, b"e" * 16, 7223)
        assert TOKEN not in repr(access)
        assert TOKEN not in repr(p.clusters.get("east"))
        slot = p.clusters.get("east").slot
        assert p.clusters.of_volume(slot << SLOT_SHIFT | 7) == "east"
        assert p.clusters.of_volume(7) is None
        await p.clusters.remove(SYSTEM, "west")
        await p.clusters.remove(SYSTEM, "east")
        with pytest.raises(NotFound):
            p.clusters.get("east")
        assert p.clusters.of_volume(slot << SLOT_SHIFT | 7) is None
        await p.clusters.add(SYSTEM, "east", "dps://e:7222", asked=EAST)
        assert p.clusters.get("east").slot == 3, "a slot is never used again"


async def test_only_administrators_change_and_see_them() -> None:
    limited = Principal("root", is_admin=True, is_read_only=True)
    async with platform() as p:
        for request in (Request(Principal("ana", uid=1000)), Request(limited)):
            with pytest.raises(Denied):
                await p.clusters.add(request, "east", "dp://e:7222", asked=EAST)
            with pytest.raises(Denied):
                await p.clusters.remove(request, "east")
        with pytest.raises(Denied):
            p.clusters.all(Principal("ana", uid=1000))
        assert p.clusters.all(limited) == []


async def test_names_exclude_each_other() -> None:
    async with platform() as p:
        await make_directory(p, "east")
        with pytest.raises(Exists, match="/east"):
            await p.clusters.add(SYSTEM, "east", "dp://e:7222", asked=EAST)
        await p.clusters.add(SYSTEM, "west", "dp://w:7222", asked=WEST)
        for name in ("west", "home"):
            with pytest.raises(Exists, match="name of a cluster"):
                await make_directory(p, name)
        with pytest.raises(Exists, match="known already"):
            await p.clusters.add(SYSTEM, "west", "dp://w:7222", asked=WEST)
        for name in ("home", "a/b", ""):
            with pytest.raises(Invalid):
                await p.clusters.add(SYSTEM, name, "dp://w:7222")


async def test_who_answers_is_looked_at() -> None:
    async with platform() as p:
        with pytest.raises(Invalid, match="another cluster answers"):
            await p.clusters.add(SYSTEM, "east", "dp://w:7222", asked=WEST)
        own = Asked("east", p.identity)
        with pytest.raises(Invalid, match="this cluster itself"):
            await p.clusters.add(SYSTEM, "east", "dp://w:7222", asked=own)
        await p.clusters.add(SYSTEM, "east", "dp://e:7222")
        await p.clusters.learn("east", EAST)
        assert p.clusters.get("east").identity == EAST.identity
        for other in (EAST._replace(identity=b"f" * 16), EAST._replace(cluster="eats")):
            with pytest.raises(Denied):
                await p.clusters.learn("east", other)
        with pytest.raises(Invalid, match="known by another name"):
            await p.clusters.add(
                SYSTEM, "west", "dp://w:7222", asked=WEST._replace(identity=EAST.identity)
            )


async def test_who_may_use_one() -> None:
    ana, eve = Principal("ana", groups=frozenset(("eng",))), Principal("eve")
    inmate = Principal("ana", groups=frozenset(("eng",)), roots=((1, 5),))
    async with platform() as p:
        await p.clusters.add(SYSTEM, "east", "dp://e:7222", token=TOKEN, asked=EAST)
        mute = EAST._replace(may_speak=False, cluster="south", identity=b"s" * 16)
        await p.clusters.add(SYSTEM, "south", "dp://s:7222", token=TOKEN, asked=mute)
        may = p.clusters.may_use
        assert may("east", ana)
        assert not may("east", inmate)
        assert not may("south", ana), "everybody would be the token's user there"
        assert may("south", admin("root"))
        await p.clusters.set(SYSTEM, "south", access="g:eng")
        assert may("south", ana)
        assert not may("south", eve)


async def test_a_token_is_protected_and_follows_the_master_key() -> None:
    keeping = masters(1)
    async with platform(keeping=keeping) as p:
        await p.clusters.add(SYSTEM, "east", "dp://e:7222", token=TOKEN, asked=EAST)
        assert TOKEN.encode() not in await stored(p)
        old = p.clusters.get("east").token
        keeping._masters.insert(0, masters(2)._masters[0])
        assert sum([await rewrap() for rewrap in keeping.rewrapping]) == 1
        assert p.clusters.get("east").token != old
        del keeping._masters[1]
        assert (await p.clusters.access("east")).token == TOKEN
