"""Reading where the bytes are, on the server's own machine.

A mount that may read the server's files (root, or the same user) asks only where a file's bytes lie
and reads them itself: two copies and the server's time less, and a random read of a file that was
located before asks nobody at all. Bytes in segments never change in place, and each extent is
checked against its checksum when it is first read, so a wrong or missing file is noticed and the
server is asked instead, as it is for whatever is compressed or elsewhere.

Invariants: what is located is believed while the node is promised and nobody wrote there:
`written` forgets what a write of ours touches, `Node.trust_turn` moves with everything else.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from crc32c import crc32c

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.buffers import BUFFERS
from dataplatform.base.limits import KIB, MIB
from dataplatform.transport.connections import Bulk

from .calls import LOCATE, Calls

if TYPE_CHECKING:
    from .nodes import Node

logger = logging.getLogger(__name__)

WINDOW_BYTES = 256 * KIB
"""Located at a time for small reads: two extents, or as many bytes of the engine."""

AHEAD_BYTES = 4 * MIB
"""Located at a time for large reads."""

LARGE_BYTES = 64 * KIB
"""A read of so much is one of a sequence, most likely."""

KEPT_BYTES_MAX = 12 * MIB
"""What located windows hold, all together: mostly bytes that stand in no segment."""

PIECE_BYTES = 200
"""What remembering a piece costs."""

FILES_MAX = 64

SCATTERED_BYTES = WINDOW_BYTES // 2
SCATTERED_S = 2.0
"""Where so much of a window is in no segment (a file that was written in small pieces), locating it
would bring many times what is read: for a while small reads of that file ask the server."""

WRITTEN_S = 1.0
"""A file that is being written is located anew all the time: small reads of it ask the server."""

NOWAIT = getattr(os, "RWF_NOWAIT", 0)


class _Piece:
    """A range of the file: bytes, or where they lie in a segment."""

    __slots__ = (
        "at",
        "checksum",
        "data",
        "end",
        "is_checked",
        "offset",
        "segment",
        "skip",
        "stored",
    )

    def __init__(self, piece: pb.LocateReply.Piece, data: Bulk | None) -> None:
        self.offset = piece.offset
        self.end = piece.offset + piece.length
        self.data = data
        self.segment = piece.segment
        self.at = piece.at
        self.stored = piece.stored_length
        self.checksum = piece.checksum
        self.skip = piece.skip
        self.is_checked = False


class _Window:
    __slots__ = ("pieces", "size_bytes", "turn")

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.pieces: list[_Piece] = []
        self.size_bytes = PIECE_BYTES


class _File:
    """An open segment. It closes when nobody refers to it, so no thread ever reads from another."""

    __slots__ = ("descriptor",)

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.descriptor >= 0:
            close(self.descriptor)


class _Elsewhere(Exception):
    """The server has to be asked for the bytes."""


class Near:
    """The near reader of a mount."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._windows: OrderedDict[tuple[int, int], _Window] = OrderedDict()
        self._kept_bytes = 0
        self._files: OrderedDict[tuple[int, int], _File] = OrderedDict()
        self._has_read = False
        self._directories: dict[int, str] = {}
        self._without: set[int] = set()  # volumes whose files cannot be read here
        self._is_off = False
        self._disk = ThreadPoolExecutor(4, thread_name_prefix="near")

    def close(self) -> None:
        self._disk.shutdown(wait=False)
        self._files.clear()

    def written(self, node: Node, offset: int, length: int) -> None:
        """We wrote there: what was located does not hold any more."""
        if not self._windows:
            return
        for index in range(offset // WINDOW_BYTES, (offset + length - 1) // WINDOW_BYTES + 1):
            self._drop((node.number, index))

    async def read(self, node: Node, offset: int, size: int) -> list[Bulk] | None:
        """The bytes of [offset, offset + size), shorter at the end of the file; None: ask the
        server for them."""
        if self._is_off or not (node.known and node.promised) or node.volume in self._without:
            return None
        now_s = asyncio.get_running_loop().time()
        if size < LARGE_BYTES and now_s - node.written_s < WRITTEN_S:
            return None
        end = min(offset + size, node.size)
        if end <= offset:
            return []
        try:
            windows = self._find(node, offset, end)
            if windows is None:
                if size < LARGE_BYTES and now_s < node.scattered_s:
                    return None
                windows = await self._locate(node, offset, end)
            return await self._assemble(node, windows, offset, end)
        except _Elsewhere:
            return None
        except OSError as error:
            if error.errno == errno.ENOENT:
                self._forget(node)  # moved by compaction
                if not self._has_read:
                    self._turn_off("the server's files are not on this machine")
            else:
                self._turn_off(error)
            return None

    def _turn_off(self, reason: object) -> None:
        logger.info("files are read through the server. reason=`%s`", reason)
        self._is_off = True

    # ---- where

    def _find(self, node: Node, offset: int, end: int) -> list[_Window] | None:
        windows = []
        turn, number = node.trust_turn, node.number
        for index in range(offset // WINDOW_BYTES, (end - 1) // WINDOW_BYTES + 1):
            window = self._windows.get((number, index))
            if window is None or window.turn != turn:
                return None
            windows.append(window)
        return windows

    async def _locate(self, node: Node, offset: int, end: int) -> list[_Window]:
        first = offset // WINDOW_BYTES
        last = (end - 1) // WINDOW_BYTES
        if end - offset >= LARGE_BYTES:
            beyond = min(first * WINDOW_BYTES + AHEAD_BYTES, node.size)
            last = max(last, (beyond - 1) // WINDOW_BYTES)
        start = first * WINDOW_BYTES
        turn, mark = node.trust_turn, self._calls.mark()
        request = pb.ReadRequest(
            target=pb.Target(volume=node.volume, inode=node.inode),
            offset=start,
            length=(last + 1) * WINDOW_BYTES - start,
        )
        reply, data = await self._calls.call_bulk(LOCATE, request)
        if reply.elsewhere:
            node.scattered_s = asyncio.get_running_loop().time() + SCATTERED_S
            raise _Elsewhere
        if not reply.directory:
            self._without.add(node.volume)  # an object store, or an encrypted volume
            raise _Elsewhere
        self._directories[node.volume] = reply.directory
        windows = [_Window(turn) for _ in range(first, last + 1)]
        at = 0
        for piece in reply.pieces:
            if piece.packed:
                raise _Elsewhere
            found: Bulk | None = None
            if not piece.stored:
                found = memoryview(data)[at : at + piece.length]
                at += piece.length
            self._place(windows, start, _Piece(piece, found))
        if at > SCATTERED_BYTES * len(windows):
            node.scattered_s = asyncio.get_running_loop().time() + SCATTERED_S
        if self._calls.are_bytes_as_of(node, mark):
            for index, window in enumerate(windows, first):
                self._keep((node.number, index), window)
        return windows[: (end - 1) // WINDOW_BYTES - first + 1]

    def _place(self, windows: list[_Window], start: int, piece: _Piece) -> None:
        """A piece belongs to every window that it lies in."""
        first = (piece.offset - start) // WINDOW_BYTES
        last = (piece.end - 1 - start) // WINDOW_BYTES
        for window in windows[first : last + 1]:
            window.pieces.append(piece)
            window.size_bytes += PIECE_BYTES + (len(piece.data) if piece.data is not None else 0)

    def _keep(self, key: tuple[int, int], window: _Window) -> None:
        self._drop(key)
        self._windows[key] = window
        self._kept_bytes += window.size_bytes
        while self._kept_bytes > KEPT_BYTES_MAX and self._windows:
            _, old = self._windows.popitem(last=False)
            self._kept_bytes -= old.size_bytes

    def _drop(self, key: tuple[int, int]) -> None:
        window = self._windows.pop(key, None)
        if window is not None:
            self._kept_bytes -= window.size_bytes

    def _forget(self, node: Node) -> None:
        for key in [key for key in self._windows if key[0] == node.number]:
            self._drop(key)

    # ---- the bytes

    async def _assemble(
        self, node: Node, windows: list[_Window], offset: int, end: int
    ) -> list[Bulk]:
        parts: list[Bulk] = []
        at = offset
        pieces = [piece for window in windows for piece in window.pieces]
        index = 0
        while index < len(pieces):
            piece = pieces[index]
            index += 1
            if piece.end <= at or piece.offset >= end:
                continue
            if piece.offset > at:
                parts.append(bytes(piece.offset - at))
                at = piece.offset
            stop = min(piece.end, end)
            if piece.data is not None:
                start = at - piece.offset
                parts.append(memoryview(piece.data)[start : start + stop - at])
            elif piece.is_checked and stop - at < LARGE_BYTES:
                parts.append(self._checked_bytes(node.volume, piece, at, stop))
            else:
                run = [piece]
                while index < len(pieces) and _follows(pieces[index], run[-1], end):
                    run.append(pieces[index])
                    index += 1
                stop = min(run[-1].end, end)
                parts += await self._run_bytes(node.volume, run, at, stop)
            at = stop
        if at < end:
            parts.append(bytes(end - at))
        self._calls.stats.read_bytes += end - offset
        return parts

    def _checked_bytes(self, volume: int, piece: _Piece, start: int, stop: int) -> bytes:
        at = piece.at + piece.skip + start - piece.offset
        data = os.pread(self._file(volume, piece.segment).descriptor, stop - start, at)
        if len(data) != stop - start:
            raise _Elsewhere
        return data

    async def _run_bytes(self, volume: int, run: list[_Piece], start: int, stop: int) -> list[Bulk]:
        """Extents that lie one behind the other, in one read; each is checked as a whole."""
        first = run[0]
        length = sum(piece.stored for piece in run)
        file = self._file(volume, first.segment)
        view = BUFFERS.take(length)
        if not _read_cached(file.descriptor, view, first.at):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._disk, _read_whole, file, view, first.at)
        parts: list[Bulk] = []
        at = 0
        for piece in run:
            stored = view[at : at + piece.stored]
            if not piece.is_checked:
                if crc32c(stored) != piece.checksum:
                    self._turn_off("what is there is not what the server stored")
                    raise _Elsewhere
                piece.is_checked = self._has_read = True
            skip = piece.skip + max(start - piece.offset, 0)
            parts.append(stored[skip : piece.skip + min(stop, piece.end) - piece.offset])
            at += piece.stored
        return parts

    def _file(self, volume: int, segment: int) -> _File:
        key = volume, segment
        file = self._files.get(key)
        if file is None:
            file = _File(f"{self._directories[volume]}/{segment:016x}.seg")
            self._files[key] = file
            if len(self._files) > FILES_MAX:
                self._files.popitem(last=False)
        else:
            self._files.move_to_end(key)
        return file

    def let_go(self) -> None:
        """Close files that the server has removed: their space is free only then."""
        for key, file in list(self._files.items()):
            if not os.fstat(file.descriptor).st_nlink:
                del self._files[key]


def _follows(piece: _Piece, last: _Piece, end: int) -> bool:
    return (
        piece.data is None
        and piece.offset == last.end
        and piece.offset < end
        and piece.segment == last.segment
        and piece.at == last.at + last.stored
    )


def _read_cached(descriptor: int, view: memoryview, offset: int) -> bool:
    """Fill the view from the page cache; False if the disk would have to be waited for."""
    try:
        return os.preadv(descriptor, [view], offset, NOWAIT) == len(view)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise


def _read_whole(file: _File, view: memoryview, offset: int) -> None:
    """In a thread."""
    done = 0
    while done < len(view):
        count = os.preadv(file.descriptor, [view[done:]], offset + done)
        if not count:
            raise OSError(errno.ENOENT, "the segment ends too early")
        done += count
