"""What a worker of the mixed load is (load.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from dataplatform import aio

BASE = "/load"

Connect = Callable[[], Awaitable[aio.Client]]
"""Gives a client of its own to whoever calls it."""


class Worker(ABC):
    @abstractmethod
    async def prepare(self, connect: Connect) -> None: ...

    @abstractmethod
    async def step(self) -> None:
        """One operation, or a few at a time; acknowledged when this returns."""

    async def look(self, dp: aio.Client) -> None:  # noqa: B027  most wait for the end
        """While the work goes on: nothing acknowledged is missing."""

    @abstractmethod
    async def verify(self, dp: aio.Client) -> None:
        """While nothing goes on: what is there is exactly what was acknowledged."""
