"""Files: read, write, truncate, punch, sync, copy, write whole (POSIX.1-2017).

Plain writes go through `writeback`; what must be ordered with other changes (append with a request
id, truncate, whole files, transactions) is a unit of its own, preceded by a flush of that file.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from ..base.errors import Corrupt, Exhausted, Invalid, NotFound
from ..base.limits import EXTENT_BYTES_MIN, FILE_BYTES_MAX, IO_BYTES_MAX, MIB
from ..keyspace import keys
from ..keyspace.records import Entry, Inode, Kind, Piece
from . import extents, filemap, namespace, owners
from .access.verbs import REACH, Verb
from .namespace import Attributes
from .opens import Opens
from .paths import check_new_name
from .units import SYSTEM, Request, Unit
from .volumes import Volume
from .writeback import expect_size, pieces_of

COPY_PIECES_MAX = 1000
COPY_BYTES_MAX = 128 * MIB
"""Pieces that one copy unit takes over, and how far it looks for them: both maps are read."""

Content = list[Piece]
"""What a whole file is written from: pieces whose extents are synced already."""

Parts = list[bytes | memoryview]
"""Bytes as they were read, never copied together: the socket takes them as they are."""


class Found(NamedTuple):
    """What was read of a file. `version` is the commit that left it so, if its bytes are known by
    that for ever: it is durable, and nothing is buffered. Else 0, and so is `mtime_ns`."""

    parts: Parts
    size: int
    version: int = 0
    mtime_ns: int = 0


async def file_inode(volume: Volume, number: int) -> Inode:
    return _stored_file(number, await volume.storage.engine.get(keys.inode(number)))


def _stored_file(number: int, value: bytes | None) -> Inode:
    if value is None:
        raise NotFound("no such file", inode=number)
    return _expect_file(Inode.unpack(value))


def _expect_file(inode: Inode) -> Inode:
    if inode.kind != Kind.FILE:
        is_directory = inode.kind == Kind.DIRECTORY
        raise Invalid(
            f"is a {Kind(inode.kind).word}, not a file",
            errno=errno.EISDIR if is_directory else errno.EINVAL,
            name=inode.name,
        )
    return inode


_OPENED_FOR = int(Verb.READ | Verb.WRITE | Verb.EXECUTE)
"""What a file can be opened for: a number, as arithmetic with `Verb` is slow."""


async def open_file(
    opens: Opens,
    session: bytes,
    volume: Volume,
    number: int,
    verbs: Verb = REACH,
    request: Request = SYSTEM,
) -> Inode:
    """open(2): the file as it is once it is held for the session, hence cannot go any more. What
    the mode allows of these verbs now it allows until the file is closed. NOT_FOUND, INVALID,
    DENIED."""
    if verbs._value_ & ~_OPENED_FOR:
        raise Invalid("a file is opened to read, write or execute", access=int(verbs))
    if volume.read_only and verbs & Verb.WRITE:
        raise volume.refusal()
    before = opens.verbs_of(session, volume, number)
    opens.open(session, volume, number)
    try:
        if number in volume.lane.going:
            await volume.lane.settled()
        inode = await volume.find(number)
        if inode is None:
            raise NotFound("no such file", inode=number)
        _expect_file(inode)
        if not request.principal.is_free:
            # What the session had open already lets it be opened again once it has no name.
            known = session if before is not None else None
            for verb in verbs or (REACH,):
                await volume.allow(
                    request.principal, inode, verb, session=known, origin=request.origin
                )
            opens.add_verbs(session, volume, number, verbs)
        return inode
    except BaseException:
        opens.close(session, volume, number)
        raise


# ---------------------------------------------------------------- reading


async def _check(volume: Volume, request: Request, inode: Inode, verb: Verb) -> None:
    """DENIED unless the request's principal may, or its session has it open so."""
    if not request.principal.is_free:
        await volume.allow(
            request.principal, inode, verb, session=request.caller, origin=request.origin
        )


