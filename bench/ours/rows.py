"""Rows of 100 bytes put, read and scanned by one client."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from dataplatform import Table

from ..sides import Sizes, Way, way
from ..tasks import CLIENTS, rate_together
from ..timing import median_us, rate, timed
from .context import DURABLE, Context

COLUMNS = {"v": "x" * 90}
"""About 100 bytes with the key, as the peers' values are."""
READ = 10_000


class Rows:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._scanned = 0

    def ways(self) -> Sequence[Way]:
        return (
            way("put", "put", DURABLE, self.put),
            way("put-many", "put_many", DURABLE, self.put_many),
            way("get", "get", "–", self.get),
            way("get-pipelined", "aio get, 64 tasks", "–", self.get_pipelined),
            way("scan", "scan", "–", self.scan),
        )

    @cached_property
    def _directory(self) -> str:
        return self._context.directory("rows")

    @cached_property
    def _single(self) -> Table:
        return self._context.dp.create_table(f"{self._directory}/single")

    @cached_property
    def _read(self) -> Table:
        table = self._context.dp.create_table(f"{self._directory}/read")
        table.put_many({f"k{i:07}": COLUMNS for i in range(READ)})
        return table

    def put(self, sizes: Sizes) -> float:
        table = self._single
        return median_us(lambda i: table.put(f"k{i:07}", COLUMNS), sizes.count(100, 20))

    def put_many(self, sizes: Sizes) -> float:
        rows = {f"k{i:07}": COLUMNS for i in range(sizes.count(200_000))}
        path = f"{self._directory}/many"
        table = self._context.dp.create_table(path)
        with timed() as watch:
            table.put_many(rows)
        self._context.dp.remove(path)
        return len(rows) / watch.seconds

    def get(self, sizes: Sizes) -> float:
        table = self._read
        return rate(lambda i: table.get(f"k{i * 7919 % READ:07}"), sizes.count(5_000))

    def get_pipelined(self, sizes: Sizes) -> float:
        path, client = self._read.path, self._context.aio

        async def measure() -> float:
            table = await client.table(path)

            async def get(number: int) -> None:
                row = await table.get(f"k{number * 7919 % READ:07}")
                assert row is not None

            return await rate_together([get] * CLIENTS, sizes.count(50_000))

        return self._context.run(measure())

    def scan(self, sizes: Sizes) -> float:
        """Every row with its columns, as a program would go through them."""
        total = sizes.count(200_000)
        table = self._filled(total)
        with timed() as watch:
            found = sum(1 for _ in table.scan())
        assert found == total, found
        return found / watch.seconds

    def _filled(self, total: int) -> Table:
        path = f"{self._directory}/scanned{total}"
        if self._scanned == total:
            return self._context.dp.table(path)
        table = self._context.dp.create_table(path)
        table.put_many({f"k{i:07}": COLUMNS for i in range(total)})
        self._scanned = total
        return table
