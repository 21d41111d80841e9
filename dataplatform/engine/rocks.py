"""The embedded engine: RocksDB through rocksdict, one database per volume (D2).

Commits are written to the operating system at once (so a killed process loses nothing) and made
durable by `flush_wal(True)`, one for all who wait; see groups.py. Those of which nobody is told
before they are durable are gathered: one write for all of them, right before the sync. A write
costs more than what is in it, and most while a sync is running. Reads run on the loop: a cached
one takes about a microsecond, and rocksdict holds the GIL anyway. What takes long (open, close,
checkpoint) runs in threads.

A checkpoint holds what was committed when it began; of commits made while it is being taken, it
holds a prefix.

All databases of a process share one block cache, one limit on unwritten rows, and one look at the
disk's free space.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    Snapshot,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from ..base.errors import Corrupt, ErrorKind, Exists, NotFound, PlatformError, Unavailable
from ..base.limits import KIB, MIB
from . import manifests, wal
from .base import Batch, Engine, Pair, Storage, Storages, Ticket, View
from .checkpoints import check_checkpoint_name
from .directories import DataDirectory, os_errors, remove_tree, sync_directory
from .files import SEGMENT_BYTES, Descriptors, LocalSegments, Threads
from .groups import Blocking, Group, Load
from .space import Space
from .volumes import OpenVolumes

T = TypeVar("T")

BLOCK_CACHE_BYTES = 128 * MIB
"""Blocks, indexes and filters of all volumes."""

WRITE_BUFFERS_BYTES = 96 * MIB
"""Rows of all volumes not yet in sorted files; beyond this the largest buffer is written out."""

WRITE_BUFFER_BYTES = 32 * MIB
"""The same for one volume. Also how much log one volume replays when it opens."""

OPEN_FILES_MAX = 128
"""Sorted files held open per volume: hundreds of volumes share one process's limit."""

RESERVE_BYTES = 64 * MIB
"""Free space below which writes are refused: what is committed must still be written out, once
from the log into sorted files, and compacted. A RocksDB that runs out of it stops."""

RESERVE_SHARE = 16
"""No more than one part in so many of the file system: small ones are of use, too."""

SYNC_THREADS = 4
DISK_THREADS = 8

STALLED = "Result incomplete: Write stall"
"""What RocksDB says when a write would have had to wait; nothing of it has been done then."""

STALL_SECONDS = 0.005
"""How long a commit waits before it asks again whether RocksDB has caught up."""

GATHERED_BYTES_MAX = MIB
"""Commits that were put off are written when they amount to this, sync or no sync."""

DAMAGE = (
    "Corruption",
    "does not exist (create_if_missing",
    "No such file or directory",
    "Input/output error",
)
"""What RocksDB says of files that are damaged, lost, or not readable any more."""

TRASH = ".trash"  # on disk: a checkpoint being removed
DOOMED = ".doomed"  # on disk: beside a checkpoint that goes when its last reader does


class Shared(NamedTuple):
    """What the volumes of one process have in common."""

    cache: Cache
    buffers: WriteBufferManager
    threads: Threads
    descriptors: Descriptors
    space: Space

    @staticmethod
    def make(directory: Path, cache_bytes: int, buffers_bytes: int) -> Shared:
        return Shared(
            Cache(cache_bytes),
            WriteBufferManager(buffers_bytes, False),
            Threads(
                ThreadPoolExecutor(SYNC_THREADS, "sync"), ThreadPoolExecutor(DISK_THREADS, "disk")
            ),
            Descriptors(),
            Space(directory, RESERVE_BYTES, share=RESERVE_SHARE),
        )


def _options(shared: Shared) -> Options:
    """Options of every database, a checkpoint's included. None is needed to read old data."""
    options = Options(raw_mode=True)
    options.create_if_missing(False)
    # The torn end of a log is handled in _open_database.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_write_buffer_manager(shared.buffers)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(4)
    options.set_arena_block_size(256 * KIB)  # what an idle volume's buffer takes
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_bytes_per_sync(MIB)  # compaction must not make a commit's sync wait for gigabytes
    options.set_max_background_jobs(2)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(60)
    options.set_max_log_file_size(MIB)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_manifest_preallocation_size(64 * KIB)
    options.set_skip_stats_update_on_db_open(True)
    tables = BlockBasedOptions()
    tables.set_block_cache(shared.cache)
    tables.set_block_size(16 * KIB)
    tables.set_bloom_filter(10, False)
    tables.set_cache_index_and_filter_blocks(True)
    tables.set_pin_l0_filter_and_index_blocks_in_cache(True)
    tables.set_format_version(5)
    options.set_block_based_table_factory(tables)
    return options


