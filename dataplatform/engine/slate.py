"""The distributed engine: SlateDB on an object store, one database per volume (D2).

A write is visible at once and held in memory; `flush()` uploads what was written as one log
object, for all who wait (see groups.py). So a killed process loses what was not durable, and
nothing else. Opening a volume fences whoever had it open: the old one gets STALE at its next sync,
and none of its later writes count.

SlateDB repeats what the store refuses, for ever. So there is a deadline on all that waits for a
write: a store that takes nothing for so long breaks the engine, as a failed write does elsewhere,
and the database of a broken engine is left to itself (it may still store what it holds, until the
next opener fences it; nobody was told that this was durable).

Below a URL::

    format.json                     what this is, see formats.py
    volumes/<number>/volume.json    says that the volume was made completely, and what it consists
                                    of, see places.py
    volumes/<number>/db/            the database
    volumes/<number>/segments/      bulk bytes, see objects.py
    parts/<number>                  this one belongs to another volume since it took its place

On ``file://`` objects are written, but not synced to the disk, by the library below: it is for
trials and tests, and does not survive a power cut.

A checkpoint holds what was committed when it began; of commits made while it is being taken, it
holds a prefix.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import slatedb.uniffi as slatedb

from ..base.errors import (
    Corrupt,
    Exhausted,
    Exists,
    Internal,
    Invalid,
    NotFound,
    PlatformError,
    Stale,
    Unavailable,
)
from ..base.limits import MIB
from . import formats
from .base import Batch, Pair, Room, Storage, Storages, Ticket, View
from .checkpoints import check_checkpoint_name
from .grouped import GroupedEngine
from .groups import Group, awaiting
from .objects import COUNTER_BITS, SEGMENT_BYTES, Bucket, ObjectSegments, listed
from .places import NAME, Place, Places, decode, replaced
from .space import Space
from .volumes import OpenVolumes

T = TypeVar("T")

PARTS = "parts"  # in the bucket, must not change

SETTINGS = {
    # Nothing waits for this: `durable` flushes. It bounds what a killed process loses of the rest.
    "flush_interval": '"1s"',
    # Memory: this much per volume before it is written out, and before writes have to wait.
    "l0_sst_size_bytes": str(16 * MIB),
    "max_unflushed_bytes": str(64 * MIB),
    "compression_codec": '"Lz4"',
}

CACHE_BYTES = 128 * MIB
"""Blocks and indexes of all volumes."""

READ_AHEAD_BYTES = 1 * MIB
"""What a scan of many rows fetches at a time."""

BATCH_ROWS_MIN = 16
BATCH_ROWS_MAX = 1024
"""Rows taken from an iterator per call: few at first, as large rows may fill the page."""

HOLD_MS = 24 * 3600 * 1000
"""How long a deleted checkpoint stays for its readers at most, should this process die."""

STORE_SECONDS = 30.0
"""How long the store may take for what SlateDB wants to store: some 64 MiB at most. Longer than any
hiccup of an object store, shorter than the patience of who waits for a put."""

CLOSE_SECONDS = 5.0
"""How long closing a broken engine waits for its checkpoints' readers."""


def _error(error: BaseException, path: str) -> PlatformError:
    """What SlateDB raised."""
    if isinstance(error, PlatformError):
        return error
    facts = {"path": path, "cause": getattr(error, "message", error)}
    kinds = slatedb.Error
    if isinstance(error, kinds.Closed):
        if error.reason == slatedb.CloseReason.FENCED:
            return Stale("volume was opened by another server", **facts)
        return Unavailable("database is closed", **facts)
    if isinstance(error, kinds.Data):
        return Corrupt("database is damaged", **facts)
    if isinstance(error, kinds.Unavailable):
        return Unavailable("store is not available", **facts)
    if isinstance(error, kinds.Invalid):
        return Invalid("database refused", **facts)
    return Internal("database failed", **facts)


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        mapped = _error(error, path)
        raise mapped from (None if mapped is error else error)


# ------------------------------------------------------------------------------------- reading


