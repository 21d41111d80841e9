"""What the parts of our driver share: clients of both kinds, and a directory."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

import dataplatform
from dataplatform import aio

T = TypeVar("T")

DURABLE = "synced before the reply"


class Context:
    """A synchronous client and an asynchronous one, on uvloop, of one server."""

    def __init__(self, address: str | None, token: str | None, base: str) -> None:
        self.address = address
        self.token = token
        self.base = base
        self.dp = dataplatform.connect(address, token)
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.aio: aio.Client = self.run(self._connect())

    async def _connect(self) -> aio.Client:
        return await self.another()

    async def another(self) -> aio.Client:
        """One more connection."""
        return await aio.connect(self.address, self.token)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def directory(self, name: str) -> str:
        """A new directory with this name."""
        path = f"{self.base}/{name}"
        self.dp.mkdir(path, parents=True)
        return path

    def close(self) -> None:
        self.run(self.aio.close())
        self._runner.close()
        self.dp.close()