def _error(error: Exception, path: Path) -> PlatformError:
    """What rocksdict raised: a plain Exception with RocksDB's status as text."""
    if isinstance(error, PlatformError):
        return error
    text = str(error)
    if isinstance(error, DbClosedError):
        return Unavailable("database is closed", path=path)
    if "No space left on device" in text or "quota exceeded" in text:
        return PlatformError(ErrorKind.EXHAUSTED, "disk is full", path=path, cause=text)
    if any(sign in text for sign in DAMAGE):
        return Corrupt("database is damaged", path=path, cause=text)
    return Unavailable("database failed", path=path, cause=text)


def _write_error(error: Exception, path: Path) -> PlatformError:
    """The same of a write or a sync: that the disk fails does not make what it holds damaged."""
    mapped = _error(error, path)
    if mapped.kind is ErrorKind.CORRUPT:
        return Unavailable("database failed", path=path, cause=str(error))
    return mapped


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        mapped = _error(error, path)
        raise mapped from (None if mapped is error else error)


def _open_database(path: Path, shared: Shared) -> Rdict:
    with _errors(path.parent):
        if cause := manifests.problem(path):
            raise Corrupt("database is damaged", path=path.parent, cause=cause)
        try:
            return Rdict(str(path), _options(shared))
        except Exception as error:
            if "Corruption" not in str(error) or not wal.is_torn(path):
                raise
        options = _options(shared)
        options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
        return Rdict(str(path), options)


def _make_volume(path: Path, shared: Shared) -> None:
    """Fill the directory of a new volume."""
    for name in ("db", "checkpoints", "segments"):
        (path / name).mkdir()
    options = _options(shared)
    options.create_if_missing(True)
    with _errors(path):
        Rdict(str(path / "db"), options).close()
    for name in ("db", "checkpoints", "segments"):
        sync_directory(path / name)


# ------------------------------------------------------------------------------------- reading


class _Scanner:
    """Pages of one database.

    Of rocksdict's three ways to bound an iterator one works (0.3.29): `set_iterate_upper_bound`
    does, `set_iterate_lower_bound` does nothing, and the iterators of a `Snapshot` do not stand
    still. What does stand still is an iterator: from the moment it is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # rocksdict copies the options into each iterator: reusing them saves making them.
        self._options = ReadOptions()

    def page(
        self, database: Rdict, start: bytes, end: bytes, reverse: bool, limit: int, size_bytes: int
    ) -> list[Pair]:
        """A page of the database as it is now."""
        # At the bound RocksDB stops, instead of walking over deleted keys beyond it.
        self._options.set_iterate_upper_bound(end)
        with _errors(self._path):
            rows = database.iter(self._options)
        return self.page_of(rows, start, end, reverse, limit, size_bytes)

    def page_of(
        self, rows: RdictIter, start: bytes, end: bytes, reverse: bool, limit: int, size_bytes: int
    ) -> list[Pair]:
        """A page of the database as it was when `rows` was made."""
        assert limit > 0, limit
        assert size_bytes > 0, size_bytes
        if start >= end:
            return []
        valid, read_key, read_value = rows.valid, rows.key, rows.value
        if reverse:
            step = rows.prev
            rows.seek_for_prev(end)
            if valid() and read_key() == end:
                step()
        else:
            step = rows.next
            rows.seek(start)
        page: list[Pair] = []
        size = 0
        while valid():
            key = read_key()
            if not start <= key < end:
                return page
            value = read_value()
            page.append((key, value))
            size += len(key) + len(value)
            if len(page) >= limit or size >= size_bytes:
                return page
            step()
        try:
            rows.status()  # an iterator ends at damage as at its end: ask which
        except Exception as error:
            raise _error(error, self._path) from error
        return page


class RocksView(View):
    """The live database at one moment.

    It reads the database itself until the next commit; only then it needs something that stands
    still. So a view that no commit falls into costs nothing.
    """

    def __init__(
        self, database: Rdict, scanner: _Scanner, path: Path, opened: dict[RocksView, None]
    ) -> None:
        """`opened` are the open views of the engine: this one joins them until it is closed."""
        self._database: Rdict | None = database
        self._pinned: tuple[Snapshot, RdictIter] | None = None
        self._scanner = scanner
        self._path = path
        self._opened = opened
        opened[self] = None

    def pin(self) -> None:
        """Stand still from here on: the engine is about to write."""
        if self._pinned is None and self._database is not None:
            with _errors(self._path):
                self._pinned = self._database.snapshot(), self._database.iter()

    async def get(self, key: bytes) -> bytes | None:
        return self._get(self._live(), key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        database = self._live()
        if self._pinned is None:
            return _get_many(database, keys, self._path)
        return [self._get(database, key) for key in keys]

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        database = self._live()
        if self._pinned is None:
            return self._scanner.page(database, start, end, reverse, limit, size_bytes)
        return self._scanner.page_of(self._pinned[1], start, end, reverse, limit, size_bytes)

    def close(self) -> None:
        self._database = self._pinned = None
        self._opened.pop(self, None)

    def _live(self) -> Rdict:
        if self._database is None:
            raise Unavailable("view is closed", path=self._path)
        return self._database

    def _get(self, database: Rdict, key: bytes) -> bytes | None:
        try:
            if self._pinned is None:
                return cast("bytes | None", database.get(key))
            return cast("bytes", self._pinned[0][key])
        except Exception as error:
            if str(error) == "key not found":  # a snapshot has no other way of saying so
                return None
            raise _error(error, self._path) from error


class _OpenCheckpoint:
    """A checkpoint's database, opened once for all who read it."""

    def __init__(self, database: Rdict, path: Path) -> None:
        self.database = database
        self.path = path
        self.readers = 0
        self.doomed = False


