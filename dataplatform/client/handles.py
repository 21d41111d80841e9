"""An open file: reads ahead, gathers writes, and keeps several requests under way.

Bytes travel in calls of `CALL_BYTES`. Written bytes are gathered into such calls, which go out
without waiting for the ones before, at most `WRITES_UNDER_WAY` at a time and never two that
overlap; their errors surface at the next write, flush or close. A read in sequence asks for more
and more ahead of time, up to `AHEAD_BYTES_MAX`. Reading sees what this handle has written: gathered
bytes are sent before. What others write is seen by the next read that asks the server.
"""

from __future__ import annotations

import io
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, Self

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import NotFound
from ..base.limits import IO_BYTES_MAX, KIB, MIB
from ..transport.connections import Bulk
from .connection import Channel, Pending
from .messages import build, whole_number
from .modes import Mode
from .namespace import SET_ATTRIBUTES, STAT
from .nodes import stat_of
from .syncing import Relief, sync
from .values import Stat

CALL_BYTES = min(1 * MIB, IO_BYTES_MAX)
WRITES_UNDER_WAY = 8
FETCH_BYTES_MIN = 128 * KIB
"""The first fetch of a sequence: a small file comes whole."""

AHEAD_BYTES_MAX = 8 * MIB

PEEK_BYTES = 8 * KIB
"""What a peek gives; peeked bytes are copied."""

READ = METHODS["Files.Read"]
WRITE = METHODS["Files.Write"]
CLOSE = METHODS["Files.Close"]


class _Fetch(NamedTuple):
    offset: int
    length: int
    pending: Pending


class _Write(NamedTuple):
    offset: int
    end: int
    parts: list[Bulk]
    pending: Pending


