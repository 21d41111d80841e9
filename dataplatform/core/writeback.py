"""Buffered file writes: durable at fsync, and within a second otherwise (D5), as on a local disk.

A write that nobody has synced yet lives here: small ones as bytes, large ones already in a segment,
and the file's map is changed when they are flushed: one unit for many writes, neighbours joined,
and, above all, an extent's bytes are synced before the commit that names them (D3).

Every reader of a file's bytes, size or times looks here too (`overlay`, `apply`). Every unit that
works on a file's data is preceded by `flush` of that file, so acknowledged writes come first.

Whoever keeps the file in a cache is told when a write is taken; a flush changes nothing that
anybody sees.

What a killed server loses of this is what a crashed machine loses of its page cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Any

from ..base.errors import Conflict, Invalid, NotFound, PlatformError
from ..base.limits import EXTENT_BYTES_MIN, FILE_BYTES_MAX, MIB
from ..keyspace.records import Extent, Inode, Kind, Piece
from . import extents, filemap, owners
from .access.verbs import Verb
from .principals import Principal
from .promises import Told
from .quotas import VOLUME_ONLY, Chain
from .units import Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume

log = logging.getLogger(__name__)

PENDING_BYTES_MAX = 32 * MIB
"""Bytes held in memory per volume before writers wait for a flush."""

UNSYNCED_BYTES_MAX = 256 * MIB
"""Bytes in segments that no commit names yet, per volume, before writers wait for a flush."""

FLUSH_PIECES_MAX = 4000
FLUSH_BYTES_MAX = 8 * MIB
"""Buffered pieces and bytes of one file before it is flushed, so that one unit holds them."""

TAKEN_MAX = 10_000
"""Slots of clients whose last write with an expected size is remembered."""

TOGETHER_MAX = 64
"""Small files whose writes are flushed as one unit."""

AGE_S = 0.5
"""Flushed when older, by `run_once` every half second: durable within a second or so."""


class Pending:
    """What was written to one file and not flushed yet."""

    __slots__ = (
        "growth_bytes",
        "memory_bytes",
        "mtime_ns",
        "others",
        "pieces",
        "request",
        "segment_bytes",
        "since_s",
        "size",
    )

    def __init__(self, request: Request, since_s: float) -> None:
        self.pieces: list[Piece] = []
        self.size = 0  # the end of the furthest write
        self.mtime_ns = 0
        self.memory_bytes = 0
        self.segment_bytes = 0
        self.growth_bytes = 0  # by which the file may grow, as the quota was asked
        self.request = Request(request.principal, origin=request.origin)
        self.others: list[Request] = []  # who else wrote
        self.since_s = since_s

    def by(self, request: Request) -> None:
        """Remember who writes."""
        for known in (self.request, *self.others):
            if known.principal is request.principal and known.origin == request.origin:
                return
        self.others.append(Request(request.principal, origin=request.origin))

    def add(self, piece: Piece) -> None:
        filemap.overlay(self.pieces, piece)
        self.size = max(self.size, piece.end)
        if piece.data is not None:
            self.memory_bytes += piece.length
        else:
            self.segment_bytes += piece.length


Batch = list[tuple[int, Pending]]
"""Files, by number, and what is flushed of them."""


class Writeback:
    """The buffered writes of one volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._pending: dict[int, Pending] = {}
        self._flushing: dict[int, tuple[Pending, asyncio.Future[None]]] = {}
        self._complaint = ""  # what the last flush met, if it failed
        self._near_quota = asyncio.Lock()
        self._taken: dict[tuple[bytes | None, int], tuple[int, int, int]] = {}
        # of each slot, the last write that expected a size: (sequence, offset, length)
        self.memory_bytes = 0
        self.segment_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._pending or self._flushing)

    # ---- writing

    async def write(
        self,
        request: Request,
        number: int,
        offset: int,
        data: bytes | memoryview,
        *,
        expected_size: int | None = None,
        mtime_ns: int = 0,
    ) -> tuple[int, Told]:
        """Take a write: the file's new size, and who has to acknowledge that before anybody is
        answered. Not durable.

        `mtime_ns`: when it was written; 0: now. NOT_FOUND, INVALID, EXHAUSTED; CONFLICT, with the
        size, unless the file has the expected one at the moment at which the write is taken.
        """
        volume = self._volume
        if offset < 0 or offset + len(data) > FILE_BYTES_MAX:
            raise Invalid("the offset is beyond the largest file", offset=offset, errno=errno.EFBIG)
        version = volume.quotas.version
        is_free = request.principal.is_free and not volume.read_only
        inode = await (self._file(number) if is_free else self._writable(request, number))
        if not data:
            size = self.size_of(inode)
            expect_size(size, expected_size)
            return size, ()
        is_limited = volume.quotas.has_limits
        growth_bytes = len(data) if inode.links else 0
        if is_limited:
            growth_bytes = await self._ask_quota(inode, version, offset, len(data))
        elif growth_bytes:
            volume.quotas.hold(number, VOLUME_ONLY, growth_bytes)
        mtime_ns = mtime_ns or volume.clock.now_ns()
        try:
            with volume.holds.append():
                pieces = await self._pieces(offset, data)
                if expected_size is not None:
                    async with volume.lane.between():
                        inode = await self._file(number)
                        before = self.size_of(inode)
                        if not self._is_repeated(request, offset, len(data)):
                            expect_size(before, expected_size)
                        self._take_all(request, number, pieces, mtime_ns)
                        self._remember(request, offset, len(data))
                else:
                    if pieces[0].extent is not None or is_limited:
                        inode = await self._file(number)  # other writes were flushed meanwhile
                    self._take_all(request, number, pieces, mtime_ns)
        except BaseException:
            volume.quotas.release(number, growth_bytes)
            raise
        told: Told = ()
        if volume.promises:
            told = volume.promises.written(volume.id, number, request.caller)
        pending, size = self._pending[number], self.size_of(inode)
        pending.growth_bytes += growth_bytes
        await self._make_room(number)
        return size, told

    async def write_parts(
        self,
        request: Request,
        number: int,
        parts: list[tuple[int, bytes | memoryview]],
        *,
        mtime_ns: int = 0,
    ) -> tuple[int, Told]:
        """Several writes of one file, one after the other: as `write` of each. When one is refused,
        those before it are taken."""
        volume = self._volume
        quotas, version = volume.quotas, volume.quotas.version
        is_free = request.principal.is_free and not volume.read_only
        inode = await (self._file(number) if is_free else self._writable(request, number))
        length = sum(len(data) for _, data in parts)
        is_small = all(0 < len(data) < EXTENT_BYTES_MIN for _, data in parts)
        chain = VOLUME_ONLY
        if inode.links and quotas.has_limits:
            chain = await quotas.chain_of_file(inode, version)
            is_small = is_small and quotas.find_full(chain, length) is None
        if not is_small:
            size = 0
            told: list[Any] = []
            for offset, data in parts:
                size, news = await self.write(request, number, offset, data, mtime_ns=mtime_ns)
                told += news
            return size, told
        mtime_ns = mtime_ns or volume.clock.now_ns()
        with volume.holds.append():
            for offset, data in parts:
                if offset < 0 or offset + len(data) > FILE_BYTES_MAX:
                    raise Invalid(
                        "the offset is beyond the largest file", offset=offset, errno=errno.EFBIG
                    )
                self._take(request, number, Piece(offset, len(data), bytes(data)), mtime_ns)
                if inode.links:
                    quotas.hold(number, chain, len(data))
                    self._pending[number].growth_bytes += len(data)
        news_of_all = (
            volume.promises.written(volume.id, number, request.caller) if volume.promises else ()
        )
        size = self.size_of(inode)
        await self._make_room(number)
        return size, news_of_all

    async def _make_room(self, number: int) -> None:
        """Flush what is too much."""
        pending = self._pending.get(number)
        if pending is not None and (
            len(pending.pieces) > FLUSH_PIECES_MAX or pending.memory_bytes > FLUSH_BYTES_MAX
        ):
            await self.flush(number)
        elif self.memory_bytes > PENDING_BYTES_MAX or self.segment_bytes > UNSYNCED_BYTES_MAX:
            await self.flush_all()

    async def write_through(
        self,
        request: Request,
        number: int,
        parts: list[tuple[int, bytes | memoryview]],
        *,
        expected_size: int | None = None,
        mtime_ns: int = 0,
    ) -> int | None:
        """Small writes that are waited for, as one durable unit: the file's size afterwards. None
        if they have to go the ordinary way: bytes of the file are buffered, or these are bulk.
        Raises as `write`."""
        if number in self._pending or number in self._flushing:
            return None
        pieces: list[Piece] = []
        for offset, data in parts:
            if not 0 < len(data) < EXTENT_BYTES_MIN:
                return None
            if offset < 0 or offset + len(data) > FILE_BYTES_MAX:
                raise Invalid(
                    "the offset is beyond the largest file", offset=offset, errno=errno.EFBIG
                )
            filemap.overlay(pieces, Piece(offset, len(data), bytes(data)))

        async def work(unit: Unit) -> int:
            inode = await unit.find_inode(number)
            if inode is None or inode.kind != Kind.FILE:
                inode = await self._file(number)  # says what is wrong
            await unit.allow(inode, Verb.WRITE, opened=True)
            owners.written(request.principal, inode)
            size = self.size_of(inode)
            expect_size(size, expected_size)
            await filemap.write(unit, inode, pieces)
            written_ns = mtime_ns or unit.now_ns
            self._written(inode, pieces[-1].end, written_ns)
            unit.save(inode)
            await _tell_written(unit, inode, pieces)
            return max(size, inode.size)

        return await self._volume.run(request, work, durable=True)

    @staticmethod
    def _written(inode: Inode, end: int, mtime_ns: int) -> None:
        inode.size = max(inode.size, end)
        inode.mtime_ns = mtime_ns  # later than what utimens(2) set, whatever that was
        inode.ctime_ns = max(inode.ctime_ns, mtime_ns)

    def _is_repeated(self, request: Request, offset: int, length: int) -> bool:
        """Whether this very write was taken before in this life of the server: then the file has no
        longer the size that it expected, and only its reply was lost."""
        key = (request.session, request.slot)
        return self._taken.get(key) == (request.sequence, offset, length)

    def _remember(self, request: Request, offset: int, length: int) -> None:
        if request.session is None:
            return
        key = (request.session, request.slot)
        self._taken.pop(key, None)
        self._taken[key] = (request.sequence, offset, length)
        if len(self._taken) > TAKEN_MAX:
            del self._taken[next(iter(self._taken))]

    async def _ask_quota(self, inode: Inode, version: int, offset: int, length: int) -> int:
        """By how much the file may grow through a write: so much is held for it until it is
        flushed. EXHAUSTED (EDQUOT) now rather than then, when nobody is there to hear it."""
        number, quotas = inode.number, self._volume.quotas
        if not inode.links:
            return 0
        chain = VOLUME_ONLY
        if quotas.directories:
            chain = await quotas.chain_of_file(inode, version)
        full = quotas.find_full(chain, length)
        if full is None:
            quotas.hold(number, chain, length)
            return length
        flushed: set[int] = set()
        async with self._near_quota:
            while full is not None and full not in flushed:
                flushed.add(full)
                await self._flush_each(quotas.holding(full))  # then it is known what they took
                version = quotas.version
                new_bytes = await self._new_bytes(number, offset, length)
                inode = await self._file(number)
                if not inode.links:
                    return 0
                chain = await quotas.chain_of_file(inode, version)
                full = quotas.find_full(chain, new_bytes) if new_bytes else None
                if full is None:
                    quotas.hold(number, chain, new_bytes)
                    return new_bytes
            raise await quotas.refusal(full)

    async def _new_bytes(self, number: int, offset: int, length: int) -> int:
        """How much of the range has no bytes yet that are committed."""
        end = offset + length
        stored = await filemap.load(self._volume.storage.engine, number, offset, end)
        return length - sum(p.length for p in filemap.within(stored, offset, end))

    async def tighten(self, number: int) -> None:
        """Hold no more for the file than its buffered writes will take. While a unit is under way:
        then no flush is committed."""
        layers = self.layers(number)
        inode = await self._volume.find_inode(number)
        known: list[Piece] = []
        if layers and inode is not None and inode.links:
            start = min(layer.pieces[0].offset for layer in layers)
            end = max(layer.size for layer in layers)
            known = await filemap.load(self._volume.storage.engine, number, start, end)
        if not self.still(number, layers):
            return
        before = sum(p.length for p in known)
        for layer in layers:
            growth = 0
            if inode is not None and inode.links:
                for piece in layer.pieces:
                    filemap.overlay(known, piece)
                after = sum(p.length for p in known)
                before, growth = after, after - before
            growth = min(growth, layer.growth_bytes)
            self._volume.quotas.release(number, layer.growth_bytes - growth)
            layer.growth_bytes = growth

    async def _writable(self, request: Request, number: int) -> Inode:
        """The file, if the request's principal may write to it."""
        volume = self._volume
        if volume.read_only:
            raise volume.refusal()
        inode = await self._file(number)
        principal = request.principal
        if principal.is_free:
            return inode
        if not volume.guard.allows_now(principal, volume, inode, Verb.WRITE):
            await volume.allow(
                principal, inode, Verb.WRITE, session=request.caller, origin=request.origin
            )
        if owners.loses_set_ids(principal, inode):

            async def work(unit: Unit) -> None:
                found = await unit.inode(number)
                owners.written(principal, found)
                unit.save(found)

            await self._volume.run(request.step, work, durable=False)
        return inode

    async def _file(self, number: int) -> Inode:
        inode = await self.find(number)
        if inode is None:
            raise NotFound("no such file", inode=number)
        if inode.kind != Kind.FILE:
            is_directory = inode.kind == Kind.DIRECTORY
            raise Invalid(
                "not a file", inode=number, errno=errno.EISDIR if is_directory else errno.EINVAL
            )
        return inode

    async def _pieces(self, offset: int, data: bytes | memoryview) -> list[Piece]:
        if len(data) < EXTENT_BYTES_MIN:
            return [Piece(offset, len(data), bytes(data))]
        written = await extents.append_many(
            self._volume.storage.segments,
            memoryview(data),
            extents.FILE_EXTENT_BYTES_MAX,
            compression=self._volume.settings.compression,
        )
        return pieces_of(offset, written)

    def _take_all(self, request: Request, number: int, pieces: list[Piece], mtime_ns: int) -> None:
        for piece in pieces:
            self._take(request, number, piece, mtime_ns)

    def _take(self, request: Request, number: int, piece: Piece, mtime_ns: int) -> None:
        pending = self._pending.get(number)
        if pending is None:
            pending = Pending(request, self._volume.clock.monotonic())
            self._pending[number] = pending
        elif pending.request.origin != request.origin or (
            pending.request.principal is not request.principal
        ):
            pending.by(request)
        memory, segment = pending.memory_bytes, pending.segment_bytes
        pending.add(piece)
        pending.mtime_ns = max(pending.mtime_ns, mtime_ns)
        self.memory_bytes += pending.memory_bytes - memory
        self.segment_bytes += pending.segment_bytes - segment

    def may_grow(self, number: int, chain: Chain, size_bytes: int) -> None:
        """Bytes went that what is buffered for the file may lie over: it grows by them, then."""
        pending = self._pending.get(number)
        if pending is not None:
            pending.growth_bytes += size_bytes
            self._volume.quotas.hold(number, chain, size_bytes)

    def has(self, number: int) -> bool:
        """Whether anything is buffered for the file."""
        return number in self._pending or number in self._flushing

    def lowest_segment(self) -> int | None:
        """The lowest segment that a buffered write refers to: it must not be deleted."""
        layers = [*self._pending.values(), *(f[0] for f in self._flushing.values())]
        named = (p.extent.segment for layer in layers for p in layer.pieces if p.extent)
        return min(named, default=None)

    # ---- reading what is not flushed

    def layers(self, number: int) -> list[Pending]:
        """What is buffered for a file, older first. Whoever reads the engine, and then looks here,
        takes the layers before and asks `still` after: what was flushed in between is in neither
        of the two places that it looked at. Then it uses these layers and no newer one: below that
        there may be what was flushed unseen."""
        layers = []
        flushing = self._flushing.get(number)
        if flushing is not None:
            layers.append(flushing[0])
        pending = self._pending.get(number)
        if pending is not None:
            layers.append(pending)
        return layers

    def still(self, number: int, layers: list[Pending]) -> bool:
        """Whether all these layers are still buffered."""
        if not layers:
            return True
        now = self.layers(number)
        return all(layer in now for layer in layers)

    async def find(self, number: int) -> Inode | None:
        """The inode as committed, read at a moment when nothing was between the engine and here:
        complete it at once."""
        while True:
            layers = self.layers(number)
            inode = await self._volume.find_inode(number)
            if self.still(number, layers):
                return inode

    def overlay(
        self, layers: list[Pending], pieces: list[Piece], start: int, end: int
    ) -> list[Piece]:
        """Committed pieces with the buffered ones laid over, cut to [start, end)."""
        result = filemap.within(pieces, start, end)
        for layer in layers:
            for piece in filemap.within(layer.pieces, start, end):
                filemap.overlay(result, piece)
        return result

    def size_of(self, inode: Inode, layers: list[Pending] | None = None) -> int:
        """With what is buffered: by now, or in these layers."""
        if layers is None:
            layers = self.layers(inode.number)
        return max([inode.size, *(layer.size for layer in layers)])

    def apply(self, inode: Inode) -> Inode:
        """Size and times as a reader should see them, put into this copy of the inode."""
        for layer in self.layers(inode.number):
            inode.buffered = True
            inode.size = max(inode.size, layer.size)
            inode.mtime_ns = layer.mtime_ns  # later than what utimens(2) set, whatever that was
            inode.ctime_ns = max(inode.ctime_ns, layer.mtime_ns)
        return inode

    # ---- flushing

    async def flush(self, number: int) -> None:
        """Commit what is buffered for one file (not durable yet: see `Lane.durable`)."""
        while True:
            under_way = self._flushing.get(number)
            if under_way is not None:
                await asyncio.shield(under_way[1])
                continue
            if number not in self._pending:
                return
            await self._begin_flush([number])

    async def _begin_flush(self, numbers: list[int]) -> None:
        """Flush files as one unit: they have something buffered, and are not being flushed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch = [(number, self._pending.pop(number)) for number in numbers]
        for number, pending in batch:
            self._flushing[number] = (pending, done)
        # A task of its own: whoever asked for the flush may give up, a commit may not.
        flushing = asyncio.create_task(self._flush(batch, done))
        flushing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(flushing)

    async def _flush(self, batch: Batch, done: asyncio.Future[None]) -> None:
        try:
            with self._volume.holds.append():
                await self._commit(batch)
        except BaseException:
            for number, pending in batch:
                self._put_back(number, pending)
            raise
        else:
            for number, pending in batch:
                self._volume.quotas.release(number, pending.growth_bytes)
                self.memory_bytes -= pending.memory_bytes
                self.segment_bytes -= pending.segment_bytes
        finally:
            for number, _ in batch:
                del self._flushing[number]
            done.set_result(None)

    def _put_back(self, number: int, pending: Pending) -> None:
        """Nothing is lost by a failed flush: newer writes go over the older ones again."""
        newer = self._pending.get(number)
        if newer is not None:
            for piece in newer.pieces:
                filemap.overlay(pending.pieces, piece)
            pending.size = max(pending.size, newer.size)
            pending.mtime_ns = max(pending.mtime_ns, newer.mtime_ns)
            for request in (newer.request, *newer.others):
                pending.by(request)
            pending.growth_bytes += newer.growth_bytes
            pending.memory_bytes += newer.memory_bytes
            pending.segment_bytes += newer.segment_bytes
        self._pending[number] = pending

    async def _commit(self, batch: Batch) -> None:
        volume = self._volume
        work_on = []
        for number, pending in batch:
            pieces = await self._bulk(filemap.join(pending.pieces))
            work_on.append((number, pending, pieces))
        if any(p.extent is not None for _, _, pieces in work_on for p in pieces):
            await volume.storage.segments.sync()

        async def work(unit: Unit) -> None:
            unit.told_before = True
            unit.accepted = True  # a quota that was lowered since must not make them be lost
            for number, pending, pieces in work_on:
                inode = await unit.find_inode(number)
                if inode is None:  # removed meanwhile: nobody can read it any more
                    continue
                await filemap.write(unit, inode, pieces)
                self._written(inode, pending.size, pending.mtime_ns)
                unit.save(inode)
                for request in (pending.request, *pending.others):
                    await _tell_written(unit, inode, pieces)
                    unit.by(request, len(unit.events) - 1, len(unit.events))

        await volume.run(batch[0][1].request, work, durable=False)

    async def _bulk(self, pieces: list[Piece]) -> list[Piece]:
        """Move runs of small writes that are bulk by now to a segment."""
        result: list[Piece] = []
        for piece in pieces:
            if piece.data is None or piece.length < EXTENT_BYTES_MIN:
                result.append(piece)
            else:
                result += await self._pieces(piece.offset, piece.data)
        return result

    async def flush_all(self) -> None:
        """The first error is raised when all files had their turn."""
        await self._flush_each(list(self._pending) + list(self._flushing))

    async def try_flush_all(self) -> dict[int, PlatformError]:
        """The same; what keeps which files from being flushed."""
        return await self._try_flush(list(self._pending) + list(self._flushing))

    async def _flush_each(self, numbers: list[int]) -> None:
        for error in (await self._try_flush(numbers)).values():
            raise error

    async def _try_flush(self, numbers: list[int]) -> dict[int, PlatformError]:
        errors: dict[int, PlatformError] = {}
        for number in numbers:
            try:
                await self.flush(number)
            except PlatformError as error:
                errors[number] = error
        return errors

    async def _flush_small(self, numbers: list[int]) -> None:
        """Many small files share units: a unit costs more than what is in it. Those of a unit that
        fails are left for a flush of their own."""
        groups: dict[Principal, list[int]] = {}
        for number in numbers:
            pending = self._pending.get(number)
            if pending is None or number in self._flushing:
                continue
            if pending.segment_bytes or pending.memory_bytes > EXTENT_BYTES_MIN:
                continue
            group = groups.setdefault(pending.request.principal, [])
            group.append(number)
            if len(group) >= TOGETHER_MAX:
                await self._flush_together(groups.pop(pending.request.principal))
        for group in groups.values():
            await self._flush_together(group)

    async def _flush_together(self, numbers: list[int]) -> None:
        there = [n for n in numbers if n in self._pending and n not in self._flushing]
        if len(there) > 1:
            with contextlib.suppress(PlatformError):
                await self._begin_flush(there)

    async def run_once(self) -> None:
        """Flush what is older than half a second."""
        now_s = self._volume.clock.monotonic()
        old = [n for n, p in self._pending.items() if now_s - p.since_s >= AGE_S]
        try:
            await self._flush_small(old)
            await self._flush_each(old)
        except PlatformError as error:
            if self._complaint != error.message:  # once, not twice a second
                log.error("buffered writes of volume %d are kept: %s", self._volume.id, error)
            self._complaint = error.message
        else:
            self._complaint = ""


def expect_size(size: int, expected_size: int | None) -> None:
    if expected_size is not None and size != expected_size:
        raise Conflict("the file has another size", size=size, expected_size=expected_size)


def pieces_of(offset: int, written: list[Extent]) -> list[Piece]:
    """Consecutive extents as pieces of a file from `offset` on."""
    pieces = []
    for extent in written:
        pieces.append(Piece(offset, extent.length, None, extent, 0))
        offset += extent.length
    return pieces


async def _tell_written(unit: Unit, inode: Inode, pieces: list[Piece]) -> None:
    """The range that holds all that was written: who reads the feed knows the file's size by it."""
    start = min(piece.offset for piece in pieces)
    end = max(piece.offset + piece.length for piece in pieces)
    path = await unit.path_of(inode.number)
    unit.event("written", path, inode.kind, offset=start, length=end - start)
