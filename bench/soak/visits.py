"""Clients that come, do a little of everything, and go: what a session leaves must go with it."""

from __future__ import annotations

from dataplatform import aio

from .parts import Part, expect


class Visits(Part):
    share = 0.05

    async def begin(self) -> None:
        await super().begin()
        table = await self.dp.create_table(f"{self.base}/table")
        self._table = table.path

    async def step(self) -> None:
        async with await aio.connect(self.dp.address) as visitor:
            table = await visitor.table(self._table)
            number = await table.increment("visits", "n", 1, durable=False)
            expect(number, self.steps + 1, "visits")
            path = f"{self.base}/file"
            async with visitor.open(path, "wb") as file:
                await file.write(b"x" * 1000)
            expect((await visitor.stat(path)).size, 1000, path)
            await visitor.remove(path)
            if self.chance.random() < 0.1:
                directory = f"{self.base}/tree"
                await visitor.write_file(f"{directory}/a/b", b"x", parents=True)
                expect(await visitor.rmtree(directory), 3, "names removed")

    async def finish(self) -> None:
        expect(await self.dp.listdir(self.base), ["table"], self.base)
