"""The read path: what a handle reads, and what it will probably read next.

The kernel reads ahead by itself, in requests of up to a mebibyte, several at a time. Where its
window is small (it is set by root only), a handle that reads one piece behind the other has the
following mebibytes fetched while the program works on the present one.

Invariant: what was fetched ahead is only used while the node's data is what it was: any write here
and any word of the server moves `Node.data_turn`, and then it is fetched anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import PlatformError
from dataplatform.base.limits import KIB, MIB
from dataplatform.transport.connections import Bulk

from .blocks import Fetched
from .calls import READ, Calls
from .nodes import Content

if TYPE_CHECKING:
    from .blocks import Blocks
    from .nodes import Node
    from .smallfiles import SmallFiles

CHUNK_BYTES = 1 * MIB
AHEAD_CHUNKS_MAX = 4
SEQUENTIAL_BYTES_MIN = 256 * KIB
"""Read one behind the other before anything is fetched ahead: small files never are."""


class _Chunk:
    """A mebibyte that is fetched, and how many reads wait for it."""

    __slots__ = ("readers", "task", "turn")

    def __init__(self, task: asyncio.Future[Bulk], turn: int) -> None:
        self.task = task
        self.turn = turn
        self.readers = 0


class Reading:
    """What one handle reads."""

    def __init__(
        self, node: Node, calls: Calls, blocks: Blocks | None, small_files: SmallFiles
    ) -> None:
        self._node = node
        self._calls = calls
        self._blocks = blocks
        self._small_files = small_files
        self._next = 0
        self._run_bytes = 0
        self._chunks: dict[int, _Chunk] = {}

    async def read(self, offset: int, size: int) -> list[Bulk]:
        """The bytes of [offset, offset + size), shorter at the end of the file."""
        is_sequel = offset == self._next or bool(
            self._chunks and offset // CHUNK_BYTES in self._chunks
        )
        self._run_bytes = self._run_bytes + size if is_sequel else 0
        self._next = offset + size
        if self._run_bytes < SEQUENTIAL_BYTES_MIN:
            if self._chunks and not is_sequel:
                self.forget()
            return [await self._fetch(offset, size)]
        return await self._from_chunks(offset, size)

    async def _from_chunks(self, offset: int, size: int) -> list[Bulk]:
        parts: list[Bulk] = []
        end = offset + size
        first, last = offset // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
        self._fetch_ahead(first, last + AHEAD_CHUNKS_MAX)
        chunks = [self._chunk(index) for index in range(first, last + 1)]
        for chunk in chunks:
            chunk.readers += 1  # the kernel's other reads, further on, must not end it
        try:
            for index, chunk in enumerate(chunks, first):
                data = await asyncio.shield(chunk.task)
                start = max(offset - index * CHUNK_BYTES, 0)
                stop = min(end - index * CHUNK_BYTES, CHUNK_BYTES)
                parts.append(memoryview(data)[start:stop])
                if len(data) < CHUNK_BYTES:
                    break  # the end of the file
        finally:
            for chunk in chunks:
                chunk.readers -= 1
        return parts

    def _fetch_ahead(self, first: int, last: int) -> None:
        for index in [i for i in self._chunks if i < first - 1 or i > last]:
            self._drop(index)
        beyond = -(-self._node.size // CHUNK_BYTES)
        for index in range(first, min(last + 1, beyond)):
            self._chunk(index)

    def _chunk(self, index: int) -> _Chunk:
        """What is fetched of it, or begins to be."""
        turn = self._node.data_turn
        chunk = self._chunks.get(index)
        if chunk is not None and chunk.turn == turn and not chunk.task.cancelled():
            return chunk
        if chunk is not None:
            self._drop(index)
        fetch = self._fetch(index * CHUNK_BYTES, CHUNK_BYTES)
        task = asyncio.get_running_loop().create_task(fetch)
        task.add_done_callback(_look)
        chunk = self._chunks[index] = _Chunk(task, turn)
        return chunk

    def _drop(self, index: int) -> None:
        chunk = self._chunks.pop(index)
        if not chunk.readers and not chunk.task.done():
            chunk.task.cancel()

    def forget(self) -> None:
        """Nothing of what was fetched ahead is wanted any more."""
        for index in list(self._chunks):
            self._drop(index)

    async def _fetch(self, offset: int, size: int) -> Bulk:
        if self._blocks is not None:
            return await self._blocks.read(self._node, offset, size, self.ask)
        return (await self.ask(offset, size)).data

    async def ask(self, offset: int, size: int) -> Fetched:
        """What the server has there."""
        node = self._node
        mark = self._calls.mark()
        request = pb.ReadRequest(
            target=pb.Target(volume=node.volume, inode=node.inode), offset=offset, length=size
        )
        reply, data = await self._calls.call_bulk(READ, request)
        self._calls.stats.read_bytes += len(data)
        if offset == 0 and self._calls.are_bytes_as_of(node, mark):
            self._small_files.keep(node, (data,))
        if not reply.version:
            return Fetched(data, None)
        content = Content(reply.version, reply.mtime_ns, reply.size)
        if self._calls.are_bytes_as_of(node, mark):
            node.content = content
        return Fetched(data, content)


def _look(task: asyncio.Future[Bulk]) -> None:
    """Nobody may come for what was fetched in vain."""
    if not task.cancelled() and isinstance(task.exception(), PlatformError):
        return
