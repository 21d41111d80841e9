"""A mixed load of all three kinds whose right outcome is known exactly.

Each worker goes on until it is told to stop, through any number of server deaths: the client
reconnects and repeats. What was acknowledged is counted, and `verify` compares the end state with
it: everything acknowledged is there, and nothing happened twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from dataplatform import aio

from .load_groups import Group
from .load_puts import Puts
from .worker import BASE, Connect, Worker

ACCOUNTS = 8
START_BALANCE = 1000


class Counters(Worker):
    """Increments: not repeatable by nature, so a write that happened twice shows."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.path, self.rng = f"{BASE}/counters-{name}", rng
        self.expected: dict[str, int] = {}

    async def prepare(self, connect: Connect) -> None:
        dp = await connect()
        self.table = await dp.create_table(self.path)

    async def step(self) -> None:
        key, amount = f"c{self.rng.randrange(20)}", self.rng.randrange(1, 100)
        await self.table.increment(key, "n", amount)
        self.expected[key] = self.expected.get(key, 0) + amount

    async def verify(self, dp: aio.Client) -> None:
        found = {row.key: row.columns["n"] async for row in self.table.scan()}
        assert found == self.expected


class Rows(Worker):
    """Puts and deletes of rows, some of them many at a time."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.path, self.rng = f"{BASE}/rows-{name}", rng
        self.expected: dict[str, dict[str, Any]] = {}

    async def prepare(self, connect: Connect) -> None:
        dp = await connect()
        self.table = await dp.create_table(self.path)

    async def step(self) -> None:
        choice = self.rng.random()
        key = f"r{self.rng.randrange(200):03}"
        if choice < 0.2:
            await self.table.delete(key)
            self.expected.pop(key, None)
        elif choice < 0.4:
            rows = {f"r{self.rng.randrange(200):03}": {"v": self.rng.random()} for _ in range(50)}
            await self.table.put_many(rows)
            self.expected.update(rows)
        else:
            value = {"v": self.rng.randbytes(self.rng.choice((10, 300, 5000)))}
            await self.table.put(key, value)
            self.expected[key] = value

    async def verify(self, dp: aio.Client) -> None:
        found = {row.key: dict(row.columns) async for row in self.table.scan()}
        assert found == self.expected


class Records(Worker):
    """An idempotent producer numbers its records: no gap, no duplicate, in order."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.path, self.rng = f"{BASE}/records-{name}", rng
        self.acknowledged = 0

    async def prepare(self, connect: Connect) -> None:
        dp = await connect()
        self.stream = await dp.create_stream(self.path)
        self.producer = await self.stream.producer()

    async def step(self) -> None:
        size = self.rng.choice((10, 10, 10, 2000))
        for _ in range(self.rng.randrange(1, 200)):
            number = str(self.acknowledged).encode()
            await self.producer.send("t", value=number.ljust(size, b"."))
            self.acknowledged += 1
        await self.producer.flush()

    async def verify(self, dp: aio.Client) -> None:
        await self.producer.close()
        numbers, offsets = [], []
        async with await self.stream.consumer("t", start="earliest") as consumer:
            while len(numbers) < self.acknowledged:
                records = await consumer.poll(timeout_s=2)
                assert records, f"{len(numbers)} of {self.acknowledged} records are there"
                numbers += [int((r.value or b"").rstrip(b".")) for r in records]
                offsets += [r.offset for r in records]
        assert numbers == list(range(self.acknowledged))
        assert offsets == list(range(self.acknowledged))


