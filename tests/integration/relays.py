"""A link of any quality between two processes, where the kernel shapes no traffic: bytes are taken
over by a relay, and passed on late, in fits and starts, or not at all."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

CHUNK_BYTES = 64 << 10
HELD_BYTES_MAX = 4 << 20
"""What is under way in one direction; then its sender waits, as behind a full window."""

RESENT_S = 0.2
"""By so much a lost segment makes what follows it late: TCP's least timeout (RFC 6298, Linux)."""


class Relay:
    """`with Relay("127.0.0.1", target) as relay:` listens at `relay.port`. What is set of it holds
    from the next chunk on."""

    def __init__(self, host: str, target: tuple[str, int], seed: int = 0) -> None:
        self._host = host
        self._target = target
        self._random = random.Random(seed)
        self.port = 0
        self.delay_s = 0.0  # each way
        self.loss = 0.0  # of chunks
        self.passed_bytes = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._whole = asyncio.Event()
        self._whole.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Relay:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, self._host, 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        for ends in ((reader, far_writer), (far_reader, writer)):
            self._writers.add(ends[1])
            self._begin(self._pass(*ends))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_BYTES_MAX // CHUNK_BYTES)
        delivering = self._begin(self._deliver(under_way, writer))
        try:
            while True:
                data = await reader.read(CHUNK_BYTES)
                late_s = RESENT_S if data and self._random.random() < self.loss else 0.0
                await under_way.put((self._loop.time() + self.delay_s + late_s, data))
                if not data:
                    break
            await delivering
        except OSError:
            delivering.cancel()
            writer.transport.abort()
        finally:
            self._writers.discard(writer)

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                due_s, data = await under_way.get()
                await asyncio.sleep(due_s - self._loop.time())
                await self._whole.wait()
                if not data:
                    writer.close()
                    return
                writer.write(data)
                self.passed_bytes += len(data)
                await writer.drain()
        except OSError:
            writer.transport.abort()

    def cut(self) -> None:
        """Nothing gets through, and nobody is told."""
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    def abort(self) -> None:
        """Connections end with a reset."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _end(self) -> None:
        self._abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
