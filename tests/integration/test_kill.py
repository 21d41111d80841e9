"""The server is killed with SIGKILL at random under a mixed load of all three kinds.

Nothing acknowledged as durable is lost, no transaction is half there, offsets have no gap and no
duplicate, versions do not go back, and the check finds nothing.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from .load import MixedLoad
from .servers import ServerProcess

ROUNDS = 20
ROUNDS_LONG = 100
STEPS = (60, 60, 600)
"""Operations before a kill, at most: mostly few, so that clients are still at their retries."""


async def campaign(directory: Path, engine: str, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    server = ServerProcess(directory, engine)
    await asyncio.to_thread(server.start)
    load = MixedLoad(server.address, seed)
    try:
        await load.start()
        for _ in range(rounds):
            await load.progress(rng.randrange(1, rng.choice(STEPS)))
            server.kill()
            await asyncio.to_thread(server.start)
            await load.look()
        await load.progress(20)
        await load.stop()
        await load.verify()
        server.kill()  # what is acknowledged is there without a clean end, too
        await asyncio.to_thread(server.start)
        await load.verify()
        await load.close()
        print(f"{engine}: {rounds + 1} kills, {load.steps} operations")  # noqa: T201  with -rA
    finally:
        server.stop()
    checked = server.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.allow_warnings
@pytest.mark.parametrize("engine", ["rocks", "slate"])
async def test_kill_under_load(tmp_path: Path, engine: str, seed: int) -> None:
    await campaign(tmp_path, engine, seed, ROUNDS)


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.allow_warnings
@pytest.mark.parametrize("engine", ["rocks", "slate"])
async def test_kill_under_load_long(tmp_path: Path, engine: str, seed: int) -> None:
    await campaign(tmp_path, engine, seed, ROUNDS_LONG)
