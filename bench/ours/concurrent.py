"""Durable puts of 64 clients: tasks on one connection, connections of one process, and connections
of several processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property, partial

import uvloop

from dataplatform import aio

from ..sides import Sizes, Way, way
from ..tasks import CLIENTS, PROCESSES, Call, Crowd, rate_together, until
from .context import DURABLE, Context
from .rows import COLUMNS

PUTS = 40_000


class Concurrent:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._clients: list[aio.Client] = []

    def ways(self) -> Sequence[Way]:
        return (
            way("put-shared", "aio put, one connection", DURABLE, self.shared),
            way("put-connections", "aio put, 64 connections", DURABLE, self.connections),
            way("put-processes", f"aio put, {PROCESSES} processes", DURABLE, self.processes),
        )

    @cached_property
    def _path(self) -> str:
        path = self._context.directory("concurrent") + "/table"
        self._context.dp.create_table(path)
        return path

    @cached_property
    def _crowd(self) -> Crowd:
        return Crowd()

    def shared(self, sizes: Sizes) -> float:
        async def measure(path: str) -> float:
            call = await _put(self._context.aio, path)
            return await rate_together([call] * CLIENTS, sizes.count(PUTS))

        return self._context.run(measure(self._path))

    def connections(self, sizes: Sizes) -> float:
        async def measure(path: str) -> float:
            while len(self._clients) < CLIENTS:
                self._clients.append(await self._context.another())
            calls = [await _put(client, path) for client in self._clients]
            return await rate_together(calls, sizes.count(PUTS))

        return self._context.run(measure(self._path))

    def processes(self, sizes: Sizes) -> float:
        share = partial(_share, self._context.address, self._context.token, self._path)
        return self._crowd.rate(share, sizes.count(PUTS))

    def close(self) -> None:
        if "_crowd" in self.__dict__:
            self._crowd.close()
        for client in self._clients:
            self._context.run(client.close())


async def _put(client: aio.Client, path: str) -> Call:
    table = await client.table(path)
    return lambda number: table.put(f"k{number:07}", COLUMNS)


def _share(
    address: str | None, token: str | None, path: str, begin: float, first: int, count: int
) -> tuple[float, float]:
    """What one of the processes does."""

    async def work() -> tuple[float, float]:
        clients = [await aio.connect(address, token) for _ in range(CLIENTS // PROCESSES)]
        puts = [await _put(client, path) for client in clients]
        calls = [_from(first, put) for put in puts]
        await until(begin)
        begun = time.monotonic()
        await rate_together(calls, count)
        ended = time.monotonic()
        for client in clients:
            await client.close()
        return begun, ended

    return uvloop.run(work())


def _from(first: int, call: Call) -> Call:
    return lambda number: call(first + number)
