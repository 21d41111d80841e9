"""Quotas that are small: several clients at once, each seed another walk.

Whatever they do, no limit is passed, what a quota counts is what is there, and what is refused has
no room. A failing seed is named; `--seed N` begins there.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import msgpack
import pytest

from dataplatform.base.errors import Exhausted, PlatformError
from dataplatform.core import tables
from dataplatform.core.volumes import Volume

from .accounts import assert_accounts
from .platform_driver import Driver, Place, at_work

SEEDS = 30
ROUNDS = 25
CLIENTS = 4
DIRECTORIES = ("/a", "/a/b", "/c", "/c/d", "/e")
NAMES = [f"{directory}/{name}" for directory in DIRECTORIES for name in "fgh"]
BYTES, ENTRIES = 20_000, 9


async def test_small_quotas_are_kept(seed: int, tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for number in range(seed, seed + SEEDS):
        try:
            await _walk(random.Random(number), tmp_path / str(number), counts)
        except AssertionError as error:
            raise AssertionError(f"seed {number}: {error}") from error
    for what in ("write", "put", "append", "row", "rename", "remove", "link"):
        assert counts[what], f"never done: {what}"
        if what not in ("remove", "link"):
            assert counts[f"{what} refused"], f"never refused: {what}"


async def _walk(rng: random.Random, path: Path, counts: Counter[str]) -> None:
    async with at_work(Place("memory", path)) as (driver, volume):
        for directory in DIRECTORIES:
            await driver.mkdir(directory)
        for directory in ("/a", "/a/b", "/c"):
            await driver.set_quota(directory, quota_bytes=BYTES, quota_entries=ENTRIES)
        await driver.table("/a/b/t")
        clients = [Driver(driver.platform, b"client number %2d" % n) for n in range(CLIENTS)]
        for _ in range(ROUNDS):
            await asyncio.gather(*(_act(client, rng, counts) for client in clients))
            _assert_kept(volume)
            if rng.random() < 0.3:
                await volume.writeback.flush_all()
                _assert_kept(volume)
                await assert_accounts(volume)
                await _assert_refused_rightly(driver, volume)
                _assert_kept(volume)


async def _act(client: Driver, rng: random.Random, counts: Counter[str]) -> None:
    how = rng.choice(["write", "write", "put", "append", "row", "rename", "remove", "link", "cut"])
    path, other = rng.choice(NAMES), rng.choice(NAMES)
    data = bytes(rng.choice([100, 3000, 9000]))
    try:
        if how == "write":
            await client.write(path, rng.choice([0, 2000, 8000]), data)
        elif how == "put":
            await client.write_file(path, data)
        elif how == "append":
            await client.append(path, data)
        elif how == "row":
            key, row = b"%d" % rng.randrange(9), msgpack.packb({"a": data[:3000]})
            await client.unit("/a/b/t", lambda u, n: tables.put(u, n, key, row), durable=False)
        elif how == "rename":
            path, other = rng.choice([(path, other), ("/c/d", "/e/d"), ("/e/d", "/a/d")])
            await client.rename(path, other)
        elif how == "remove":
            await client.unlink(path)
        elif how == "link":
            await client.link(path, f"/e/{rng.randrange(3)}")
        else:
            await client.truncate(path, 1000)
        counts[how] += 1
    except Exhausted:
        counts[f"{how} refused"] += 1
    except PlatformError:
        pass  # nothing there, or in the way


def _assert_kept(volume: Volume) -> None:
    """Links lie outside of all quotas, so nothing comes back from there unasked."""
    for number, quota in volume.quotas.directories.items():
        assert quota.entries <= quota.quota_entries, f"{number}: {quota}"
        assert quota.used_bytes <= quota.quota_bytes, f"{number}: {quota}"
        held = volume.quotas.held_bytes(number)
        assert quota.used_bytes + held <= quota.quota_bytes, f"{number}: {quota}, {held} held"


async def _assert_refused_rightly(driver: Driver, volume: Volume) -> None:
    """With nothing under way: to the byte."""
    inode = await driver.stat("/a/b")
    chain = await volume.quotas.chain(inode.number)
    left = min(
        quota.quota_bytes - quota.used_bytes
        for quota in (volume.quotas.directories[n] for n in chain if n)
    )
    entries = min(
        quota.quota_entries - quota.entries
        for quota in (volume.quotas.directories[n] for n in chain if n)
    )
    if not entries:
        with pytest.raises(Exhausted, match="entries"):
            await driver.create("/a/b/new")
        return
    await driver.write_file("/a/b/new", bytes(left))
    with pytest.raises(Exhausted):
        await driver.append("/a/b/new", b"1")
    await driver.unlink("/a/b/new")
