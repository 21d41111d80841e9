"""The seam of the load's parts, and their pace."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod

from dataplatform import aio


class Mismatch(Exception):
    """What was read is not what was written."""


def expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise Mismatch(f"{what}: {str(found)[:200]!r} instead of {str(expected)[:200]!r}")


class Part(ABC):
    """One kind of load. `step` is one operation, chosen by chance, and counts itself."""

    share: float
    """Of the rate of the whole load."""

    def __init__(self, dp: aio.Client, base: str, seed: int) -> None:
        self.dp = dp
        self.base = f"{base}/{type(self).__name__.lower()}"
        self.chance = random.Random(f"{seed} {type(self).__name__}")
        self.steps = 0

    async def begin(self) -> None:
        """Make what the steps work on."""
        await self.dp.mkdir(self.base, parents=True)

    @abstractmethod
    async def step(self) -> None: ...

    @abstractmethod
    async def finish(self) -> None:
        """Compare all that is there with the model, and let go of what is open."""

    async def run(self, rate: float, seconds: float) -> None:
        """Steps at `rate` per second. After a pause of the machine it does not catch up: the load
        is to be even."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        due = loop.time()
        while due < end:
            await self.step()
            self.steps += 1
            due = max(due + self.chance.expovariate(rate), loop.time() - 1.0)
            await asyncio.sleep(max(0.0, due - loop.time()))