class Files(Worker):
    """Whole files replaced, renamed and removed, and a log that grows by synced appends."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.path, self.rng = f"{BASE}/files-{name}", rng
        self.expected: dict[str, bytes] = {}
        self.log = b""

    async def prepare(self, connect: Connect) -> None:
        self.dp = dp = await connect()
        await dp.mkdir(self.path)
        await dp.write_file(f"{self.path}/log", b"", durable=True)

    async def step(self) -> None:
        choice = self.rng.random()
        name = f"{self.path}/f{self.rng.randrange(10)}"
        if choice < 0.5:
            data = self.rng.randbytes(self.rng.choice((0, 100, 5000, 70_000, 300_000)))
            await self.dp.write_file(name, data, durable=True)
            self.expected[name] = data
        elif choice < 0.6:
            await self.dp.unlink(name, missing_ok=True)
            await self.dp.sync()
            self.expected.pop(name, None)
        elif choice < 0.7 and self.expected:
            source = self.rng.choice(sorted(self.expected))
            await self.dp.rename(source, name, durable=True)
            self.expected[name] = self.expected.pop(source)
        else:
            data = self.rng.randbytes(self.rng.choice((10, 4096, 10_000)))
            async with self.dp.open(f"{self.path}/log", "r+b") as file:
                await file.pwrite(data, len(self.log))
                await file.sync()
            self.log += data

    async def verify(self, dp: aio.Client) -> None:
        names = [e.name async for e in dp.scandir(self.path)]
        assert sorted(names) == sorted(["log", *(n.rpartition("/")[2] for n in self.expected)])
        assert await dp.read_file(f"{self.path}/log") == self.log
        for name, data in self.expected.items():
            assert await dp.read_file(name) == data, name


class Transfers(Worker):
    """Transactions: money moves between rows, a file is renamed, a record tells of it."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.path, self.rng = f"{BASE}/bank-{name}", rng
        self.committed = 0

    async def prepare(self, connect: Connect) -> None:
        self.dp = dp = await connect()
        await dp.mkdir(self.path)
        table = await dp.create_table(f"{self.path}/accounts")
        await table.put_many({f"a{i}": {"n": START_BALANCE} for i in range(ACCOUNTS)})
        await dp.create_stream(f"{self.path}/events")
        await dp.write_file(f"{self.path}/state-0", b"x", durable=True)

    async def step(self) -> None:
        source, target = self.rng.sample(range(ACCOUNTS), 2)
        amount = self.rng.randrange(1, 50)
        async with self.dp.transaction(self.path) as tx:
            tx.rename(f"state-{self.committed}", f"state-{self.committed + 1}")
            tx.table("accounts").increment(f"a{source}", "n", -amount)
            tx.table("accounts").increment(f"a{target}", "n", amount)
            tx.stream("events").append("t", value=str(self.committed).encode())
            tx.stream("events").commit_offset("g", "t", partition=0, offset=self.committed + 1)
        self.committed += 1

    async def verify(self, dp: aio.Client) -> None:
        names = [e.name async for e in dp.scandir(self.path)]
        assert sorted(names) == ["accounts", "events", f"state-{self.committed}"]
        table = await dp.table(f"{self.path}/accounts")
        total = sum([int(row.columns["n"]) async for row in table.scan()])
        assert total == ACCOUNTS * START_BALANCE
        stream = await dp.stream(f"{self.path}/events")
        if self.committed:
            assert await stream.offsets("t", "latest") == {0: self.committed}
            group = await stream.group("g")
            assert [o.offset for o in group.offsets] == [self.committed]


KINDS: list[Callable[[str, random.Random], Worker]] = [
    *(Counters, Rows, Records, Files, Transfers, Puts, Group)
]


class MixedLoad:
    """Two workers of each kind, each with clients of its own."""

    def __init__(self, address: str, seed: int, patience_s: float = 120.0) -> None:
        self._address, self._patience_s = address, patience_s
        self._workers = [
            kind(str(i), random.Random(f"{seed}-{kind.__name__}-{i}"))
            for kind in KINDS
            for i in range(2)
        ]
        self._clients: list[aio.Client] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.steps = 0

    async def start(self) -> None:
        first = await self._connect()
        await first.mkdir(BASE, exist_ok=True)
        for worker in self._workers:
            await worker.prepare(self._connect)
        self._tasks = [asyncio.create_task(self._run(w)) for w in self._workers]

    async def _connect(self) -> aio.Client:
        client = await aio.connect(self._address, patience_s=self._patience_s)
        self._clients.append(client)
        return client

    async def _run(self, worker: Worker) -> None:
        while not self._stopping:
            await worker.step()
            self.steps += 1

    async def progress(self, steps: int) -> None:
        """Wait until so many more operations were acknowledged."""
        wanted = self.steps + steps
        while self.steps < wanted:
            self._raise_failures()
            await asyncio.sleep(0.001)

    def _raise_failures(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Let every worker finish its operation."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def look(self) -> None:
        """Nothing acknowledged is missing, as another client sees it while the work goes on."""
        client = await self._connect()
        for worker in self._workers:
            await worker.look(client)
        self._clients.remove(client)
        await client.close()

    async def verify(self) -> None:
        client = await self._connect()
        for worker in self._workers:
            await worker.verify(client)

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