def _scan_options(reverse: bool, limit: int) -> Any:
    order = slatedb.IterationOrder
    return slatedb.ScanOptions(
        durability_filter=slatedb.DurabilityLevel.MEMORY,
        dirty=False,
        read_ahead_bytes=READ_AHEAD_BYTES if limit > BATCH_ROWS_MIN else 1,
        cache_blocks=True,
        max_fetch_tasks=1,
        order=order.DESCENDING if reverse else order.ASCENDING,
    )


async def _page(
    source: Any, start: bytes, end: bytes, reverse: bool, limit: int, size_bytes: int
) -> list[Pair]:
    """A page of a database, snapshot or reader."""
    assert limit > 0, limit
    assert size_bytes > 0, size_bytes
    if start >= end:
        return []
    range_ = slatedb.KeyRange(
        start=start or None, start_inclusive=True, end=end, end_inclusive=False
    )
    rows = await source.scan_with_options(range_, _scan_options(reverse, limit))
    page: list[Pair] = []
    size, count = 0, BATCH_ROWS_MIN
    while True:
        count = min(count, limit - len(page))
        batch = await rows.next_batch(count)
        for row in batch:
            page.append((row.key, row.value))
            size += len(row.key) + len(row.value)
            if size >= size_bytes:
                return page
        if len(batch) < count or len(page) >= limit:
            return page
        count = min(count * 4, BATCH_ROWS_MAX)


class SlateView(View):
    """A snapshot of the live database, or a reader of a checkpoint."""

    def __init__(self, source: Any, path: str, release: Callable[[SlateView], None]) -> None:
        self._source = source
        self._path = path
        self._release = release

    async def get(self, key: bytes) -> bytes | None:
        with _errors(self._path):
            value: bytes | None = await self._live().get(key)
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with _errors(self._path):
            return list(await asyncio.gather(*map(self._live().get, keys)))

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        with _errors(self._path):
            return await _page(self._live(), start, end, reverse, limit, size_bytes)

    def close(self) -> None:
        if self._source is not None:
            self._source = None
            self._release(self)

    def _live(self) -> Any:
        if self._source is None:
            raise Unavailable("view is closed", path=self._path)
        return self._source


# --------------------------------------------------------------------------------- checkpoints


class _OpenCheckpoint:
    """A checkpoint's reader, shared by all views of it."""

    def __init__(self, reader: Any, named: _Named) -> None:
        self.reader = reader
        self.named = named
        self.hold: str | None = None  # the checkpoint that keeps its objects, once it is deleted
        self.views: set[SlateView] = set()


class _Named(NamedTuple):
    """A checkpoint, and the database that has it."""

    path: str
    admin: Any
    id: str
    manifest: int