async def read(
    volume: Volume, number: int, offset: int, length: int, request: Request = SYSTEM
) -> Found:
    """The bytes of [offset, offset + length) one behind the other, shorter at the end of the file.

    CORRUPT, with the inode, if what is stored is not what was written.
    """
    try:
        return await _read(volume, number, offset, length, request)
    except Corrupt:
        # Compaction may have moved the bytes between the look at the map and the read.
        try:
            return await _read(volume, number, offset, length, request)
        except Corrupt as error:
            error.facts.setdefault("inode", number)
            raise


class Located(NamedTuple):
    """The pieces of a file within [offset, end), and what was known of the file at that moment."""

    pieces: list[Piece]
    end: int
    size: int
    inode: Inode
    is_buffered: bool


async def locate(
    volume: Volume, number: int, offset: int, length: int, request: Request = SYSTEM
) -> Located:
    """Where the bytes of [offset, offset + length) are, up to the end of the file. What lies in a
    segment is there as long as the file keeps it, or until compaction moves it."""
    if offset < 0 or length > IO_BYTES_MAX:
        raise Invalid("a read is too long", length=length, length_max=IO_BYTES_MAX)
    writeback, engine = volume.writeback, volume.storage.engine
    limit = offset + length
    while True:
        layers = writeback.layers(number)
        value = await engine.get(keys.inode(number))
        inode = _stored_file(number, value)
        if not writeback.still(number, layers):
            continue
        principal = request.principal
        if not principal.is_free and not volume.guard.allows_now(
            principal, volume, inode, Verb.READ
        ):
            await _check(volume, request, inode, Verb.READ)
        size = writeback.size_of(inode, layers)
        if size <= offset or not length:
            return Located([], offset, size, inode, True)
        stored = await filemap.load(engine, number, offset, limit)
        # The map is read in several steps: if the file changed between them, it may be a mixture.
        # What is buffered is asked last: nothing may come between that and laying it over.
        if await engine.get(keys.inode(number)) == value and writeback.still(number, layers):
            break
    size = writeback.size_of(inode, layers)
    end = min(limit, size)
    pieces = writeback.overlay(layers, stored, offset, end)
    return Located(pieces, end, size, inode, bool(layers))


async def _read(volume: Volume, number: int, offset: int, length: int, request: Request) -> Found:
    found = await locate(volume, number, offset, length, request)
    parts = await _assemble(volume, found.pieces, offset, found.end)
    if volume.keyring is not None:  # nobody keeps it on a disk
        return Found(parts, found.size)
    if found.is_buffered or found.inode.version > volume.lane.durable_commit:
        return Found(parts, found.size)
    return Found(parts, found.size, found.inode.version, found.inode.mtime_ns)


async def _assemble(volume: Volume, pieces: list[Piece], start: int, end: int) -> Parts:
    parts: Parts = []
    at = start
    for run in _runs(pieces):
        if run[0].offset > at:
            parts.append(bytes(run[0].offset - at))
        parts += await _run_bytes(volume, run)
        at = run[-1].end
    if at < end:
        parts.append(bytes(end - at))
    return parts


