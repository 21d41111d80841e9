"""A consumer group at work while its stream grows: two members, whom every restart sends to rejoin.

A record may be read again by the member that takes a partition on, but none is ever left out, and
what the group committed does not go back.
"""

from __future__ import annotations

import contextlib
import random

from dataplatform import Stale, aio

from .worker import BASE, Connect, Worker

PARTITIONS = 4
MEMBERS = 2
RECORDS_MAX = 20
POLLS_MAX = 300
"""Until the end of the stream is reached, at the end: each waits a second at most."""


class Group(Worker):
    """The records of each partition are numbered; the number is the offset."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self.path, self.rng = f"{BASE}/group-{name}", rng
        self.sent = [0] * PARTITIONS
        self.read = [0] * PARTITIONS
        self.committed = [0] * PARTITIONS

    async def prepare(self, connect: Connect) -> None:
        dp = await connect()
        self.stream = await dp.create_stream(self.path, partitions=PARTITIONS)
        await self.stream.create_topic("t")
        self.producer = await self.stream.producer()
        self.members = [
            await (await (await connect()).stream(self.path)).consumer("t", group="g")
            for _ in range(MEMBERS)
        ]

    async def step(self) -> None:
        if self.rng.random() < 0.3:
            await self.send()
        else:
            await self.work(self.rng.choice(self.members), timeout_s=0.05)

    async def send(self) -> None:
        for _ in range(self.rng.randint(1, RECORDS_MAX)):
            partition = self.rng.randrange(PARTITIONS)
            number = b"%d" % self.sent[partition]
            self.sent[partition] += 1
            await self.producer.send("t", value=number, partition=partition)
        await self.producer.flush()

    async def work(self, member: aio.Consumer, timeout_s: float) -> None:
        for record in await member.poll(timeout_s=timeout_s, max_records=50):
            read = self.read[record.partition]
            assert record.offset <= read, f"{record.offset} of {record.partition}, read {read}"
            assert record.offset == int(record.value or b"-1")
            self.read[record.partition] = max(read, record.offset + 1)
        places = member.assignment()
        offsets = {partition: await member.position("t", partition) for _, partition in places}
        with contextlib.suppress(Stale):  # a partition is another member's now: nothing happened
            await member.commit()
            for partition, offset in offsets.items():
                self.committed[partition] = max(self.committed[partition], offset)

    async def look(self, dp: aio.Client) -> None:
        least = list(self.committed)
        groups = await (await dp.stream(self.path)).groups()
        found = {offset.partition: offset.offset for group in groups for offset in group.offsets}
        for partition in range(PARTITIONS):
            at = found.get(partition, 0)
            assert least[partition] <= at <= self.read[partition], f"{partition}: committed {at}"

    async def verify(self, dp: aio.Client) -> None:
        for _ in range(POLLS_MAX):
            if self.committed == self.sent:
                break
            for member in self.members:
                await self.work(member, timeout_s=1)
        assert self.read == self.sent
        assert self.committed == self.sent
        await self.look(dp)
        offsets = await (await dp.stream(self.path)).offsets("t", "latest")
        assert [offsets[partition] for partition in range(PARTITIONS)] == self.sent
