"""The clients of the simulation whose puts share units with those of others (core/puts.py)."""

from __future__ import annotations

import asyncio
import random

import msgpack

from dataplatform.core import tables
from dataplatform.core.namespace import Attributes
from dataplatform.core.replies import SESSION_AGE_NS
from dataplatform.core.units import Request
from dataplatform.keyspace.records import Kind
from tests.principals import admin

from .clients import Client

PUT = 50
SLOTS = 4


class PutClient(Client):
    """Rows of its own in a table of several, one for each slot, that count up, several at a time.

    After a crash each row is what was acknowledged, or what was on its way. The last put of every
    slot is then sent again under its old id: it is there afterwards, and happened once.
    """

    PATH = "/rows"

    def __init__(self, name: str, rng: random.Random) -> None:
        super().__init__(name, rng)
        self.putting = name.encode().ljust(16, b"+")  # a session apart from the driver's
        self.attempted = [0] * SLOTS
        self.acknowledged = [0] * SLOTS
        self.sent_ns = [0] * SLOTS
        self.versions: dict[int, int] = {}  # of acknowledged puts, by slot

    async def step(self) -> None:
        if not any(self.attempted):
            await self.driver.make(self.PATH, Attributes(Kind.TABLE), exist_ok=True, durable=True)
        slots = self.rng.sample(range(SLOTS), self.rng.randint(1, SLOTS))
        for slot in slots:
            self.attempted[slot] += 1
            self.sent_ns[slot] = self.driver.platform.clock.now_ns()
        outcomes = await asyncio.gather(*map(self.put, slots), return_exceptions=True)
        for slot, outcome in zip(slots, outcomes, strict=True):
            if isinstance(outcome, int):
                self.acknowledged[slot] = self.attempted[slot]
                self.versions[slot] = outcome
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def put(self, slot: int) -> int:
        """The slot's last put, for the first time or again; the row's version."""
        number = self.attempted[slot]
        request = Request(admin("tester"), self.putting, slot, number, PUT)
        async with self.driver.node(self.PATH) as node:
            return await node.volume.puts.put(
                request, node.inode.number, self.key(slot), msgpack.packb({"n": number})
            )

    def key(self, slot: int) -> bytes:
        return f"{self.name} {slot}".encode()

    async def found(self) -> list[tuple[int, int]]:
        """(version, number) of each row; (0, 0) where there is none."""
        found = []
        async with self.driver.node(self.PATH) as node:
            for slot in range(SLOTS):
                page = await tables.get_many(node.volume, node.inode.number, [self.key(slot)])
                if not page:
                    found.append((0, 0))
                    continue
                unpacker = msgpack.Unpacker(raw=False)
                unpacker.feed(page)
                _, (version, _, columns) = unpacker
                found.append((version, columns["n"]))
        return found

    async def verify(self) -> object:
        if not any(self.attempted):
            return None
        survived = await self.found()
        for slot, (version, number) in enumerate(survived):
            least, most = self.acknowledged[slot], self.attempted[slot]
            assert least <= number <= most, f"{self.name} {slot}: {number}, not {least} to {most}"
            if number == least and least:
                assert version == self.versions[slot], f"{self.name} {slot}: done twice"
        for slot, (version, number) in enumerate(survived):
            old = self.driver.platform.clock.now_ns() - self.sent_ns[slot] >= SESSION_AGE_NS
            if not self.attempted[slot] or old:
                continue
            again = await self.put(slot)
            if number == self.attempted[slot]:
                assert again == version, f"{self.name} {slot}: done twice"
            self.versions[slot] = again
        found = await self.found()
        self.acknowledged = [number for _, number in found]
        return found