def _runs(pieces: list[Piece]) -> list[list[Piece]]:
    """Neighbours whose extents lie one behind the other are read together."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and last.end == piece.offset
            and last.extent is not None
            and piece.extent is not None
            and extents.follows(piece.extent, last.extent)
        ):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


async def _run_bytes(volume: Volume, run: list[Piece]) -> Parts:
    if len(run) == 1:
        return [await _piece_bytes(volume, run[0])]
    whole = await extents.read_run(
        volume.storage.segments, [p.extent for p in run if p.extent is not None]
    )
    return [_part(data, piece) for data, piece in zip(whole, run, strict=True)]


async def _piece_bytes(volume: Volume, piece: Piece) -> bytes | memoryview:
    if piece.data is not None:
        return piece.data
    assert piece.extent is not None
    return _part(await extents.read(volume.storage.segments, piece.extent), piece)


def _part(data: bytes | memoryview, piece: Piece) -> bytes | memoryview:
    if piece.skip == 0 and piece.length == len(data):
        return data
    return memoryview(data)[piece.skip : piece.skip + piece.length]


async def data_ranges(
    volume: Volume, number: int, offset: int, limit: int, request: Request = SYSTEM
) -> tuple[list[tuple[int, int]], bool]:
    """(offset, length) of where there is data from `offset` on, and whether that is all: for
    SEEK_DATA and SEEK_HOLE. Neighbouring ranges are joined."""
    await volume.writeback.flush(number)
    inode = await file_inode(volume, number)
    await _check(volume, request, inode, Verb.READ)
    ranges: list[tuple[int, int]] = []
    if offset >= inode.size:
        return ranges, True
    pieces = await filemap.load(volume.storage.engine, number, offset, offset + 1)
    at = keys.piece(number, offset + 1)
    end = keys.piece(number, inode.size)
    while True:
        for piece in filemap.within(pieces, offset, inode.size):
            if ranges and sum(ranges[-1]) == piece.offset:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + piece.length)
            else:
                ranges.append((piece.offset, piece.length))
        if len(ranges) > limit:
            return ranges[:limit], False
        page = await volume.storage.engine.scan(at, end)
        if not page:
            return ranges, True
        pieces = [Piece.unpack(keys.last_number_of(key), value) for key, value in page]
        at = page[-1][0] + b"\x00"


# ---------------------------------------------------------------- writing


async def write(
    volume: Volume,
    request: Request,
    number: int,
    offset: int,
    data: bytes | memoryview,
    *,
    durable: bool,
    expected_size: int | None = None,
    mtime_ns: int = 0,
) -> int:
    """Write at an offset; the file's size afterwards. Repeating it changes nothing. CONFLICT, with
    the size, unless the file has the expected one. `mtime_ns`: see `Writeback.write`."""
    if durable:
        written = await volume.writeback.write_through(
            request, number, [(offset, data)], expected_size=expected_size, mtime_ns=mtime_ns
        )
        if written is not None:
            return written
    size, told = await volume.writeback.write(
        request, number, offset, data, expected_size=expected_size, mtime_ns=mtime_ns
    )
    if durable:
        await sync(volume, number)
    if told:
        await volume.promises.acknowledged(told)
    return size


async def write_parts(
    volume: Volume,
    request: Request,
    number: int,
    parts: list[tuple[int, bytes | memoryview]],
    *,
    durable: bool,
    mtime_ns: int = 0,
) -> int:
    """Several writes, one after the other; the file's size afterwards. When one fails, those before
    it are done."""
    if durable:
        written = await volume.writeback.write_through(request, number, parts, mtime_ns=mtime_ns)
        if written is not None:
            return written
    size, told = await volume.writeback.write_parts(request, number, parts, mtime_ns=mtime_ns)
    if durable:
        await sync(volume, number)
    if told:
        await volume.promises.acknowledged(told)
    return size


async def append(
    volume: Volume,
    request: Request,
    number: int,
    data: bytes | memoryview,
    *,
    durable: bool,
    expected_size: int | None = None,
) -> tuple[int, int]:
    """Write at the end, whatever it is by then: (offset, size afterwards). Atomic among appends.
    CONFLICT, with the size, unless the file has the expected one."""
    await check_writable(volume, request, number)
    with volume.holds.append():
        content = await prepare(volume, data)
        await volume.writeback.flush(number)
        return await _append(
            volume, request, number, content, len(data), durable=durable, expected=expected_size
        )


async def check_writable(volume: Volume, request: Request, number: int) -> None:
    """DENIED unless the request's principal may write to the file."""
    if not request.principal.is_free:
        await _check(volume, request, await file_inode(volume, number), Verb.WRITE)


