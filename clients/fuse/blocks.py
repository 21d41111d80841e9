"""The read cache on local disk: blocks of files, kept within a size, checked when they are read.

What is kept is named by what never changes: the store, the file, and the commit that left its bytes
so (`Content`). The server says of which commit the bytes of a read are, and says nothing where they
are not durable yet or where writes are buffered on top; only bytes with such a name are stored. Of
which commit a file's bytes are *now* is known from its node, while that is promised and nothing was
written here since (`Node.content`). So nothing old is ever shown, whatever happens to the file, the
server or the cache meanwhile, and what is there is used again after a new mount, by other mounts of
the same store, and by none of another.

A read takes what is on disk, and asks the server for the rest of it in whole pieces; those are
stored behind the reader's back. While nothing is known of a file's present bytes, as in one that is
being written to, it asks for what is wanted and stores nothing.

Invariants: the index is only touched by the loop, files only by threads; a block that is not in
the index is looked for on disk only while the index is being read; the cache grows beyond its size
by no more than what is being stored. Whatever is wrong with the disk costs a call to the server, no
more than one line in the log until it is right again, and never a reader.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from dataplatform.base.limits import MIB
from dataplatform.transport.connections import Bulk

from .blockfiles import BLOCK_PIECES, PIECE_BYTES, BlockFiles, Pieces, Place, Stored
from .nodes import Content, Node
from .stats import Stats

logger = logging.getLogger(__name__)

T = TypeVar("T")

THREADS = 4
"""Enough for the kernel's readahead; more only wait for the same disk."""

STORING_BYTES_MAX = 32 * MIB
"""On their way to a disk that is slower than the server: beyond it nothing more is stored."""

BLOCKS_MAX = 500_000
"""In the index, some 500 bytes each: half a tebibyte, or that many small files."""

SMALLEST_BYTES = 4096
"""What a block takes at least."""

RETRY_S = 60.0
"""How long nothing is stored after the disk was full or failed."""

TOUCH_S = 600.0
"""How often a file is marked as used: how exactly a later mount knows what is old."""

SCAN_S = 600.0
"""How often it is looked what other mounts have stored."""


class Fetched(NamedTuple):
    """What the server sent, and what that is of, if it can be told."""

    data: Bulk
    content: Content | None


Ask = Callable[[int, int], Awaitable[Fetched]]
"""(offset, size): what the server has there."""

Key = tuple[int, int, int]
"""(volume, inode, block)."""


class _Span(NamedTuple):
    """Neighbouring pieces of one block."""

    block: int
    first: int
    lengths: list[int]

    @property
    def indexes(self) -> range:
        return range(self.first, self.first + len(self.lengths))


class _Block:
    """What the index knows of a block."""

    __slots__ = ("place", "size_bytes", "touched_s")

    def __init__(self, place: Place, size_bytes: int, touched_s: float) -> None:
        self.place = place
        self.size_bytes = size_bytes
        self.touched_s = touched_s