class _Checkpoints:
    """The named checkpoints of a volume, through SlateDB's administrative interface.

    New ones are made of the first database; the others, whose place it took, are only kept for
    theirs.
    """

    def __init__(self, paths: Sequence[str], place: _Store) -> None:
        self._path = paths[0]
        self._place = place
        self._admins = {path: slatedb.AdminBuilder(path, place.store).build() for path in paths}
        self._open: dict[str, _OpenCheckpoint] = {}
        self._closing: set[asyncio.Future[None]] = set()
        self._lock = asyncio.Lock()

    async def make(self, name: str, database: Any) -> None:
        async with self._lock:
            with _errors(self._path):
                if await self._find(name) is not None:
                    raise Exists("checkpoint exists", name=name)
                # From the log into tables: a reader then sees exactly these, and no later log.
                flush = slatedb.FlushOptions(flush_type=slatedb.FlushType.MEM_TABLE)
                await self._place.stored(database.flush_with_options(flush), self._path)
                await self._create(self._admins[self._path], None, name, None)

    async def open(self, name: str) -> SlateView:
        async with self._lock:
            with _errors(self._path):
                named = await self._get(name)
                checkpoint = self._open.get(named.id)
                if checkpoint is None:
                    reader = await self._place.open_reader(named.path, named.id)
                    checkpoint = self._open[named.id] = _OpenCheckpoint(reader, named)
            view = SlateView(checkpoint.reader, self._path, lambda v: self._release(checkpoint, v))
            checkpoint.views.add(view)
            return view

    async def delete(self, name: str) -> None:
        """Gone at once for new readers; an unnamed one with an end holds the rest for the old."""
        async with self._lock:
            with _errors(self._path):
                named = await self._find(name)
                if named is None:
                    return
                opened = self._open.get(named.id)
                if opened is not None:
                    opened.hold = await self._create(named.admin, named.id, None, HOLD_MS)
                await self._place.stored(named.admin.delete_checkpoint(named.id), named.path)
                if named.path != self._path:  # nobody else tidies up there
                    with contextlib.suppress(slatedb.Error):
                        await named.admin.run_gc_once(None)

    async def names(self) -> list[str]:
        with _errors(self._path):
            found = [await admin.list_checkpoints(None) for admin in self._admins.values()]
        return sorted(c.name for checkpoints in found for c in checkpoints if c.name is not None)

    async def size(self, name: str) -> int:
        """Of the tables that neither the newest manifest nor another checkpoint's names. What a
        clone still needs of them counts, too: only the database that has it knows."""
        with _errors(self._path):
            named = await self._get(name)
            newest = await named.admin.read_manifest(None)
            others = {c.manifest_id for c in newest.checkpoints if str(c.id) != named.id}
            tables = _tables(await named.admin.read_manifest(named.manifest))
            for manifest in (newest, *[await named.admin.read_manifest(m) for m in others]):
                for table in _tables(manifest):
                    tables.pop(table, None)
            return sum(tables.values())

    async def clone(self, name: str, target: str) -> None:
        """Make a database at `target` of a checkpoint; it shares the checkpoint's tables."""
        with _errors(self._path):
            named = await self._get(name)
            source = slatedb.CloneSourceSpec(
                path=named.path, checkpoint=named.id, projection_range=None
            )
            builder = named.admin.create_clone_builder_from_source(source)
            builder.with_clone_path(target)
            builder.with_object_store(self._place.store)
            await self._place.stored(builder.build(), target)

    async def close(self, timeout_s: float) -> None:
        for checkpoint in list(self._open.values()):
            for view in list(checkpoint.views):
                view.close()
        if self._closing:
            await asyncio.wait(self._closing, timeout=timeout_s)

    async def _get(self, name: str) -> _Named:
        named = await self._find(name)
        if named is None:
            raise NotFound("checkpoint not found", name=name)
        return named

    async def _find(self, name: str) -> _Named | None:
        for path, admin in self._admins.items():
            for found in await admin.list_checkpoints(name):
                if found.name == name:
                    return _Named(path, admin, str(found.id), found.manifest_id)
        return None

    async def _create(
        self, admin: Any, source: str | None, name: str | None, lifetime_ms: int | None
    ) -> str:
        options = slatedb.CheckpointOptions(lifetime_ms=lifetime_ms, source=source, name=name)
        making = admin.create_detached_checkpoint(options)
        return str((await self._place.stored(making, self._path)).id)

    def _release(self, checkpoint: _OpenCheckpoint, view: SlateView) -> None:
        """A view was closed; the last one closes the reader."""
        checkpoint.views.discard(view)
        if not checkpoint.views:
            self._open.pop(checkpoint.named.id, None)
            task = asyncio.ensure_future(self._shut(checkpoint))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _shut(self, checkpoint: _OpenCheckpoint) -> None:
        with contextlib.suppress(slatedb.Error):  # nobody waits: an expiring hold is no harm
            await checkpoint.reader.shutdown()
            if checkpoint.hold is not None:
                await checkpoint.named.admin.delete_checkpoint(checkpoint.hold)


def _tables(manifest: Any) -> dict[str, int]:
    """The tables that a manifest names, and their sizes in bytes."""
    views = list(manifest.l0) + [view for run in manifest.compacted for view in run.sst_views]
    return {str(view.sst.id): view.estimated_size_bytes for view in views}