async def _append(
    volume: Volume,
    request: Request,
    number: int,
    content: Content,
    length: int,
    *,
    durable: bool,
    expected: int | None,
) -> tuple[int, int]:
    async def work(unit: Unit) -> tuple[int, int]:
        inode = _expect_file(await unit.inode(number))
        await unit.allow(inode, Verb.WRITE, opened=True)
        offset = max(inode.size, volume.writeback.size_of(inode))
        expect_size(offset, expected)
        if offset + length > FILE_BYTES_MAX:
            raise Exhausted("the file would be too large", errno=errno.EFBIG)
        await filemap.write(unit, inode, [p._replace(offset=p.offset + offset) for p in content])
        await _written(unit, inode, offset, length)
        return offset, inode.size

    offset, size = await volume.run(request, work, durable=durable)
    return offset, size


async def _written(unit: Unit, inode: Inode, offset: int, length: int) -> None:
    inode.size = max(inode.size, offset + length)
    inode.mtime_ns = inode.ctime_ns = unit.now_ns
    owners.written(unit.request.principal, inode)
    unit.save(inode)
    unit.resized.append(inode.number)
    unit.event(
        "written", await unit.path_of(inode.number), inode.kind, offset=offset, length=length
    )


async def sync(volume: Volume, number: int, request: Request = SYSTEM) -> None:
    """fsync(2): all that was written to the file, and its name, survive a power loss. Whoever can
    reach it may ask for that."""
    if not request.principal.is_free:
        inode = await volume.find_inode(number)
        if inode is None:
            raise NotFound("no such file", inode=number)
        await _check(volume, request, inode, REACH)
    await volume.writeback.flush(number)
    await volume.lane.durable()


async def prepare(volume: Volume, data: bytes | memoryview) -> Content:
    """Bytes as pieces from offset 0; bulk is in a segment and synced, ready for a unit to name.

    Call it, and run that unit, within `volume.holds.append()`.
    """
    if not data:
        return []
    if len(data) < EXTENT_BYTES_MIN:
        return [Piece(0, len(data), bytes(data))]
    segments = volume.storage.segments
    written = await extents.append_many(
        segments,
        memoryview(data),
        extents.FILE_EXTENT_BYTES_MAX,
        compression=volume.settings.compression,
    )
    await segments.sync()
    return pieces_of(0, written)


async def look_ahead(
    volume: Volume, request: Request, directory: int, name: str, size_bytes: int
) -> None:
    """DENIED to whoever may neither write to what has the name nor make something there: nothing of
    a whole file that is certain to be refused is stored before. The unit decides all the same."""
    principal = request.principal
    if principal.is_free or size_bytes < EXTENT_BYTES_MIN:
        return
    found = await volume.find_entry(directory, name.encode("utf-8", "surrogateescape"))
    if found is not None and await volume.guard.may(principal, volume, found.inode, Verb.WRITE):
        return
    await volume.allow(principal, directory, Verb.CREATE, origin=request.origin)


async def put(
    unit: Unit,
    directory: int,
    name: str,
    content: Content,
    size: int,
    new: Attributes,
    *,
    no_replace: bool = False,
) -> int:
    """Create or replace a whole file at once; its number. An old file of that name goes as if
    renamed over: those who have it open keep it. The rules that were set on it stay.

    Whoever may write to the old file may, and leaves it its owner and mode; who may not, but may
    change the directory, may where the mode says so, as with rename(2). An expression for `write`
    decides alone.
    """
    encoded = check_new_name(name)
    found = await namespace.look_up(unit, directory, encoded)
    if found is None:
        inode, path = await namespace.add(unit, directory, encoded, new)
        if not unit.request.principal.is_free:
            await owners.check_fill(unit, inode)
    else:
        if no_replace:
            return await namespace.create(unit, directory, name, new)  # says what is there
        inode, path = await _put_over(unit, directory, encoded, found, new)
    await filemap.fill(unit, inode, content)
    inode.size = size
    unit.save(inode)
    unit.event("written", path, inode.kind, offset=0, length=size)
    return inode.number


