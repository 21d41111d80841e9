"""The power switch: storages whose every operation is a point at which the power may be cut.

A point lies before and behind each operation of the engine, of its syncs and of the segments, so
also between a segment's append, its sync, the commit that names it and that commit's sync. At each
point other tasks may get a turn, as on an engine that really waits: the seed says whether.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dataplatform.base.errors import Exhausted
from dataplatform.engine.memory import MemoryStorages
from dataplatform.engine.wrappers import Faults

T = TypeVar("T")

READS = frozenset({"get", "get_many", "scan", "view", "read", "sizes"})
WRITES = ("commit", "sync", "append", "segment_sync")


class PowerCut(BaseException):
    """The process is gone."""


class Power(Faults):
    """On until the `cut_at`-th point; at the `fail_at`-th, a write fails as on a full disk."""

    def __init__(
        self, rng: random.Random, storages: MemoryStorages, cut_at: int, fail_at: int | None
    ) -> None:
        super().__init__(rng)
        self.rng = rng
        self.cut_at = cut_at
        self.fail_at = fail_at
        self.points = 0
        self.failed = False
        self.off = asyncio.Event()
        self.where = ""
        self._storages = storages

    async def around(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        if operation in READS:
            await self._turn()
            result = await super().around(operation, call)
            await self._turn()  # what was read may be old by the time it is looked at
            return result
        await self._point(f"before {operation}")
        if self.fail_at is not None and self.points >= self.fail_at and operation in WRITES:
            self.fail_at, self.failed = None, True
            if self.rng.random() < 0.5:
                await super().around(operation, call)  # done all the same, as it may be
            raise Exhausted("disk is full", operation=operation)
        result = await super().around(operation, call)
        await self._point(f"after {operation}")
        return result

    async def _turn(self) -> None:
        """At a read, sometimes, others get a turn."""
        self._check()
        if self.rng.random() < 0.05:
            for _ in range(self.rng.randrange(1, 8)):
                await asyncio.sleep(0)
            self._check()

    async def _point(self, where: str) -> None:
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        self._check()
        self.points += 1
        if self.points >= self.cut_at:
            self.cut(where)

    def cut(self, where: str) -> None:
        """What was not synced is gone, apart from what the disk kept by chance."""
        self.where = where
        self._storages.crash(self.rng)
        self.off.set()
        raise PowerCut

    def _check(self) -> None:
        if self.off.is_set():
            raise PowerCut
