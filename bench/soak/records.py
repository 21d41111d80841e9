"""Records produced to a stream that forgets the oldest, and consumed by a group.

The consumer commits after every poll, and leaves and comes back at times: it must then go on at the
very next offset.
"""

from __future__ import annotations

from datetime import timedelta

from .parts import Part, expect

PARTITIONS = 4
PARTITION_BYTES_MAX = 8 << 20
RETENTION = timedelta(minutes=5)
BURST = 50
BURSTS_AHEAD_MAX = 40
"""The producer waits for the consumer long before retention could take what it has not read."""
REJOIN_CHANCE = 0.005


class Records(Part):
    share = 0.2

    async def begin(self) -> None:
        await super().begin()
        self._stream = await self.dp.create_stream(
            f"{self.base}/stream",
            partitions=PARTITIONS,
            ttl=RETENTION,
            bytes_max=PARTITION_BYTES_MAX,
        )
        await self._stream.create_topic("t")
        self._producer = await self._stream.producer()
        self._consumer = await self._stream.consumer("t", group="g")
        self._next = dict.fromkeys(range(PARTITIONS), 0)
        self._sent = self._read = 0

    async def step(self) -> None:
        ahead = self._sent - self._read
        if ahead > BURST * BURSTS_AHEAD_MAX or self.chance.random() < 0.5:
            await self._consume()
        elif self.chance.random() < 0.2:
            await self._stream.append("t", b"alone", key=self.chance.randbytes(4))
            self._sent += 1
        else:
            values = [self.chance.randbytes(self.chance.randrange(200)) for _ in range(BURST)]
            keys = (
                [self.chance.randbytes(4) for _ in values] if self.chance.random() < 0.5 else None
            )
            await self._producer.send_many("t", values, keys)
            await self._producer.flush()
            self._sent += BURST

    async def _consume(self, wait_s: float = 0.0) -> None:
        for record in await self._consumer.poll(wait_s):
            expect(record.offset, self._next[record.partition], f"offset in {record.partition}")
            self._next[record.partition] += 1
            self._read += 1
        await self._consumer.commit()
        if self.chance.random() < REJOIN_CHANCE:
            await self._consumer.close()
            self._consumer = await self._stream.consumer("t", group="g")

    async def finish(self) -> None:
        await self._producer.close()
        for _ in range(1000):
            if self._read == self._sent:
                break
            await self._consume(1.0)
        expect(self._read, self._sent, "records read")
        await self._consumer.close()