class CheckpointView(View):
    """A checkpoint, opened read-only."""

    def __init__(self, checkpoint: _OpenCheckpoint, release: Callable[[CheckpointView], None]):
        self.checkpoint = checkpoint
        self._scanner = _Scanner(checkpoint.path)
        self._release = release
        self._closed = False
        checkpoint.readers += 1

    async def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._live().get(key)
        except Exception as error:
            raise _error(error, self.checkpoint.path) from error
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return _get_many(self._live(), keys, self.checkpoint.path)

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        return self._scanner.page(self._live(), start, end, reverse, limit, size_bytes)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.checkpoint.readers -= 1
            self._release(self)

    def _live(self) -> Rdict:
        if self._closed:
            raise Unavailable("view is closed", path=self.checkpoint.path)
        return self.checkpoint.database


def _get_many(database: Rdict, keys: Sequence[bytes], path: Path) -> list[bytes | None]:
    if not keys:
        return []
    try:
        return cast("list[bytes | None]", database.get(list(keys)))
    except Exception as error:
        raise _error(error, path) from error


# --------------------------------------------------------------------------------- checkpoints


class _Checkpoints:
    """The directory of a volume's checkpoints.

    `<name>` is a checkpoint, `<name>.doomed` beside it says that it is deleted but still read,
    `*.trash` and RocksDB's own `*.tmp` are leftovers.
    """

    def __init__(self, path: Path, shared: Shared) -> None:
        """Clears leftovers: call it in a thread."""
        self._path = path
        self._shared = shared
        self._open: dict[str, _OpenCheckpoint] = {}
        self._views: set[CheckpointView] = set()
        self._removals: list[Future[None]] = []
        self._trashed = 0
        self._lock = asyncio.Lock()
        with os_errors("checkpoints cannot be read", path):
            self._sweep()

    async def make(self, name: str, database: Rdict) -> None:
        async with self._lock:
            if (self._path / name).exists():
                raise Exists("checkpoint exists", name=name)
            await self._run(lambda: self._make(name, database))

    async def open(self, name: str) -> CheckpointView:
        async with self._lock:
            checkpoint = self._open.get(name)
            if checkpoint is None:
                checkpoint = await self._run(lambda: self._open_database(name))
                self._open[name] = checkpoint
            if checkpoint.doomed:
                raise NotFound("checkpoint not found", name=name)
            view = CheckpointView(checkpoint, self._release)
            self._views.add(view)
            return view

    async def delete(self, name: str) -> None:
        """Gone at once for new readers, and from the disk when the last reader closes."""
        async with self._lock:
            checkpoint = self._open.get(name)
            if checkpoint is None:
                if (self._path / name).exists():
                    await self._run(lambda: self._trash(name))
            elif not checkpoint.doomed:
                await self._run(lambda: self._doom(name))
                checkpoint.doomed = True

    async def close(self) -> None:
        async with self._lock:
            for view in list(self._views):
                view.close()
            for removal in self._removals:
                await asyncio.wrap_future(removal)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._shared.threads.disk, call)

    def _sweep(self) -> None:
        for entry in list(self._path.iterdir()):
            if entry.suffix == DOOMED:
                remove_tree(entry.with_suffix(""))
                entry.unlink()
            elif entry.suffix in (TRASH, ".tmp"):
                remove_tree(entry)
        sync_directory(self._path)

    def _make(self, name: str, database: Rdict) -> None:
        with _errors(self._path):
            Checkpoint(database).create_checkpoint(str(self._path / name))
        with os_errors("checkpoint cannot be made", self._path):
            sync_directory(self._path)

    def _open_database(self, name: str) -> _OpenCheckpoint:
        path = self._path / name
        if not path.exists():
            raise NotFound("checkpoint not found", name=name)
        with _errors(path):
            access = AccessType.read_only(False)
            return _OpenCheckpoint(Rdict(str(path), _options(self._shared), None, access), path)

    def _doom(self, name: str) -> None:
        with os_errors("checkpoint cannot be deleted", self._path):
            (self._path / (name + DOOMED)).touch()
            sync_directory(self._path)

    def _trash(self, name: str) -> None:
        with os_errors("checkpoint cannot be deleted", self._path):
            trash = self._rename_away(name)
            sync_directory(self._path)
            remove_tree(trash)

    def _rename_away(self, name: str) -> Path:
        self._trashed += 1
        trash = self._path / f"{name}.{self._trashed}{TRASH}"
        (self._path / name).rename(trash)
        (self._path / (name + DOOMED)).unlink(missing_ok=True)
        return trash

    def _release(self, view: CheckpointView) -> None:
        """A view was closed; the last one closes the database."""
        self._views.discard(view)
        checkpoint = view.checkpoint
        if checkpoint.readers:
            return
        name = checkpoint.path.name
        self._open.pop(name, None)
        with _errors(checkpoint.path):
            checkpoint.database.close()
        if checkpoint.doomed:
            with os_errors("checkpoint cannot be deleted", checkpoint.path):
                trash = self._rename_away(name)
            self._removals = [r for r in self._removals if not r.done()]
            self._removals.append(self._shared.threads.disk.submit(remove_tree, trash))