# -------------------------------------------------------------------------------------- engine


class SlateEngine(GroupedEngine):
    """One volume's database."""

    def __init__(self, paths: Sequence[str], database: Any, place: _Store) -> None:
        """`paths`: of the database, and of those whose place it took."""
        path = paths[0]
        self._checkpoints = _Checkpoints(paths, place)
        super().__init__(Group(f"database {path}", awaiting(self._sync)), self._checkpoints)
        self._path = path
        self._database = database
        self._place = place
        self._views: set[SlateView] = set()

    async def get(self, key: bytes) -> bytes | None:
        self._group.check_open()
        with _errors(self._path):
            value: bytes | None = await self._database.get(key)
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._group.check_open()
        with _errors(self._path):
            return list(await asyncio.gather(*map(self._database.get, keys)))

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
        with _errors(self._path):
            return await _page(self._database, start, end, reverse, limit, size_bytes)

    async def view(self) -> View:
        self._group.check_open()
        with _errors(self._path):
            snapshot = await self._database.snapshot()
        view = SlateView(snapshot, self._path, self._views.discard)
        self._views.add(view)
        return view

    async def commit(self, batch: Batch, *, awaited: bool = False) -> Ticket:
        self._group.check()
        # A cancelled caller must not leave a write that has happened and has no ticket.
        return await asyncio.shield(self._commit(batch))

    async def _let_go(self) -> None:
        for view in list(self._views):
            view.close()
        await self._checkpoints.close(CLOSE_SECONDS)
        await self._shut()

    async def _shut(self) -> None:
        if self._group.failed and not self._group.fenced:
            self._database = None  # it would flush, and wait for that
            return
        # All is durable, or nobody's business any more: an error is nothing to act upon.
        with contextlib.suppress(slatedb.Error, PlatformError):
            await self._place.stored(self._database.shutdown(), self._path)

    async def _commit(self, batch: Batch) -> Ticket:
        if not batch:
            return self._group.add()
        self._place.space.check_commit(batch)
        writes = slatedb.WriteBatch()
        size = 0
        for key, value in batch.items():
            if value is None:
                writes.delete(key)
            else:
                writes.put(key, value)
                size += len(value)
        try:
            await self._place.stored(self._database.write(writes), self._path)
        except Exception as error:
            mapped = _error(error, self._path)
            self._group.fail(mapped)
            raise mapped from error
        return self._group.add(size)

    async def _sync(self) -> None:
        with _errors(self._path):
            await self._place.stored(self._database.flush(), self._path)


