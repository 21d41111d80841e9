"""Single puts of many tasks over several connections, all into one table.

Those of one connection share requests on their way (base/gathering.py), those of different ones
units of work on the server (core/puts.py), also with puts that are refused. All numbers count up,
so a put that was lost, done twice, or hidden by another of the same unit shows.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from dataplatform import Invalid, aio

from .worker import BASE, Connect, Worker

CONNECTIONS = 6
TASKS = 4
"""Per connection of those that several tasks share: every second. On the others one is alone."""

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
    versions: list[int] = field(default_factory=list)
    """That the acknowledged puts got."""

    @property
    def version(self) -> int:
        return self.versions[-1] if self.versions else 0

    @property
    def is_alone(self) -> bool:
        return self.key != HOT


class Puts(Worker):
    """Each task has a row of its own and a column in the row of all."""

    PATH = f"{BASE}/puts"

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name, self.rng = name, rng
        self.cells: list[Cell] = []

    async def prepare(self, connect: Connect) -> None:
        self.tasks = []
        for connection in range(CONNECTIONS):
            table = await (await connect()).create_table(self.PATH, exist_ok=True)
            for task in range(TASKS if connection % 2 else 1):
                name = f"{self.name}-{connection}-{task}"
                own, hot = Cell(name, "n"), Cell(HOT, name)
                self.cells += own, hot
                self.tasks.append((table, own, hot))

    async def step(self) -> None:
        await asyncio.gather(*(self.puts(*task) for task in self.tasks))

    async def puts(self, table: aio.Table, own: Cell, hot: Cell) -> None:
        for _ in range(self.rng.randint(1, PUTS_MAX)):
            choice = self.rng.random()
            if choice < 0.03:
                with pytest.raises(Invalid, match="key"):
                    await table.put("", {"n": 0})
            elif choice < 0.15:
                row = await table.get(own.key)
                expected = (own.acknowledged, own.version)
                assert ((row.columns["n"], row.version) if row else (0, 0)) == expected
            elif choice < 0.25:
                await self.put(table, own, if_version=own.version)
            else:
                await self.put(table, own if choice < 0.7 else hot)

    async def put(self, table: aio.Table, cell: Cell, if_version: int | None = None) -> None:
        cell.attempted += 1
        columns = {cell.column: cell.attempted}
        version = await table.put(cell.key, columns, if_version=if_version)
        assert version > cell.version, f"{cell}: version {version}"
        cell.versions.append(version)
        cell.acknowledged = cell.attempted

    async def look(self, dp: aio.Client) -> None:
        """The rows as they are now: nothing is older than what was acknowledged before."""
        before = [(c, c.acknowledged, c.version) for c in self.cells]
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
        assert all(c.attempted == c.acknowledged for c in self.cells)
        await self.look(dp)  # at least and at most are the same now
        done: dict[str, list[int]] = {}
        async for change in dp.changes(self.PATH):
            if change.event == "row put":
                done.setdefault(change.facts["key"], []).append(change.commit)
        for cell in self.cells:
            if cell.is_alone:
                assert done.get(cell.key, []) == cell.versions, f"{cell}: a put was done twice"
            else:
                assert set(cell.versions) <= set(done[cell.key])
        hot = [version for cell in self.cells if not cell.is_alone for version in cell.versions]
        assert len(set(hot)) == len(hot), "two puts of one row have one version"