class FileHandle:
    """An open file of either runtime. The methods are those of `io`, as coroutines."""

    def __init__(
        self, channel: Channel, node: pb.Node, mode: Mode, path: str, *, gather: bool = True
    ) -> None:
        self.mode = mode
        self.path = path
        self._channel = channel
        self._target = pb.Target(volume=node.volume, inode=node.inode)
        self._file = node.volume, node.inode
        self._gather = gather
        self._position = 0
        self._size = node.size  # as last heard from the server
        self._buffer: Bulk = b""  # read, from _buffer_offset on
        self._buffer_offset = 0
        self._is_end = False  # nothing followed the buffer when it was read
        self._fetches: deque[_Fetch] = deque()  # of adjacent ranges
        self._ahead_bytes = FETCH_BYTES_MIN
        self._gathered = bytearray()  # to be written from _gathered_offset on
        self._writing = channel.runtime.lock()  # tasks take turns: a turn may wait half-way
        self._is_dirty = False  # something was sent that nobody has waited for
        self._gathered_offset = 0
        self._writes: deque[_Write] = deque()
        self._error: Exception | None = None
        self._relief = Relief(channel)
        self._is_closed = False
        channel.file_opened(node.volume, node.inode)

    @property
    def closed(self) -> bool:
        return self._is_closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<dataplatform file {self.path!r} {self.mode.name!r}>"

    # ------------------------------------------------------------------------------- reading

    async def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end of the file; all that is left without one."""
        await self._before_read()
        if size < 0:
            return await self._read_rest()
        parts: list[Bulk] = []
        while size:
            part = await self._next(size)
            if not part:
                break
            parts.append(part)
            size -= len(part)
            if self._is_at_end():
                break
        return _joined(parts)

    async def _read_rest(self) -> bytes:
        parts: list[Bulk] = []
        while part := await self._next(max(self._size - self._position, CALL_BYTES)):
            parts.append(part)
            if self._is_at_end():
                break
        return _joined(parts)

    def _is_at_end(self) -> bool:
        """Whether the last reply said that nothing follows: saves asking again."""
        return self._is_end and self._position >= self._buffer_offset + len(self._buffer)

    async def read_some(self, size: int = -1) -> bytes:
        """What one reply brings, at most `size` bytes."""
        await self._before_read()
        return bytes(await self._next(size if size >= 0 else CALL_BYTES))

    async def peek(self, size: int = 0) -> bytes:
        """The bytes that come next, without moving."""
        await self._before_read()
        part = await self._next(max(size, 1))
        self._position -= len(part)
        start = self._position - self._buffer_offset
        return bytes(memoryview(self._buffer)[start : start + max(size, PEEK_BYTES)])

    async def readline(self, size: int = -1) -> bytes:
        """Up to and with the next newline, at most `size` bytes; empty at the end of the file."""
        await self._before_read()
        parts: list[Bulk] = []
        while size:
            if not await self._next(1):
                break
            if not isinstance(self._buffer, bytes):
                self._buffer = bytes(self._buffer)
            start = self._position - 1 - self._buffer_offset
            end = len(self._buffer) if size < 0 else min(start + size, len(self._buffer))
            newline = self._buffer.find(b"\n", start, end)
            stop = end if newline < 0 else newline + 1
            parts.append(self._buffer[start:stop])
            self._position = self._buffer_offset + stop
            size = max(size - (stop - start), 0) if size > 0 else size
            if newline >= 0 or self._is_at_end():
                break
        return _joined(parts)

    async def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; the number of bytes."""
        await self._before_read()
        filled = 0
        while filled < len(buffer):
            part = await self._next(len(buffer) - filled)
            if not part:
                break
            buffer[filled : filled + len(part)] = part
            filled += len(part)
            if self._is_at_end():
                break
        return filled

    async def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`, without moving and without reading ahead."""
        whole_number("size", size)
        whole_number("offset", offset)
        await self._before_read()
        fetches = [
            await self._fetch(at, min(CALL_BYTES, offset + size - at))
            for at in range(offset, offset + size, CALL_BYTES)
        ]
        parts: list[Bulk] = []
        is_end = False
        for fetch in fetches:
            part = await self._fetched(fetch)
            if not is_end:
                parts.append(part)
            is_end = is_end or len(part) < fetch.length
        return _joined(parts)

    async def _before_read(self) -> None:
        if not self.mode.read:
            raise io.UnsupportedOperation("not readable")
        if self._gathered or self._is_dirty:
            await self.flush()

    async def _next(self, size: int) -> Bulk:
        """Some bytes at the position, at most `size`, which it then passes; none at the end."""
        start = self._position - self._buffer_offset
        if not 0 <= start < len(self._buffer):
            await self._refill(size)
            start = 0
        part = memoryview(self._buffer)[start : start + size]
        self._position += len(part)
        return self._buffer if len(part) == len(self._buffer) else part

    async def _refill(self, size: int) -> None:
        """The bytes at the position into the buffer, and what follows under way."""
        position = self._position
        is_sequel = position == self._buffer_offset + len(self._buffer)
        if self._fetches and self._fetches[0].offset != position:
            self._forget_fetches()
        if not is_sequel:
            self._ahead_bytes = 0
        wanted = size
        if self._gather:
            wanted = max(size, self._ahead_bytes)
            self._ahead_bytes = min(max(self._ahead_bytes * 2, FETCH_BYTES_MIN), AHEAD_BYTES_MAX)
        await self._fetch_until(position + min(wanted, max(AHEAD_BYTES_MAX, CALL_BYTES)))
        fetch = self._fetches.popleft()
        self._buffer = await self._fetched(fetch)
        self._buffer_offset = position
        self._is_end = position + len(self._buffer) >= self._size
        if len(self._buffer) < fetch.length:
            self._forget_fetches()  # they lie beyond the end

    async def _fetch_until(self, end: int) -> None:
        """Have fetches under way up to `end`, and at least one; none that the size makes vain."""
        at = self._position
        if self._fetches:
            at = self._fetches[-1].offset + self._fetches[-1].length
        while at < end and (not self._fetches or at < self._size):
            length = min(CALL_BYTES, end - at)
            self._fetches.append(await self._fetch(at, length))
            at += length

    async def _fetch(self, offset: int, length: int) -> _Fetch:
        request = build(pb.ReadRequest, target=self._target, offset=offset, length=length)
        return _Fetch(offset, length, await self._channel.start(READ, request))

    async def _fetched(self, fetch: _Fetch) -> Bulk:
        try:
            reply, data = await fetch.pending
        except NotFound as error:
            raise self._gone(error) from error
        self._size = reply.size
        return data

    def _forget_fetches(self) -> None:
        while self._fetches:
            self._fetches.pop().pending.abandon()

    def _forget_buffer(self) -> None:
        self._forget_fetches()
        self._buffer = b""
        self._buffer_offset = self._position

    # ------------------------------------------------------------------------------- writing

    async def write(self, data: Any) -> int:
        """Write all of `data` at the position, in mode "a" at the end of the file."""
        view = self._before_write(data)
        await self._raise_error()
        if self.mode.append:
            return await self._append(view)
        await self._gather_at(self._position, view)
        self._position += len(view)
        return len(view)

    async def pwrite(self, data: Any, offset: int) -> int:
        """Write all of `data` at `offset`, without moving."""
        whole_number("offset", offset)
        view = self._before_write(data)
        await self._raise_error()
        await self._gather_at(offset, view)
        return len(view)

    def _before_write(self, data: Any) -> memoryview:
        if not self.mode.write:
            raise io.UnsupportedOperation("not writable")
        if self._buffer or self._fetches:
            self._forget_buffer()
        return memoryview(data).cast("B")

    async def _gather_at(self, offset: int, view: memoryview) -> None:
        end = self._gathered_offset + len(self._gathered)
        is_small = len(self._gathered) + len(view) < CALL_BYTES
        if self._gathered and self._gather and offset == end and is_small:
            self._gathered += view  # nothing to wait for, so no turn to take
            return
        async with self._writing:
            await self._gather_in_turn(offset, view)

    async def _gather_in_turn(self, offset: int, view: memoryview) -> None:
        if self._gathered and offset != self._gathered_offset + len(self._gathered):
            await self._send_gathered()
        if not self._gathered:
            self._gathered_offset = offset
        while len(self._gathered) + len(view) >= CALL_BYTES:
            room = CALL_BYTES - len(self._gathered)
            await self._send_gathered(view[:room])
            view = view[room:]
        self._gathered += view
        if not self._gather:
            await self._send_gathered()
            await self._drain_writes()

    async def _send_gathered(self, more: memoryview | None = None) -> None:
        """Start the write of what is gathered, followed by `more`."""
        offset = self._gathered_offset
        parts: list[Bulk] = []
        if self._gathered:
            parts.append(self._gathered)
            self._gathered = bytearray()
        if more is not None:
            # Bytes cannot change until they are written; anything else might.
            parts.append(more if isinstance(more.obj, bytes) else bytes(more))
        length = sum(map(len, parts))
        self._gathered_offset = offset + length
        if length:
            self._is_dirty = True
            await self._make_room(offset, offset + length)
            request = build(pb.WriteRequest, target=self._target, offset=offset)
            pending = await self._channel.start(WRITE, request, parts)
            self._writes.append(_Write(offset, offset + length, parts, pending))

    async def _make_room(self, offset: int, end: int) -> None:
        while len(self._writes) >= WRITES_UNDER_WAY:
            await self._finish_write()
        if any(write.offset < end and offset < write.end for write in self._writes):
            await self._drain_writes()

    async def _append(self, view: memoryview) -> int:
        """Gathered too, but sent one at a time: where the end is, only the server knows."""
        self._gathered += view
        while len(self._gathered) >= CALL_BYTES or (self._gathered and not self._gather):
            await self._send_append()
        return len(view)

    async def _send_append(self) -> None:
        part = bytes(memoryview(self._gathered)[:CALL_BYTES])
        del self._gathered[: len(part)]
        request = build(pb.WriteRequest, target=self._target, append=True)
        try:
            reply, _ = await self._channel.call(WRITE, request, part)
        except NotFound as error:
            raise self._gone(error) from error
        self._position = reply.offset + len(part)
        self._size = reply.size
        self._channel.unsynced.add(self._file, reply.offset, [part], reply.verifier)
        await self._relief.after_write()

    async def _finish_write(self) -> None:
        write = self._writes.popleft()
        try:
            reply, _ = await write.pending
            self._size = max(reply.size, self._size)
            self._channel.unsynced.add(self._file, write.offset, write.parts, reply.verifier)
            await self._relief.after_write()
        except NotFound as error:
            self._error = self._error or self._gone(error)
        except Exception as error:
            self._error = self._error or error

    async def _drain_writes(self) -> None:
        while self._writes:
            await self._finish_write()
        await self._raise_error()

    async def _raise_error(self) -> None:
        """What an earlier write met, once."""
        if self._error is not None:
            while self._writes:
                await self._finish_write()
            error, self._error = self._error, None
            self._gathered.clear()
            raise error

    async def flush(self) -> None:
        """Send what is gathered and wait until others see it."""
        if self.mode.append:
            while self._gathered:
                await self._send_append()
        async with self._writing:
            if self._gathered and not self.mode.append:
                await self._send_gathered()
            await self._drain_writes()
            self._is_dirty = False

    async def sync(self) -> None:
        """`flush`, and wait until it is on disk."""
        await self.flush()
        try:
            await sync(self._channel, self._file)
        except NotFound as error:
            raise self._gone(error) from error

    async def truncate(self, size: int | None = None) -> int:
        """Cut or extend to `size` bytes (default: the position); the new size."""
        size = await self.tell() if size is None else size
        whole_number("size", size)
        self._before_write(b"")
        await self.flush()
        request = build(pb.SetAttributesRequest, target=self._target, size=size)
        with self._channel.unsynced.cutting(self._file, size):
            node, _ = await self._channel.call(SET_ATTRIBUTES, request)
        self._size = node.size
        return size

    # -------------------------------------------------------------------------------- moving

    async def tell(self) -> int:
        if self.mode.append and self._gathered:
            await self.flush()
        return self._position

    async def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the new position."""
        if self.mode.append and self._gathered:
            await self.flush()
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset += (await self.stat()).size
        elif whence != io.SEEK_SET:
            raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        self._position = whole_number("offset", offset)
        return offset

    async def stat(self) -> Stat:
        """The open file's attributes."""
        if self._gathered or self._is_dirty:
            await self.flush()
        try:
            node, _ = await self._channel.call(STAT, build(pb.StatRequest, target=self._target))
        except NotFound as error:
            raise self._gone(error) from error
        self._size = node.size
        return stat_of(node)

    async def close(self) -> None:
        """Send what is gathered, and let go of the file. Raises what a write met."""
        if self._is_closed:
            return
        self._is_closed = True
        self._forget_buffer()
        try:
            await self.flush()
            await self._relief.end()
        finally:
            self._channel.file_closed(self._target.volume, self._target.inode)
            if not self._channel.closed:
                await self._channel.call(CLOSE, build(pb.StatRequest, target=self._target))

    def _gone(self, error: NotFound) -> NotFound:
        return NotFound("the open file is gone", **{**error.facts, "path": self.path})


def _joined(parts: list[Bulk]) -> bytes:
    if len(parts) == 1 and isinstance(parts[0], bytes):
        return parts[0]
    return b"".join(parts)