# -------------------------------------------------------------------------------------- engine


def _batch(batch: Batch) -> WriteBatch:
    writes = WriteBatch(raw_mode=True)
    put, delete = writes.put, writes.delete
    for key, value in batch.items():
        if value is None:
            delete(key)
        else:
            put(key, value)
    return writes


class RocksEngine(Engine):
    """One volume's database."""

    def __init__(self, path: Path, database: Rdict, shared: Shared) -> None:
        """`path` is the volume's directory. Call it in a thread; see `RocksStorages.open`."""
        self._path = path
        self._database = database
        self._disk: Executor = shared.threads.disk
        self._space = shared.space
        self._scanner = _Scanner(path)
        self._views: dict[RocksView, None] = {}
        self._checkpoints = _Checkpoints(path / "checkpoints", shared)
        self._blocking = Blocking(self._sync, shared.threads.syncs)
        self._group = Group(f"database {path}", self._start_sync)
        self._writing = WriteOptions()
        self._writing.no_slowdown = True  # it would sleep with the GIL held; see _write
        self._gathered: dict[bytes, bytes | None] = {}  # committed, not yet written
        self._gathered_bytes = 0
        self._closing = asyncio.Lock()
        self._closed = False

    @property
    def durable_ticket(self) -> Ticket:
        return self._group.durable

    @property
    def broken(self) -> bool:
        return self._group.broken

    @property
    def closed(self) -> bool:
        return self._closed

    async def get(self, key: bytes) -> bytes | None:
        self._group.check_open()
        if self._gathered and key in self._gathered:
            return self._gathered[key]
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise _error(error, self._path) from error
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._group.check_open()
        values = _get_many(self._database, keys, self._path)
        if self._gathered:
            gathered = self._gathered
            for index, key in enumerate(keys):
                if key in gathered:
                    values[index] = gathered[key]
        return values

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        self._group.check_open()
        if self._gathered:
            await self._write()
        return self._scanner.page(self._database, start, end, reverse, limit, size_bytes)

    async def view(self) -> View:
        self._group.check_open()
        if self._gathered:
            await self._write()
        return RocksView(self._database, self._scanner, self._path, self._views)

    async def commit(self, batch: Batch, *, awaited: bool = False) -> Ticket:
        self._group.check()
        if not batch:
            return self._group.add()
        size_bytes = self._space.check_commit(batch)
        self._gathered.update(batch)
        self._gathered_bytes += size_bytes
        if not awaited or self._gathered_bytes > GATHERED_BYTES_MAX:
            await self._write()
        return self._group.add(size_bytes)

    async def durable(self, ticket: Ticket) -> None:
        await self._group.wait(ticket)

    async def checkpoint(self, name: str) -> None:
        self._group.check()
        check_checkpoint_name(name)
        await self._group.wait(self._group.last)
        await self._checkpoints.make(name, self._database)

    async def open_checkpoint(self, name: str) -> View:
        self._group.check_open()
        check_checkpoint_name(name)
        return await self._checkpoints.open(name)

    async def delete_checkpoint(self, name: str) -> None:
        self._group.check()
        check_checkpoint_name(name)
        await self._checkpoints.delete(name)

    async def close(self) -> None:
        async with self._closing:
            if self._closed:
                return
            try:
                await self._group.close()
            finally:
                for view in list(self._views):
                    view.close()
                await self._checkpoints.close()
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._disk, self._close_database)
                self._closed = True

    async def _write(self) -> None:
        """Write what is gathered; wait on the loop, not in RocksDB, while compaction catches up."""
        while self._gathered and not self._write_now():
            await asyncio.sleep(STALL_SECONDS)
            self._group.check()

    def _write_now(self) -> bool:
        """Write what is gathered. False: RocksDB wants us to wait, nothing was done. A failure
        breaks the engine."""
        if self._group.broken:
            self._forget_gathered()  # nothing is written any more
            return True
        try:
            writes = _batch(self._gathered)  # a WriteBatch can be written once
            for view in self._views:
                view.pin()
            self._database.write(writes, self._writing)
        except Exception as error:
            if STALLED in str(error):
                return False
            self._forget_gathered()
            mapped = _write_error(error, self._path)
            self._group.fail(mapped)
            raise mapped from error
        self._forget_gathered()
        return True

    def _forget_gathered(self) -> None:
        self._gathered = {}
        self._gathered_bytes = 0

    def _start_sync(self, load: Load) -> asyncio.Future[None] | None:
        if self._gathered and not self._write_now():
            return asyncio.ensure_future(self._sync_once_written(load))
        return self._blocking(load)

    async def _sync_once_written(self, load: Load) -> None:
        await self._write()
        running = self._blocking(load)
        if running is not None:
            await running

    def _sync(self) -> None:
        try:
            self._database.flush_wal(True)
        except Exception as error:
            raise _write_error(error, self._path) from error

    def _close_database(self) -> None:
        # It also writes out rows that are only in the log. If that fails, the log still has them,
        # synced, and the next open tries again: nothing for the caller to act upon.
        with contextlib.suppress(Exception):
            self._database.close()