class _Store:
    """Where databases are, and what they share."""

    def __init__(self, url: str, cache_bytes: int, space: Space, store_seconds: float) -> None:
        self.space = space
        self._store_seconds = store_seconds
        parts = urlsplit(url)
        path = parts.path.strip("/")
        # SlateDB wants the store's root and the path apart.
        self.root = path + "/" if path else ""
        host = parts.netloc if parts.scheme != "file" else ""
        with _errors(url):
            self.store = slatedb.ObjectStore.resolve(f"{parts.scheme}://{host}/")
            self.cache = slatedb.DbCache.new_moka_cache(
                slatedb.MokaCacheOptions(
                    max_capacity=cache_bytes, time_to_live=None, time_to_idle=None
                )
            )
        self._cache_ids = itertools.count(1)

    async def stored(self, call: Awaitable[T], path: str) -> T:
        """The result of a call that waits for the store to take something, see the top."""
        try:
            return await asyncio.wait_for(call, self._store_seconds)
        except TimeoutError as error:
            if self.space.full:
                raise Exhausted("the disk is full: free space on it", path=path) from error
            raise Unavailable(
                "the object store does not answer", path=path, seconds=self._store_seconds
            ) from error

    async def open_database(self, path: str) -> Any:
        with _errors(path):
            settings = slatedb.Settings.default()
            for name, value in SETTINGS.items():
                settings.set(name, value)
            builder = slatedb.DbBuilder(path, self.store)
            builder.with_settings(settings)
            builder.with_db_cache(self.cache, next(self._cache_ids))
            try:
                return await self.stored(builder.build(), path)
            except slatedb.Error.Internal as error:
                # It met what it cannot make sense of: manifests have no checksum.
                raise Corrupt("database is damaged", path=path, cause=error.message) from error

    async def release(self, path: str) -> None:
        """Let go of the checkpoints that a database, which is going to be deleted, holds in those
        that it was cloned from. One that cannot be let go of costs space there, no more."""
        with contextlib.suppress(slatedb.Error, PlatformError):
            manifest = await slatedb.AdminBuilder(path, self.store).build().read_manifest(None)
            for source in manifest.external_dbs if manifest is not None else ():
                if source.final_checkpoint_id is not None:
                    admin = slatedb.AdminBuilder(source.path, self.store).build()
                    await self.stored(admin.delete_checkpoint(source.final_checkpoint_id), path)

    async def open_reader(self, path: str, checkpoint_id: str) -> Any:
        builder = slatedb.DbReaderBuilder(path, self.store)
        builder.with_reader_mode(slatedb.ReaderMode.CHECKPOINT(checkpoint_id))
        builder.with_options(
            slatedb.ReaderOptions(
                manifest_poll_interval_ms=60_000,
                checkpoint_lifetime_ms=600_000,
                max_memtable_bytes=MIB,
                skip_wal_replay=True,
            )
        )
        builder.with_db_cache(self.cache, next(self._cache_ids))
        return await builder.build()


