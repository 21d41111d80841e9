"""Single puts of many tasks over several connections, all into one table.

They share requests on their way (base/gathering.py) and units of work on the server (core/puts.py),
also with puts that are refused. All numbers count up, so a put that was lost, done twice, or hidden
by another of the same unit shows.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from dataplatform import Invalid, aio

from .worker import BASE, Worker

TASKS = 8
PUTS_MAX = 6
HOT = "hot"
"""The row that all tasks of all workers write, each a column of its own."""


@dataclass
class Cell:
    """A column of a row that one task writes, one put at a time."""

    key: str
    column: str
    attempted: int = 0
    acknowledged: int = 0
    version: int = 0  # that the last acknowledged put got

    @property
    def is_alone(self) -> bool:
        return self.key != HOT


class Puts(Worker):
    """Each task has a row of its own and a column in the row of all."""

    PATH = f"{BASE}/puts"

    def __init__(self, name: str, rng: random.Random) -> None:
        self.rng = rng
        names = [f"{name}-{task}" for task in range(TASKS)]
        self.cells = [(Cell(n, "n"), Cell(HOT, n)) for n in names]

    async def prepare(self, dp: aio.Client) -> None:
        self.table = await dp.create_table(self.PATH, exist_ok=True)

    async def step(self) -> None:
        await asyncio.gather(*(self.puts(own, hot) for own, hot in self.cells))

    async def puts(self, own: Cell, hot: Cell) -> None:
        for _ in range(self.rng.randint(1, PUTS_MAX)):
            choice = self.rng.random()
            if choice < 0.03:
                with pytest.raises(Invalid, match="key"):
                    await self.table.put("", {"n": 0})
            elif choice < 0.15:
                row = await self.table.get(own.key)
                expected = (own.acknowledged, own.version)
                assert ((row.columns["n"], row.version) if row else (0, 0)) == expected
            elif choice < 0.25:
                await self.put(own, if_version=own.version)
            else:
                await self.put(own if choice < 0.7 else hot)

    async def put(self, cell: Cell, if_version: int | None = None) -> None:
        cell.attempted += 1
        columns = {cell.column: cell.attempted}
        version = await self.table.put(cell.key, columns, if_version=if_version)
        assert version > cell.version, f"{cell}: version {version}"
        cell.acknowledged, cell.version = cell.attempted, version

    async def look(self, dp: aio.Client) -> None:
        """The rows as they are now: nothing is older than what was acknowledged before."""
        before = [(c, c.acknowledged, c.version) for pair in self.cells for c in pair]
        table = await dp.table(self.PATH)
        rows = {row.key: row async for row in table.scan()}
        for cell, least, version in before:
            row = rows.get(cell.key)
            found, at = (row.columns.get(cell.column, 0), row.version) if row else (0, 0)
            assert least <= found <= cell.attempted, f"{cell}: {found}, at least {least}"
            assert at >= version, f"{cell}: version {at}, was {version}"
            if cell.is_alone and found == cell.acknowledged:
                assert at == cell.version, f"{cell}: version {at}, done twice"

    async def verify(self, dp: aio.Client) -> None:
        assert all(c.attempted == c.acknowledged for pair in self.cells for c in pair)
        await self.look(dp)  # at least and at most are the same now
