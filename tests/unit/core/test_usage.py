"""What df shows: a quota, or the disk below."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataplatform.core.usage import Usage, usage_of
from dataplatform.engine.base import Room
from dataplatform.keyspace.records import VolumeSettings
from tests.model.platform_driver import Place, at_work

GIB = 1 << 30


@pytest.mark.parametrize(
    ("quota", "room", "capacity", "available"),
    [
        (0, None, 0, 0),
        (0, Room(8 * GIB, GIB), 8 * GIB, GIB),
        (1000, None, 1000, 900),
        (1000, Room(8 * GIB, GIB), 1000, 900),
        (2 * GIB, Room(8 * GIB, GIB), 2 * GIB, GIB),
        (50, None, 50, 0),
    ],
)
async def test_usage(
    quota: int, room: Room | None, capacity: int, available: int, tmp_path: Path
) -> None:
    async with at_work(Place("memory", tmp_path)) as (driver, volume):
        await driver.write_file("/f", b"x" * 100)
        volume.settings = VolumeSettings(quota_bytes=quota)
        assert usage_of(volume, room) == Usage(100, 1, quota, capacity, available)


async def test_the_room_of_a_disk(tmp_path: Path) -> None:
    async with at_work(Place("rocks", tmp_path / "data")) as (driver, _):
        room = driver.platform.storages.room()
        found = os.statvfs(tmp_path)
        assert room is not None
        assert room.capacity_bytes == found.f_blocks * found.f_frsize
        assert 0 <= room.available_bytes <= found.f_bfree * found.f_frsize
    async with at_work(Place("memory", tmp_path)) as (driver, _):
        assert driver.platform.storages.room() is None