class SlateStorages(Storages):
    """A bucket prefix; see above for what is where."""

    kind = "slate"
    clones_refer = True

    def __init__(self, bucket: Bucket, place: _Store, segment_bytes: int) -> None:
        """Use `at`."""
        self._bucket = bucket
        self._place = place
        self._segment_bytes = segment_bytes
        self._volumes = OpenVolumes()

    @classmethod
    async def at(
        cls,
        url: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        cache_bytes: int = CACHE_BYTES,
        store_seconds: float = STORE_SECONDS,
    ) -> SlateStorages:
        """Open ``s3://bucket/prefix``, ``file:///directory`` or ``memory:///``; an empty one is
        made ready. Credentials come from the environment, as for the AWS tools.

        INVALID if it is newer, or holds something else.
        """
        bucket = Bucket(url)
        await _check_format(bucket)
        place = _Store(url, cache_bytes, bucket.space, store_seconds)
        return cls(bucket, place, segment_bytes)

    async def volumes(self) -> list[int]:
        self._volumes.check()
        parts = set(await self._bucket.names(PARTS))
        names = await self._bucket.names("volumes")
        return sorted(int(n) for n in names if n.isdecimal() and n not in parts)

    async def open(self, volume: int, *, create: bool = False, briefly: bool = False) -> Storage:
        """Fences whoever has the volume open."""
        with self._volumes.alone(volume):
            places = await self._find(volume)
            exists = places is not None
            if places is None:
                if not create:
                    raise NotFound("volume not found", volume=volume)
                places = await self._new(volume)
            engine, segments = await self._open(places)
            if not exists:
                await self._bucket.create(_file(volume), places.encode())
            return self._volumes.put(volume, Storage(engine, segments), engine, segments)

    async def remove(self, volume: int) -> None:
        with self._volumes.alone(volume):
            await self._clear(volume)

    async def clone(self, source: int, checkpoint: str, target: int) -> None:
        check_checkpoint_name(checkpoint)
        with self._volumes.alone(target):
            if await self._find(target) is not None:
                return
            await self._volumes.seal(source)
            theirs = await self._find(source)
            if theirs is None:
                raise NotFound("volume not found", volume=source)
            await self._new(target)
            mine = Place(target, None)
            checkpoints = _Checkpoints(self._paths(theirs), self._place)
            await checkpoints.clone(checkpoint, self._place.root + mine.database)
            epochs, read = [theirs.epoch], []
            for place in theirs.all:
                numbers, claimed = await listed(self._bucket, place.segments)
                last = max(numbers, default=0)
                epochs += [last >> COUNTER_BITS, *claimed]
                read.append(place if place.end else Place(place.number, last + 1))
            places = Places((mine,), tuple(read), max(epochs))
            await self._bucket.create(_file(target), places.encode())

    async def replace(self, volume: int, other: int) -> None:
        with self._volumes.alone(volume), self._volumes.alone(other):
            old = await self._find(volume)
            if old is None:
                raise NotFound("volume not found", volume=volume)
            if all(place.number != other for place in old.owned):
                new = await self._find(other)
                if new is None:
                    raise NotFound("volume not found", volume=other)
                await self._check_segments(old, new)
                await self._bucket.put(_part(other), [b"%d\n" % volume])
                await self._bucket.put(_file(volume), [replaced(old, new).encode()])
            await self._bucket.delete(_file(other))

    def room(self) -> Room | None:
        return self._bucket.space.room()

    async def close(self) -> None:
        await self._volumes.close()

    async def _find(self, volume: int) -> Places | None:
        """Of a volume that is there, whole."""
        data = await self._bucket.find(_file(volume))
        if data is None:
            return None
        places = decode(data, volume, f"{self._bucket.url}/{_file(volume)}")
        return None if places.removed else places

    async def _new(self, volume: int) -> Places:
        """Places for a new volume, and nothing in them."""
        if not await self._clear(volume):
            raise NotFound("volume took another one's place", volume=volume)
        return Places.new(volume)

    async def _clear(self, volume: int) -> bool:
        """Remove all that belongs to a volume, whole or not. False if what is there belongs to
        another one, whose place it took."""
        if await self._bucket.find(_part(volume)) is not None:
            return False
        places = Places.new(volume)
        data = await self._bucket.find(_file(volume))
        if data is not None:
            places = decode(data, volume, _file(volume))._replace(removed=True)
            await self._bucket.put(_file(volume), [places.encode()])
        for path in self._paths(places):
            await self._place.release(path)
        for place in places.owned:
            if place.number != volume:
                await self._bucket.delete_all(place.prefix)
                await self._bucket.delete(_part(place.number))
        await self._bucket.delete(_file(volume))
        await self._bucket.delete_all(f"volumes/{volume}")
        return True

    async def _check_segments(self, old: Places, new: Places) -> None:
        """INVALID if a number means one segment here and another one there."""
        mine: dict[int, int] = {}
        for place in old.all:
            numbers, _ = await listed(self._bucket, place.segments)
            mine.update(dict.fromkeys(numbers, place.number))
        for place in new.owned:
            numbers, _ = await listed(self._bucket, place.segments)
            for number in numbers:
                if mine.get(number, place.number) != place.number:
                    raise Invalid("segments of one number differ", segment=number)

    def _paths(self, places: Places) -> list[str]:
        return [self._place.root + place.database for place in places.owned]

    async def _open(self, places: Places) -> tuple[SlateEngine, ObjectSegments]:
        paths = self._paths(places)
        engine = SlateEngine(paths, await self._place.open_database(paths[0]), self._place)
        try:
            segments = await ObjectSegments.at(
                self._bucket,
                places,
                subject=f"segments of {self._bucket.url}/{places.owned[0].prefix}",
                segment_bytes=self._segment_bytes,
            )
        except BaseException:
            await engine.close()
            raise
        return engine, segments


def _part(volume: int) -> str:
    return f"{PARTS}/{volume}"


def _file(volume: int) -> str:
    return f"volumes/{volume}/{NAME}"


async def _check_format(bucket: Bucket) -> None:
    data = await bucket.find(formats.NAME)
    if data is None:
        if await bucket.names(None):
            raise Invalid(
                f"store is not empty and has no {formats.NAME}: choose an empty prefix",
                url=bucket.url,
            )
        if await bucket.create(formats.NAME, formats.describe(SlateStorages.kind)):
            return
        data = await bucket.find(formats.NAME) or b""
    formats.check(data, SlateStorages.kind, bucket.url)