class RocksStorages(Storages):
    """A data directory; see directories.py for what is where."""

    kind = "rocks"

    def __init__(self, directory: DataDirectory, shared: Shared, segment_bytes: int) -> None:
        """Use `at`."""
        self._directory = directory
        self._shared = shared
        self._segment_bytes = segment_bytes
        self._volumes = OpenVolumes()

    @classmethod
    async def at(
        cls,
        path: str | os.PathLike[str],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        cache_bytes: int = BLOCK_CACHE_BYTES,
        buffers_bytes: int = WRITE_BUFFERS_BYTES,
    ) -> RocksStorages:
        """Lock a data directory, making it if it is missing or empty.

        UNAVAILABLE if another server uses it; INVALID if it is newer or no data directory.
        """
        directory = await asyncio.to_thread(DataDirectory, Path(path).absolute(), cls.kind)
        return cls(
            directory, Shared.make(directory.path, cache_bytes, buffers_bytes), segment_bytes
        )

    async def volumes(self) -> list[int]:
        self._volumes.check()
        return self._directory.volumes()

    async def open(self, volume: int, *, create: bool = False) -> Storage:
        with self._volumes.alone(volume):
            engine, segments = await self._run(lambda: self._open(volume, create))
            return self._volumes.put(volume, Storage(engine, segments), engine, segments)

    async def remove(self, volume: int) -> None:
        with self._volumes.alone(volume):
            await self._run(lambda: self._directory.remove_volume(volume))

    async def close(self) -> None:
        try:
            await self._volumes.close()
        finally:
            for threads in self._shared.threads:
                await asyncio.to_thread(threads.shutdown)
            self._directory.close()

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._shared.threads.disk, call)

    def _open(self, volume: int, create: bool) -> tuple[RocksEngine, LocalSegments]:
        if create:
            self._directory.make_volume(volume, lambda path: _make_volume(path, self._shared))
        path = self._directory.find_volume(volume)
        segments = LocalSegments(
            path / "segments",
            self._shared.threads,
            self._shared.descriptors,
            self._shared.space,
            subject=f"segments {path}",
            segment_bytes=self._segment_bytes,
        )
        database = _open_database(path / "db", self._shared)
        try:
            return RocksEngine(path, database, self._shared), segments
        except BaseException:
            database.close()
            raise
