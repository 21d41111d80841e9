"""Lines that a program writes, as records.

One request is under way at a time, and takes everything that gathered meanwhile: so lines are
stored in the order in which they were written, each once (the request is numbered, and a repetition
changes nothing), slow writers see each line stored at once, and fast ones get large batches. No
producer id is needed, of which each `echo >>` would leave one behind at the server.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections import deque

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.limits import MIB
from dataplatform.client.batching import RECORD_BYTES_MAX
from dataplatform.client.connection import Channel
from dataplatform.client.records import RECORD_OVERHEAD_BYTES, BatchBuilder
from dataplatform.client.streams import APPEND

BATCH_BYTES = 1 * MIB
LINE_BYTES_MAX = RECORD_BYTES_MAX - RECORD_OVERHEAD_BYTES
BUFFER_BYTES = 8 * MIB
"""Written and not stored yet: beyond it, `write` waits."""


class LineWriter:
    """Of one open file, to one partition."""

    def __init__(
        self, channel: Channel, stream: pb.Target, topic: str, partition: int, compression: str
    ) -> None:
        self._channel = channel
        self._stream = stream
        self._topic = topic
        self._partition = partition
        self._compression = compression
        self._rest = bytearray()  # a line that is not complete
        self._lines: deque[bytes] = deque()
        self._bytes = 0  # of the lines that wait or are under way
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._error: Exception | None = None  # told by `flush`

    async def write(self, data: bytes) -> None:
        """Take lines; one that is not complete waits for its end. EFBIG, and what kept lines before
        from being stored."""
        if self._error is not None:
            raise self._error
        lines = data.split(b"\n")
        lines[0] = bytes(self._rest) + lines[0] if len(lines) > 1 else lines[0]
        if max(map(len, lines)) > LINE_BYTES_MAX or (
            len(lines) == 1 and len(self._rest) + len(data) > LINE_BYTES_MAX
        ):
            self._rest.clear()
            raise OSError(errno.EFBIG, "a line is longer than a record may be")
        if len(lines) == 1:
            self._rest += data
            return
        self._rest[:] = lines.pop()
        self._offer(lines)
        while self._bytes > BUFFER_BYTES and self._error is None:
            self._room.clear()
            await self._room.wait()

    async def flush(self) -> None:
        """Everything is stored, also a last line without an end; or an error says why not."""
        if self._rest:
            line = bytes(self._rest)
            self._rest.clear()
            self._offer([line])
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _offer(self, lines: list[bytes]) -> None:
        if self._error is not None:
            return  # those before are lost: these must not be stored without them
        self._lines.extend(lines)
        self._bytes += sum(map(len, lines)) + len(lines) * RECORD_OVERHEAD_BYTES
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._store())

    async def _store(self) -> None:
        try:
            while self._lines:
                lines, size = self._take()
                batch = self._encode(lines)
                request = pb.AppendRequest(stream=self._stream)
                request.parts.add(topic=self._topic, partition=self._partition, length=len(batch))
                await self._channel.call(APPEND, request, batch)
                self._bytes -= size
                self._room.set()
        except Exception as error:
            self._error = error
        finally:
            if self._error is not None:
                self._lines.clear()
                self._bytes = 0
            self._room.set()

    def _take(self) -> tuple[list[bytes], int]:
        """The lines of a batch, and their size."""
        lines: list[bytes] = []
        size = 0
        while self._lines:
            more = len(self._lines[0]) + RECORD_OVERHEAD_BYTES
            if lines and size + more > BATCH_BYTES:
                break
            lines.append(self._lines.popleft())
            size += more
        return lines, size

    def _encode(self, lines: list[bytes]) -> bytes | bytearray:
        builder = BatchBuilder(RECORD_BYTES_MAX)
        rest = builder.add_many(time.time_ns() // 1_000_000, iter(lines))
        assert rest is True
        return builder.build(self._compression)
