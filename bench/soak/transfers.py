"""Transactions over a table, a stream and files: the sum of all accounts never changes."""

from __future__ import annotations

from datetime import timedelta

from .parts import Part, expect

ACCOUNTS = 100
START = 1000
RETENTION = timedelta(minutes=5)
SUM_CHANCE = 0.02


class Transfers(Part):
    share = 0.1

    async def begin(self) -> None:
        await super().begin()
        self._table = await self.dp.create_table(f"{self.base}/accounts")
        await self._table.put_many({f"a{i}": {"n": START} for i in range(ACCOUNTS)})
        await self.dp.create_stream(f"{self.base}/log", ttl=RETENTION)
        await self.dp.write_file(f"{self.base}/0", b"moved from name to name")
        self._count = 0

    async def step(self) -> None:
        source, target = self.chance.sample(range(ACCOUNTS), 2)
        amount = self.chance.randrange(100)
        async with self.dp.transaction(self.base) as tx:
            accounts = tx.table("accounts")
            row = await accounts.get(f"a{source}")
            assert row is not None
            accounts.put(f"a{source}", {"n": row.columns["n"] - amount})
            accounts.increment(f"a{target}", "n", amount)
            tx.stream("log").append("t", f"{source} {target} {amount}")
            tx.rename(str(self._count), str(self._count + 1))
        self._count += 1
        if self.chance.random() < SUM_CHANCE:
            await self._add_up()

    async def _add_up(self) -> None:
        total = sum([row.columns["n"] async for row in self._table.scan()])
        expect(total, ACCOUNTS * START, "the sum of all accounts")

    async def finish(self) -> None:
        await self._add_up()
        expect(await self.dp.exists(f"{self.base}/{self._count}"), True, "the renamed file")
