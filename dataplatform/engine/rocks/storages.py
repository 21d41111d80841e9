"""A data directory full of databases; see directories.py for what is where."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..base import Room, Storage, Storages
from ..checkpoints import check_checkpoint_name
from ..directories import DataDirectory
from ..files import SEGMENT_BYTES, LocalSegments
from ..volumes import OpenVolumes
from . import clones
from .databases import (
    BLOCK_CACHE_BYTES,
    WRITE_BUFFERS_BYTES,
    Shared,
    make_volume,
    open_database,
)
from .engine import RocksEngine

T = TypeVar("T")


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

    async def open(self, volume: int, *, create: bool = False, briefly: bool = False) -> Storage:
        with self._volumes.alone(volume):
            engine, segments = await self._run(lambda: self._open(volume, create, briefly))
            return self._volumes.put(volume, Storage(engine, segments), engine, segments)

    async def remove(self, volume: int) -> None:
        with self._volumes.alone(volume):
            await self._run(lambda: self._directory.remove_volume(volume))

    async def clone(self, source: int, checkpoint: str, target: int) -> None:
        check_checkpoint_name(checkpoint)
        with self._volumes.alone(target):
            await self._volumes.seal(source)
            await self._run(lambda: self._clone(source, checkpoint, target))

    async def replace(self, volume: int, other: int) -> None:
        with self._volumes.alone(volume), self._volumes.alone(other):
            await self._run(lambda: self._directory.replace_volume(volume, other, clones.gather))

    def room(self) -> Room | None:
        return self._shared.space.room()

    async def close(self) -> None:
        try:
            await self._volumes.close()
        finally:
            for threads in self._shared.threads:
                await asyncio.to_thread(threads.shutdown)
            self._directory.close()

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._shared.threads.disk, call)

    def _clone(self, source: int, checkpoint: str, target: int) -> None:
        path = self._directory.find_volume(source)
        self._directory.make_volume(target, lambda new: clones.fill(path, checkpoint, new))

    def _open(self, volume: int, create: bool, briefly: bool) -> tuple[RocksEngine, LocalSegments]:
        if create:
            self._directory.make_volume(volume, lambda path: make_volume(path, self._shared))
        path = self._directory.find_volume(volume)
        segments = LocalSegments(
            path / "segments",
            self._shared.threads,
            self._shared.descriptors,
            self._shared.space,
            subject=f"segments {path}",
            segment_bytes=self._segment_bytes,
        )
        database = open_database(path / "db", self._shared, is_brief=briefly)
        try:
            return RocksEngine(path, database, self._shared), segments
        except BaseException:
            database.close()
            raise
