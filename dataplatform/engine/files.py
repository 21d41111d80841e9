"""Segments as local files, ``segments/<16 hex digits>.seg`` (D3, D13).

An append reserves its range on the loop and then writes it, so appends may run side by side and
never overlap. A file is written once, from its start to its end, by the process that made it:
after a restart appends go to a new one, and what a crash tore stays dead bytes.

A segment number is never used again, not even when the newest segments were deleted: the highest
number ever deleted is kept in ``segments/last`` when the files no longer tell.

Small writes and cached reads stay on the loop, the rest goes to threads; see the constants.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..base.buffers import BUFFERS, TAKEN_BYTES_MIN
from ..base.errors import Corrupt, Invalid, PlatformError
from ..base.limits import KIB, MIB
from .base import Encode, Location, SegmentStore, Stored
from .directories import os_errors, sync_directory, write_whole
from .groups import Blocking, Group, Load
from .oserrors import from_os_error
from .space import Space
from .writers import Writer

T = TypeVar("T")

SEGMENT_BYTES = 64 * MIB
"""A segment is sealed when the next append would exceed this."""

SUFFIX = ".seg"  # on disk, must not change
LAST = "last"  # on disk, must not change

APPEND_INLINE_BYTES_MAX = 256 * KIB
"""Larger appends are written in a thread: from here on the copy costs more than the hop."""

READ_INLINE_BYTES_MAX = 512 * KIB
"""Larger reads go to a thread even when they are cached."""

DESCRIPTORS_MAX = 256
"""Files kept open for reading, over all volumes of a process."""


class Threads(NamedTuple):
    """Threads shared by all volumes of a process. Syncs have their own: they must not queue."""

    syncs: Executor
    disk: Executor


class File:
    """An open file. It closes when nobody refers to it, so no thread ever uses a closed one."""

    __slots__ = ("fd", "path")

    def __init__(self, path: Path, flags: int) -> None:
        self.fd = -1
        self.path = path
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o644)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.fd >= 0:
            close(self.fd)


class Descriptors:
    """The files most recently read."""

    def __init__(self, count_max: int = DESCRIPTORS_MAX) -> None:
        self._files: collections.OrderedDict[Path, File] = collections.OrderedDict()
        self._count_max = count_max

    def get(self, path: Path) -> File:
        """Raises what `open` raises."""
        file = self._files.get(path)
        if file is None:
            file = File(path, os.O_RDONLY)
            self.put(file)
        else:
            self._files.move_to_end(path)
        return file

    def put(self, file: File) -> None:
        self._files[file.path] = file
        while len(self._files) > self._count_max:
            self._files.popitem(last=False)

    def discard(self, path: Path) -> None:
        self._files.pop(path, None)


class LocalSegments(SegmentStore):
    """The segments of one volume."""

    def __init__(
        self,
        directory: Path,
        threads: Threads,
        descriptors: Descriptors,
        space: Space,
        *,
        subject: str,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Reads the directory, which exists: call it in a thread. `subject` is for messages."""
        self._directory = directory
        self.directory = str(directory.absolute())
        self._disk = threads.disk
        self._writer = Writer(threads.disk)
        self._descriptors = descriptors
        self._space = space
        self._segment_bytes = segment_bytes
        self._sizes: dict[int, int] = {}
        self._last = 0
        self._open: tuple[int, File] | None = None
        self._unsynced: set[File] = set()
        self._unlisted = False
        self._syncing: tuple[set[File], bool] = set(), False
        self._blocking = Blocking(self._sync_files, threads.syncs)
        self._group = Group(subject, self._start_sync)
        self._scratch = bytearray()
        self._nowait = True
        self._closed = False
        with os_errors("segments cannot be listed", directory):
            self._list()

    @property
    def open_segment(self) -> int | None:
        return self._open[0] if self._open else None

    @property
    def closed(self) -> bool:
        return self._closed

    async def append_encoded(self, length: int, encode: Encode) -> Location:
        """A failed append leaves a dead range behind and harms no other. EXHAUSTED leaves nothing
        when the disk was full before."""
        self._group.check()

        def write() -> None:
            end = offset
            for piece in encode(number, offset):
                data = memoryview(piece).cast("B")
                _write(file, data, end)
                end += len(data)
            assert end - offset == length, (end - offset, length)

        self._space.check(length)
        number, file = self._segment(length)
        offset = self._sizes[number]
        self._sizes[number] += length
        try:
            if length <= APPEND_INLINE_BYTES_MAX:
                write()
            else:
                await self._writer.submit(write)
        except OSError as error:
            raise from_os_error(error, "append failed", path=file.path) from error
        self._unsynced.add(file)
        self._group.add(length)
        return Location(number, offset, length)

    async def sync(self) -> None:
        await self._group.wait(self._group.last)

    async def read_decoded(self, location: Location, decode: Callable[[Stored], T]) -> T:
        self._group.check_open()
        segment, offset, length = location
        end = self._sizes.get(segment)
        if end is None or offset < 0 or offset + length > end:
            raise self._corrupt(location)
        file = self._file(location)

        def read() -> T:
            found = _read(file, offset, length)
            if len(found) != length:
                raise self._corrupt(location)
            return decode(found)

        try:
            data = self._read_cached(file, offset, length)
            if data is not None:
                return decode(data)
            return await asyncio.get_running_loop().run_in_executor(self._disk, read)
        except OSError as error:
            raise from_os_error(error, "read failed", path=file.path, offset=offset) from error

    async def seal(self) -> None:
        self._group.check()
        sealing = self._open
        await self.sync()
        if self._open is sealing:
            self._open = None

    async def sizes(self) -> dict[int, int]:
        self._group.check_open()
        return dict(self._sizes)

    async def delete(self, segment: int) -> None:
        self._group.check()
        if segment == self.open_segment:
            raise Invalid("segment is open", segment=segment)
        if self._sizes.pop(segment, None) is None:
            return
        path = self._path(segment)
        self._descriptors.discard(path)
        newest = self._newest_durable()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._disk, self._remove, segment, segment > newest)
        except OSError as error:
            raise from_os_error(error, "segment cannot be deleted", path=path) from error

    async def skip(self, segment: int) -> None:
        await self.seal()
        self._last = max(self._last, segment)

    async def close(self) -> None:
        try:
            await self._group.close()
        finally:
            self._open = None
            self._unsynced.clear()
            for number in self._sizes:
                self._descriptors.discard(self._path(number))
            self._closed = True

    def _list(self) -> None:
        try:
            for entry in os.scandir(self._directory):
                if entry.name.endswith(SUFFIX):
                    self._sizes[int(entry.name.removesuffix(SUFFIX), 16)] = entry.stat().st_size
            with contextlib.suppress(FileNotFoundError):
                self._last = int((self._directory / LAST).read_bytes(), 16)
        except ValueError as error:
            raise Corrupt("no segment number", path=self._directory, cause=error) from error
        self._sizes = dict(sorted(self._sizes.items()))
        self._last = max([self._last, *self._sizes])

    def _newest_durable(self) -> int:
        """A segment whose name a crash would leave, so that later numbers go on from it."""
        if self._unlisted or self._group.durable < self._group.last:
            return 0
        return max((n for n in self._sizes if n != self.open_segment), default=0)

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment:016x}{SUFFIX}"

    def _segment(self, length: int) -> tuple[int, File]:
        """The segment for the next append."""
        if self._open is not None:
            size = self._sizes[self._open[0]]
            if size == 0 or size + length <= self._segment_bytes:
                return self._open
        number = self._last + 1
        try:
            file = File(self._path(number), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError as error:
            path = self._path(number)
            raise from_os_error(error, "segment cannot be made", path=path) from error
        self._last = number
        self._sizes[number] = 0
        self._unlisted = True
        self._descriptors.put(file)
        self._open = number, file
        return self._open

    def _file(self, location: Location) -> File:
        if self._open is not None and self._open[0] == location.segment:
            return self._open[1]
        path = self._path(location.segment)
        try:
            return self._descriptors.get(path)
        except FileNotFoundError:
            raise self._corrupt(location) from None
        except OSError as error:
            raise from_os_error(error, "segment cannot be opened", path=path) from error

    def _corrupt(self, location: Location) -> PlatformError:
        path = self._path(location.segment)
        return Corrupt("segment is missing or short", path=path, **location._asdict())

    def _read_cached(self, file: File, offset: int, length: int) -> bytes | memoryview | None:
        """The bytes if the kernel has all of them in memory; None to ask a thread."""
        if length > READ_INLINE_BYTES_MAX or not self._nowait:
            return None
        if length >= TAKEN_BYTES_MIN:
            taken = BUFFERS.take(length)
            return taken if self._fill_cached(file, offset, taken) else None
        if len(self._scratch) < length:
            self._scratch = bytearray(length)
        with memoryview(self._scratch)[:length] as buffer:
            return bytes(buffer) if self._fill_cached(file, offset, buffer) else None

    def _fill_cached(self, file: File, offset: int, buffer: memoryview) -> bool:
        """Read into the buffer what the kernel has in memory; False unless that is all of it."""
        try:
            return os.preadv(file.fd, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except BlockingIOError:
            return False
        except OSError:
            self._nowait = False  # not on this file system
            return False

    def _start_sync(self, load: Load) -> asyncio.Future[None] | None:
        self._syncing = self._unsynced, self._unlisted
        self._unsynced, self._unlisted = set(), False
        return self._blocking(load)

    def _sync_files(self) -> None:
        files, unlisted = self._syncing
        path = self._directory
        try:
            for file in files:
                path = file.path
                os.fdatasync(file.fd)
            if unlisted:
                path = self._directory
                sync_directory(path)
        except OSError as error:
            raise from_os_error(error, "segment sync failed", path=path) from error

    def _remove(self, segment: int, was_last: bool) -> None:
        if was_last:
            write_whole(self._directory / LAST, b"%x" % self._last)
        with contextlib.suppress(FileNotFoundError):
            self._path(segment).unlink()
        sync_directory(self._directory)


def _write(file: File, data: memoryview, offset: int) -> None:
    while len(data):
        count = os.pwrite(file.fd, data, offset)
        data = data[count:]
        offset += count


def _read(file: File, offset: int, length: int) -> memoryview:
    """Fewer bytes only at the end of the file."""
    buffer = BUFFERS.take(length)
    filled = 0
    while filled < length:
        count = os.preadv(file.fd, [buffer[filled:]], offset + filled)
        if count == 0:
            break
        filled += count
    return buffer[:filled]