async def _put_over(
    unit: Unit, directory: int, name: bytes, found: Entry, new: Attributes
) -> tuple[Inode, str]:
    """An empty file in the place of another one, with the expressions that were set on it."""
    if found.kind not in (Kind.FILE, Kind.SYMLINK):
        is_directory = found.kind == Kind.DIRECTORY
        raise Invalid(
            f"a {Kind(found.kind).word} is in the way",
            name=name,
            errno=errno.EISDIR if is_directory else errno.EEXIST,
        )
    old = await unit.inode(found.inode)
    is_kept = await owners.check_put_over(unit, directory, found, old)
    uid, gid, mode, access = old.uid, old.gid, old.mode, dict(old.access)
    await namespace.take_away(unit, directory, name, found)
    parent = await namespace.directory_of(unit, directory)
    inode, path = await namespace.add_unasked(unit, parent, name, new)
    if is_kept:
        inode.uid, inode.gid, inode.mode = uid, gid, mode
        owners.written(unit.request.principal, inode)
    inode.access = access
    return inode, path


# ---------------------------------------------------------------- size and holes


async def truncate(
    volume: Volume, request: Request, number: int, size: int, *, durable: bool
) -> bytes:
    """truncate(2); the inode as it was left, packed. A cut of very many pieces is done in several
    commits, from the end."""
    if not 0 <= size <= FILE_BYTES_MAX:
        raise Invalid("the size is out of range", size=size, errno=errno.EFBIG)
    known, stored = await volume.lane.find_reply(request)
    if known:
        return bytes(stored)  # before any cut: others may have written since
    await volume.writeback.flush(number)
    while True:
        step = await _next_cut(volume, number, size)

        async def work(unit: Unit, step: int = step) -> bytes:
            await resize(unit, number, step)
            return (await unit.inode(number)).pack()

        if step == size:
            return await volume.run(request, work, durable=durable)
        await volume.run(request.step, work, durable=False)


async def _next_cut(volume: Volume, number: int, size: int) -> int:
    """How far one unit may cut: `size`, or the start of the last pieces it can hold."""
    start, end = keys.piece(number, size), keys.prefix_range(keys.pieces(number))[1]
    page = await volume.storage.engine.scan(
        start, end, reverse=True, limit=filemap.PIECES_PER_UNIT_MAX, size_bytes=IO_BYTES_MAX
    )
    if not page or not await volume.storage.engine.scan(start, page[-1][0], limit=1):
        return size
    return keys.last_number_of(page[-1][0])


async def resize(unit: Unit, number: int, size: int) -> None:
    """Cut or extend; what is beyond the end is gone, what is new reads as zeros."""
    inode = _expect_file(await unit.inode(number))
    await unit.allow(inode, Verb.WRITE, opened=True)
    owners.written(unit.request.principal, inode)
    if size < inode.size:
        await filemap.clear(unit, inode, size, inode.size)
    inode.size = size
    inode.mtime_ns = inode.ctime_ns = unit.now_ns
    unit.save(inode)
    unit.resized.append(number)
    unit.event("truncated", await unit.path_of(number), inode.kind, size=size)


async def punch(
    volume: Volume, request: Request, number: int, offset: int, length: int, *, durable: bool
) -> bytes:
    """FALLOC_FL_PUNCH_HOLE: zeros, and the space is free; the size stays. The inode as it was left,
    packed. A hole over very many pieces is made in several commits, as a cut is."""
    if offset < 0 or length <= 0:
        raise Invalid("a range has a length", offset=offset, length=length)
    known, stored = await volume.lane.find_reply(request)
    if known:
        return bytes(stored)
    await volume.writeback.flush(number)
    start, end = offset, min(offset + length, FILE_BYTES_MAX)
    while True:
        step = await _next_hole(volume, number, start, end)

        async def work(unit: Unit, start: int = start, step: int = step) -> bytes:
            await _punch(unit, number, start, step)
            return (await unit.inode(number)).pack()

        if step == end:
            return await volume.run(request, work, durable=durable)
        await volume.run(request.step, work, durable=False)
        start = step


