"""Request ids: a retry gets the old reply and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Denied, Invalid, Stale
from dataplatform.base.limits import SLOTS_MAX
from dataplatform.core import namespace
from dataplatform.core.namespace import Attributes
from dataplatform.core.principals import Principal
from dataplatform.core.replies import SESSION_AGE_NS, SESSIONS_CACHED_MAX
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME, Kind
from tests.model.platform_driver import Place, at_work
from tests.principals import admin

SESSION = b"0123456789abcdef"


async def create(volume: Volume, request: Request, name: str) -> int:
    async def work(unit: Unit) -> int:
        return await namespace.create(unit, ROOT_INODE, name, Attributes(Kind.FILE))

    return await volume.run(request, work, durable=False)


def request(sequence: int, slot: int = 0, session: bytes = SESSION) -> Request:
    return Request(admin("ana"), session, slot, sequence)


async def test_a_retry_gets_the_old_reply(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        first = await create(volume, request(1), "a")
        assert await create(volume, request(1), "a") == first
        assert await create(volume, request(1), "whatever") == first
        assert await create(volume, request(2), "b") != first
        assert await driver.names("/") == ["a", "b"]


async def test_a_late_request_is_refused(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await create(volume, request(5), "a")
        with pytest.raises(Stale):
            await create(volume, request(4), "b")
        await create(volume, request(4, slot=1), "c")
        assert await driver.names("/") == ["a", "c"]


async def test_slots_and_sessions_are_apart(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (_, volume):
        other = b"f" * 16
        made = {
            await create(volume, request(1, 0), "a"),
            await create(volume, request(1, 1), "b"),
            await create(volume, request(1, 0, other), "c"),
        }
        assert len(made) == 3


@pytest.mark.parametrize(
    "bad", [Request(admin("x"), b"short", 0, 1), Request(admin("x"), SESSION, SLOTS_MAX, 1)]
)
async def test_a_bad_request_id_is_refused(bad: Request, tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        with pytest.raises(Invalid):
            await create(volume, bad, "a")
        await create(volume, request(1), "b")
        with pytest.raises(Invalid):
            await create(volume, Request(admin("x"), SESSION, SLOTS_MAX, 1), "c")
        assert await driver.names("/") == ["b"]


async def test_a_failed_request_may_be_tried_again(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.create("/a")
        with pytest.raises(FileExistsError):
            await create(volume, request(1), "a")
        await driver.unlink("/a")
        await create(volume, request(1), "a")


async def test_replies_survive_a_restart(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (_, volume):
        first = await create(volume, request(1), "a")
    async with at_work(place) as (driver, volume):
        assert await create(volume, request(1), "a") == first
        await driver.unlink("/a")
        assert await create(volume, request(1), "a") == first
        assert await driver.names("/") == []


async def test_what_a_crash_took_back_is_done_again(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    platform = await place.open()
    volume = await platform.acquire(ROOT_VOLUME)
    await create(volume, request(1), "a")  # not durable
    await place.crash()
    async with at_work(place) as (driver, volume):
        assert await driver.names("/") == []
        await create(volume, request(1), "a")
        assert await driver.names("/") == ["a"]


async def test_many_sessions_do_not_fill_the_memory(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (_, volume):
        made = [
            await create(volume, request(1, 0, number.to_bytes(16, "big")), f"f{number}")
            for number in range(SESSIONS_CACHED_MAX + 10)
        ]
        assert len(volume.replies._sessions) == SESSIONS_CACHED_MAX
        assert await create(volume, request(1, 0, (0).to_bytes(16, "big")), "f0") == made[0]


async def test_old_replies_are_swept(tmp_path: Path) -> None:
    place = Place("memory", tmp_path)
    async with at_work(place) as (_, volume):
        await create(volume, request(1), "a")
        place.clock.advance(SESSION_AGE_NS / 1e9 - 1)
        await create(volume, request(1, 1), "b")
        assert await volume.replies.run_once(volume) == 0
        place.clock.advance(2)
        assert await volume.replies.run_once(volume) == 1
        assert await volume.replies.run_once(volume) == 0
        with pytest.raises(FileExistsError):
            await create(volume, request(1), "a")  # no longer known
        kept: Any = await create(volume, request(1, 1), "b")
        assert kept


async def test_an_id_that_somebody_overheard_is_worth_nothing(tmp_path: Path) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        ana = Principal("ana", is_admin=True)
        limited = Principal("ana", is_admin=True, is_read_only=True, scope="read-only")
        first = await create(volume, Request(ana, SESSION, 0, 1), "a")
        for other in (Principal("bob", is_admin=True), limited):
            for sequence in (1, 2):  # neither the reply, nor the next number of the slot
                with pytest.raises(Denied, match="somebody else"):
                    await create(volume, Request(other, SESSION, 0, sequence), "b")
        renewed = Principal("ana", is_admin=True, token="another")
        assert await create(volume, Request(renewed, SESSION, 0, 1), "a") == first
        assert await driver.names("/") == ["a"]
