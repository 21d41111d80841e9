"""One volume's database as an engine: commits that are put off, and when they are written.

Invariants: what is gathered is newer than all that is written, so a read by key looks there first,
and whoever reads a range, or wants the database to stand still, has it written before; a write
empties it, or breaks the engine, or has done nothing (a stall).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

from rocksdict import Rdict, WriteBatch, WriteOptions

from ...base.limits import MIB
from ..base import Batch, Pair, Ticket, View
from ..grouped import GroupedEngine
from ..groups import Blocking, Group, Load
from .checkpoints import Checkpoints
from .databases import Shared
from .errors import error_of, write_error_of
from .reading import RocksView, Scanner, read_many

STALLED = "Result incomplete: Write stall"
"""What RocksDB says when a write would have had to wait; nothing of it has been done then."""

STALL_SECONDS = 0.005
"""How long a commit waits before it asks again whether RocksDB has caught up."""

GATHERED_BYTES_MAX = MIB
"""Commits that were put off are written when they amount to this, sync or no sync."""


def write_batch(batch: Batch) -> WriteBatch:
    writes = WriteBatch(raw_mode=True)
    put, delete = writes.put, writes.delete
    for key, value in batch.items():
        if value is None:
            delete(key)
        else:
            put(key, value)
    return writes


class RocksEngine(GroupedEngine):
    """One volume's database."""

    def __init__(self, path: Path, database: Rdict, shared: Shared) -> None:
        """`path` is the volume's directory. Call it in a thread; see `RocksStorages.open`."""
        self._blocking = Blocking(self._sync, shared.threads.syncs)
        self._checkpoints = Checkpoints(path / "checkpoints", shared)
        super().__init__(Group(f"database {path}", self._start_sync), self._checkpoints)
        self._path = path
        self._database = database
        self._disk = shared.threads.disk
        self._space = shared.space
        self._scanner = Scanner(path)
        self._views: dict[RocksView, None] = {}
        self._writing = WriteOptions()
        self._writing.no_slowdown = True  # it would sleep with the GIL held; see _write
        self._gathered: dict[bytes, bytes | None] = {}  # committed, not yet written
        self._gathered_bytes = 0

    async def get(self, key: bytes) -> bytes | None:
        self._group.check_open()
        if self._gathered and key in self._gathered:
            return self._gathered[key]
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise error_of(error, self._path) from error
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._group.check_open()
        values = read_many(self._database, keys, self._path)
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

    async def _let_go(self) -> None:
        for view in list(self._views):
            view.close()
        self._scanner.moved()
        await self._checkpoints.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._disk, self._close_database)

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
            writes = write_batch(self._gathered)  # a WriteBatch can be written once
            for view in self._views:
                view.pin()
            self._scanner.moved()
            self._database.write(writes, self._writing)
        except Exception as error:
            if STALLED in str(error):
                return False
            self._forget_gathered()
            mapped = write_error_of(error, self._path)
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
            raise write_error_of(error, self._path) from error

    def _close_database(self) -> None:
        # It also writes out rows that are only in the log. If that fails, the log still has them,
        # synced, and the next open tries again: nothing for the caller to act upon.
        with contextlib.suppress(Exception):
            self._database.close()