async def _next_hole(volume: Volume, number: int, start: int, end: int) -> int:
    """How far one unit may punch: `end`, or the start of the last pieces it can hold."""
    first, last = keys.piece(number, start), keys.piece(number, max(start, end))
    page = await volume.storage.engine.scan(
        first, last, limit=filemap.PIECES_PER_UNIT_MAX, size_bytes=IO_BYTES_MAX
    )
    if len(page) < 2 or not await volume.storage.engine.scan(page[-1][0] + b"\x00", last, limit=1):
        return end
    return keys.last_number_of(page[-1][0])


async def _punch(unit: Unit, number: int, start: int, end: int) -> None:
    inode = _expect_file(await unit.inode(number))
    await unit.allow(inode, Verb.WRITE, opened=True)
    owners.written(unit.request.principal, inode)
    await filemap.clear(unit, inode, start, min(end, inode.size))
    inode.mtime_ns = inode.ctime_ns = unit.now_ns
    unit.save(inode)
    path = await unit.path_of(number)
    unit.event("hole punched", path, inode.kind, offset=start, length=end - start)


async def reserve(
    volume: Volume, request: Request, number: int, offset: int, length: int, *, durable: bool
) -> bytes:
    """posix_fallocate: the size reaches offset + length; the inode as it was left, packed. Space is
    not set aside: a write may still meet a full disk, as on any copy-on-write file system."""
    if offset < 0 or length <= 0 or offset + length > FILE_BYTES_MAX:
        raise Invalid("a range has a length", offset=offset, length=length)
    await volume.writeback.flush(number)

    async def work(unit: Unit) -> bytes:
        inode = _expect_file(await unit.inode(number))
        await unit.allow(inode, Verb.WRITE, opened=True)
        if offset + length > inode.size:
            await resize(unit, number, offset + length)
        return inode.pack()

    return await volume.run(request, work, durable=durable)


# ---------------------------------------------------------------- copying


async def copy_range(
    volume: Volume,
    request: Request,
    source: int,
    target: int,
    source_offset: int,
    target_offset: int,
    length: int,
    *,
    durable: bool,
) -> int:
    """copy_file_range(2) within a volume: extents are shared, so bulk bytes are not copied.

    Returns how many bytes were copied: fewer than asked at the end of the source, or where one
    unit ends; callers go on from there.
    """
    if min(source_offset, target_offset, length) < 0:
        raise Invalid("a range has a length", offset=source_offset, length=length)
    if target_offset + length > FILE_BYTES_MAX:
        raise Exhausted("the file would be too large", errno=errno.EFBIG)
    if source == target and abs(source_offset - target_offset) < length:
        raise Invalid("source and target overlap")
    length = min(length, COPY_BYTES_MAX)
    await volume.writeback.flush(source)
    await volume.writeback.flush(target)

    async def work(unit: Unit) -> int:
        original = _expect_file(await unit.inode(source))
        inode = _expect_file(await unit.inode(target))
        await unit.allow(original, Verb.READ, opened=True)
        await unit.allow(inode, Verb.WRITE, opened=True)
        end = min(source_offset + length, original.size)
        if end <= source_offset:
            return 0
        pieces = filemap.within(
            await filemap.load(unit, source, source_offset, end), source_offset, end
        )
        pieces, end = _first_pieces(pieces, end)
        shift = target_offset - source_offset
        await filemap.clear(unit, inode, target_offset, end + shift)
        moved = [p._replace(offset=p.offset + shift) for p in pieces]
        await filemap.write(unit, inode, moved, fresh=False)
        await _written(unit, inode, target_offset, end - source_offset)
        return end - source_offset

    return await volume.run(request, work, durable=durable)


def _first_pieces(pieces: list[Piece], end: int) -> tuple[list[Piece], int]:
    """As many as one unit takes, and where they end."""
    in_engine = 0
    for index, piece in enumerate(pieces):
        in_engine += piece.length if piece.data is not None else 0
        if index >= COPY_PIECES_MAX or in_engine > IO_BYTES_MAX:
            return pieces[:index], piece.offset
    return pieces, end