class Blocks:
    """The cache of one mount. `begin` it, and `close` it."""

    def __init__(
        self, files: BlockFiles, size_bytes_max: int, stats: Stats, store: Callable[[], bytes]
    ) -> None:
        """`store`: what the server serves right now, to be compared with what it did at first."""
        self._files = files
        self._size_bytes_max = size_bytes_max
        self._stats = stats
        self._store = store
        self._first_store = store()
        self._threads = ThreadPoolExecutor(THREADS, "blocks")
        self._index: OrderedDict[Key, _Block] = OrderedDict()  # the least recently used first
        self._size_bytes = 0
        self._storing_bytes = 0
        self._scanned = asyncio.Event()  # from then on the index has all that is on disk
        self._paused_until_s = 0.0
        self._has_complained = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._scanning: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """OSError if nothing can be stored there."""
        await self._run(self._files.open)
        self._scanning = asyncio.create_task(self._scan_now_and_then())

    async def close(self) -> None:
        if self._scanning is not None:
            self._scanning.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def settled(self) -> None:
        """Wait until everything that was read is stored."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def scanned(self) -> None:
        """Wait until all that is on disk was found."""
        await self._scanned.wait()

    # ---- reading

    async def read(self, node: Node, offset: int, size: int, ask: Ask) -> Bulk:
        """The bytes of [offset, offset + size), shorter at the end of the file."""
        content = node.content
        if content is None or size <= 0 or self._store() != self._first_store:
            return (await ask(offset, size)).data
        end = min(offset + size, content.size)
        if end <= offset:
            return b""
        first, last = offset // PIECE_BYTES, (end - 1) // PIECE_BYTES
        before, missing, behind = await self._from_disk(node, content, first, last)
        parts = before
        if missing:
            start = missing[0] * PIECE_BYTES
            stop = min((missing[-1] + 1) * PIECE_BYTES, content.size)
            fetched = await ask(start, stop - start)
            if fetched.content == content and len(fetched.data) == stop - start:
                self._keep(node, content, missing[0], fetched.data)
            elif start > offset or stop < end or len(fetched.data) < end - start:
                # The file has changed since the other pieces were stored: not both in one read.
                return (await ask(offset, size)).data
            parts = [*before, memoryview(fetched.data), *behind]
        else:
            self._stats.cached_read_bytes += end - offset
        whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
        return whole[offset - first * PIECE_BYTES : end - first * PIECE_BYTES]

    async def _from_disk(
        self, node: Node, content: Content, first: int, last: int
    ) -> tuple[list[memoryview], range, list[memoryview]]:
        """The pieces that are on disk, in order: those before what is missing, the pieces from the
        first to the last one missing, and those behind."""
        spans = []
        missing: list[int] = []
        for span in _spans(content, first, last):
            pieces = await self._look(_place(node, content, span.block), span)
            at = span.block * BLOCK_PIECES
            indexes = span.indexes if pieces is None else pieces.missing
            missing += [at + index for index in indexes]
            spans.append((at + span.first, pieces))
        if not missing:
            return [pieces.data for _, pieces in spans if pieces is not None], range(0), []
        before, behind = [], []
        for at, pieces in spans:
            if pieces is not None:
                before.append(pieces.data[: max(missing[0] - at, 0) * PIECE_BYTES])
                behind.append(pieces.data[max(missing[-1] + 1 - at, 0) * PIECE_BYTES :])
        return _filled(before), range(missing[0], missing[-1] + 1), _filled(behind)

    async def _look(self, place: Place, span: _Span) -> Pieces | None:
        key = place[:3]
        block = self._index.get(key)
        if block is None or block.place != place:
            if self._scanned.is_set():
                return None
            block = None
        now_s = time.monotonic()
        touch = block is not None and now_s - block.touched_s > TOUCH_S
        try:
            pieces = await self._run(
                lambda: self._files.read(place, span.first, span.lengths, touch=touch)
            )
        except OSError as error:
            self._complain("read", error)
            await self._remove(place)
            return None
        if pieces is None:
            self._forget(place)  # another mount has removed it
        elif pieces.is_damaged:
            logger.warning("a damaged block was removed from the cache. block=`%s`", place.name)
            await self._remove(place)
        elif block is not None and self._index.get(key) is block:
            self._index.move_to_end(key)
            if touch:
                block.touched_s = now_s
        return pieces

    # ---- storing

    def _keep(self, node: Node, content: Content, first: int, data: Bulk) -> None:
        """Store what was fetched, unless the disk does not keep up, or does not work."""
        size = len(data)
        if (
            self._storing_bytes + size > STORING_BYTES_MAX
            or time.monotonic() < self._paused_until_s
            or size > self._size_bytes_max
        ):
            return
        view = memoryview(data)
        pieces = [view[at : at + PIECE_BYTES] for at in range(0, size, PIECE_BYTES)]
        self._storing_bytes += size
        self._begin(self._store_pieces(node, content, first, pieces, size))

    async def _store_pieces(
        self, node: Node, content: Content, first: int, pieces: list[memoryview], size: int
    ) -> None:
        try:
            for span in _spans(content, first, first + len(pieces) - 1):
                at = span.block * BLOCK_PIECES + span.first - first
                place = _place(node, content, span.block)
                await self._store_span(place, span, pieces[at : at + len(span.lengths)])
            self._has_complained = False
        except OSError as error:
            self._paused_until_s = time.monotonic() + RETRY_S
            self._complain("stored", error)
        finally:
            self._storing_bytes -= size
        await self._make_room()

    async def _store_span(self, place: Place, span: _Span, pieces: list[memoryview]) -> None:
        key = place[:3]
        known = self._index.get(key)
        if known is not None and known.place != place:
            await self._remove(known.place)  # of an older content
            known = None
        try:
            await self._run(lambda: self._files.write(place, span.first, pieces))
        except OSError:
            await self._remove(place)  # what of it is there is torn
            raise
        size = known.size_bytes if known is not None else 0
        size = min(size + sum(span.lengths), BLOCK_PIECES * PIECE_BYTES)
        self._enter(key, _Block(place, max(size, SMALLEST_BYTES), time.monotonic()))

    async def _make_room(self) -> None:
        while self._index and (
            self._size_bytes > self._size_bytes_max or len(self._index) > BLOCKS_MAX
        ):
            await self._remove(next(iter(self._index.values())).place)

    async def _remove(self, place: Place) -> None:
        self._forget(place)
        try:
            await self._run(lambda: self._files.remove(place))
        except OSError as error:
            self._complain("removed", error)

    # ---- the index

    def _enter(self, key: Key, block: _Block) -> None:
        """It is there, and the last one used."""
        old = self._index.pop(key, None)
        if old is not None:
            self._size_bytes -= old.size_bytes
        self._index[key] = block
        self._size_bytes += block.size_bytes
        self._count()

    def _forget(self, place: Place) -> None:
        """It is not there any more."""
        block = self._index.get(place[:3])
        if block is not None and block.place == place:
            del self._index[place[:3]]
            self._size_bytes -= block.size_bytes
            self._count()

    def _count(self) -> None:
        self._stats.cached_bytes = self._size_bytes

    async def _scan_now_and_then(self) -> None:
        while True:
            began_s = time.monotonic()
            try:
                stored = await self._run(lambda: sorted(self._files.scan(), key=_when))
            except OSError as error:
                self._complain("looked through", error)
            else:
                self._drop_unseen({found.place for found in stored}, began_s)
                await self._take_in(stored)
                self._scanned.set()
            await asyncio.sleep(SCAN_S)

    def _drop_unseen(self, seen: set[Place], began_s: float) -> None:
        """What other mounts have removed."""
        for block in list(self._index.values()):
            if block.touched_s < began_s and block.place not in seen:
                self._forget(block.place)

    async def _take_in(self, stored: list[Stored]) -> None:
        """What this mount does not know is older than what it has used. Of two contents of a block
        the one that was used last stays."""
        unknown: dict[Key, _Block] = {}
        for found in stored:
            key = found.place[:3]
            block = _Block(found.place, max(found.size_bytes, SMALLEST_BYTES), 0.0)
            known = self._index.get(key) or unknown.pop(key, None)
            if known is None or known.place == found.place:
                if key not in self._index:
                    unknown[key] = block
            elif key in self._index:
                await self._remove(found.place)
            else:
                await self._remove(known.place)
                unknown[key] = block
        for key, block in unknown.items():
            if key not in self._index:
                self._enter(key, block)
        for key in reversed(unknown):
            self._index.move_to_end(key, last=False)
        await self._make_room()

    # ---- threads

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _complain(self, what: str, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.warning(
                "the cache could not be %s, and is done without. reason=`%s`", what, error
            )


def _when(stored: Stored) -> float:
    return stored.used_s


def _place(node: Node, content: Content, block: int) -> Place:
    mtime = content.mtime_ns & 0xFFFF_FFFF_FFFF_FFFF
    return Place(node.volume, node.inode, block, content.version, mtime)


def _spans(content: Content, first: int, last: int) -> Iterator[_Span]:
    """Pieces of the file, first to last, by block."""
    while first <= last:
        block, index = divmod(first, BLOCK_PIECES)
        count = min(last + 1 - first, BLOCK_PIECES - index)
        lengths = [
            min(PIECE_BYTES, content.size - piece * PIECE_BYTES)
            for piece in range(first, first + count)
        ]
        yield _Span(block, index, lengths)
        first += count


def _filled(parts: list[memoryview]) -> list[memoryview]:
    return [part for part in parts if part]
