"""Checkpoints of one database: made, read, and deleted while they are read.

`<name>` is a checkpoint, `<name>.doomed` beside it says that it is deleted but still read,
`*.trash` and RocksDB's own `*.tmp` are leftovers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from rocksdict import Checkpoint, Rdict

from ...base.errors import Exists, NotFound, Unavailable
from ..base import Pair, View
from ..directories import os_errors, remove_tree, sync_directory
from .databases import Shared, open_checkpoint
from .errors import error_of, errors
from .reading import Scanner, read_many

T = TypeVar("T")

TRASH = ".trash"  # on disk: a checkpoint being removed
DOOMED = ".doomed"  # on disk: beside a checkpoint that goes when its last reader does


class OpenCheckpoint:
    """A checkpoint's database, opened once for all who read it."""

    def __init__(self, database: Rdict, path: Path) -> None:
        self.database = database
        self.path = path
        self.readers = 0
        self.doomed = False


class CheckpointView(View):
    """A checkpoint, opened read-only."""

    def __init__(self, checkpoint: OpenCheckpoint, release: Callable[[CheckpointView], None]):
        self.checkpoint = checkpoint
        self._scanner = Scanner(checkpoint.path)
        self._release = release
        self._closed = False
        checkpoint.readers += 1

    async def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._live().get(key)
        except Exception as error:
            raise error_of(error, self.checkpoint.path) from error
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return read_many(self._live(), keys, self.checkpoint.path)

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


class Checkpoints:
    """The directory of a volume's checkpoints."""

    def __init__(self, path: Path, shared: Shared) -> None:
        """Clears leftovers: call it in a thread."""
        self._path = path
        self._shared = shared
        self._open: dict[str, OpenCheckpoint] = {}
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

    async def names(self) -> list[str]:
        async with self._lock:
            return await self._run(self._names)

    async def size(self, name: str) -> int:
        """Of the files that no database and no other checkpoint, of this volume or of a clone, has
        a link to."""
        async with self._lock:
            if self._is_doomed(name):
                raise NotFound("checkpoint not found", name=name)
            return await self._run(lambda: self._size(name))

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

    def _is_doomed(self, name: str) -> bool:
        checkpoint = self._open.get(name)
        return checkpoint is not None and checkpoint.doomed

    def _names(self) -> list[str]:
        with os_errors("checkpoints cannot be read", self._path):
            names = [entry.name for entry in self._path.iterdir() if not entry.suffix]
            return sorted(name for name in names if not self._is_doomed(name))

    def _size(self, name: str) -> int:
        size = 0
        with os_errors("checkpoint cannot be read", self._path):
            try:
                for entry in os.scandir(self._path / name):
                    found = entry.stat()
                    size += found.st_size if found.st_nlink == 1 else 0
            except FileNotFoundError as error:
                raise NotFound("checkpoint not found", name=name) from error
        return size

    def _make(self, name: str, database: Rdict) -> None:
        """Rows in memory are written out first, as making a checkpoint would do with the GIL held.
        What is left to it is a link for each table, and the rows that were written meanwhile."""
        with errors(self._path):
            database.flush(True)
            Checkpoint(database).create_checkpoint(str(self._path / name))
        with os_errors("checkpoint cannot be made", self._path):
            sync_directory(self._path)

    def _open_database(self, name: str) -> OpenCheckpoint:
        path = self._path / name
        if not path.exists():
            raise NotFound("checkpoint not found", name=name)
        return OpenCheckpoint(open_checkpoint(path, self._shared), path)

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
        with errors(checkpoint.path):
            checkpoint.database.close()
        if checkpoint.doomed:
            with os_errors("checkpoint cannot be deleted", checkpoint.path):
                trash = self._rename_away(name)
            self._removals = [r for r in self._removals if not r.done()]
            self._removals.append(self._shared.threads.disk.submit(remove_tree, trash))
