"""Rows put, one by one and many at once, read, scanned, counted up and deleted."""

from __future__ import annotations

from typing import Any

from .parts import Part, expect

KEYS = 3000
VALUE_BYTES_MAX = 2000
MANY = 50
PAGE = 200


class Rows(Part):
    share = 0.35

    async def begin(self) -> None:
        await super().begin()
        self._rows: dict[str, dict[str, Any]] = {}
        self._table = await self.dp.create_table(f"{self.base}/table")

    async def step(self) -> None:
        choice = self.chance.random()
        key = self._key()
        if choice < 0.35:
            columns = self._columns()
            await self._table.put(key, columns, replace=True)
            self._rows[key] = columns
        elif choice < 0.7:
            row = await self._table.get(key)
            expect(row and row.columns, self._rows.get(key), key)
        elif choice < 0.8:
            expect(await self._table.delete(key), key in self._rows, f"deleted {key}")
            self._rows.pop(key, None)
        elif choice < 0.9:
            number = await self._table.increment(key, "n", 3)
            columns = self._rows.setdefault(key, {})
            columns["n"] = columns.get("n", 0) + 3
            expect(number, columns["n"], f"{key} n")
        elif choice < 0.95:
            many = {self._key(): self._columns() for _ in range(MANY)}
            await self._table.put_many(many, replace=True)
            self._rows.update(many)
        else:
            await self._scan(key)

    async def _scan(self, start: str) -> None:
        found = [(row.key, row.columns) async for row in self._table.scan(start=start, limit=PAGE)]
        keys = sorted(key for key in self._rows if key >= start)[:PAGE]
        expect(found, [(key, self._rows[key]) for key in keys], f"scan from {start}")

    async def finish(self) -> None:
        found = {row.key: row.columns async for row in self._table.scan()}
        expect(found, self._rows, "the whole table")

    def _key(self) -> str:
        return f"k{self.chance.randrange(KEYS):06}"

    def _columns(self) -> dict[str, Any]:
        size = self.chance.randrange(VALUE_BYTES_MAX)
        return {"v": self.chance.randbytes(size), "n": self.chance.randrange(1000)}
