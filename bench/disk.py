"""What the local disk gives, in the same run and on the same file system."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

from .sides import DISK, Driver, MakeDriver, Side, Sizes, Way, way
from .timing import median_us, timed

ONE = b"x" * 100
CALL = 1 << 20
CALLS = 256
SMALL = 4096
THREADS = 16


class Disk(Side):
    """A directory beside the servers'."""

    name = DISK
    works = frozenset(
        ("put", "append", "file-write", "file-write-sync", "file-read", "small-files")
    )

    def start(self, directory: Path) -> Sequence[MakeDriver]:
        return (partial(DiskDriver, directory),)

    def stop(self) -> None:
        pass


class DirectoryDriver(Driver):
    """Files in a directory of the kernel's: of the local disk, or of a mount."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names = count()
        self._block = os.urandom(CALL)
        self._threads = ThreadPoolExecutor(THREADS)

    def write(self, sizes: Sizes) -> float:
        return self._write(sizes.count(CALLS, 16), is_synced=False)

    def write_sync(self, sizes: Sizes) -> float:
        return self._write(sizes.count(CALLS, 16), is_synced=True)

    def _write(self, calls: int, *, is_synced: bool) -> float:
        path = self._directory / str(next(self._names))
        with timed() as watch, path.open("wb", buffering=0) as file:
            for _ in range(calls):
                file.write(self._block)
            if is_synced:
                os.fsync(file.fileno())
        path.unlink()
        return calls * CALL / watch.seconds / 1e6

    def read(self, sizes: Sizes) -> float:
        calls = sizes.count(CALLS, 16)
        path = self._directory / f"read{calls}"
        if not path.exists():
            with path.open("wb", buffering=0) as file:
                for _ in range(calls):
                    file.write(self._block)
                os.fsync(file.fileno())
        read = 0
        with timed() as watch, path.open("rb", buffering=0) as file:
            while data := file.read(CALL):
                read += len(data)
        assert read == calls * CALL, read
        return read / watch.seconds / 1e6

    def small(self, sizes: Sizes) -> float:
        directory = self._directory / f"small{next(self._names)}"
        directory.mkdir()
        paths = [directory / str(number) for number in range(sizes.count(5000))]
        content = self._block[:SMALL]

        def create(path: Path) -> None:
            with path.open("xb", buffering=0) as file:
                file.write(content)

        with timed() as watch:
            for _ in self._threads.map(create, paths, chunksize=1):
                pass
            self.sync()
        for path in paths:
            path.unlink()
        directory.rmdir()
        return len(paths) / watch.seconds

    def sync(self) -> None:
        """Everything written so far is on disk, as far as this can be asked for."""
        os.sync()

    def close(self) -> None:
        self._threads.shutdown()


class DiskDriver(DirectoryDriver):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        self._log = os.open(directory / "log", flags, 0o600)

    def ways(self) -> Sequence[Way]:
        return (
            way("put", "write + fdatasync", "synced", self.append),
            way("append", "write + fdatasync", "synced", self.append),
            way("file-write", "open, write, close", "page cache", self.write),
            way("file-write-sync", "open, write, fsync, close", "synced", self.write_sync),
            way("file-read", "open, read", "–", self.read),
            way("small-files", f"{THREADS} threads, then sync", "synced at the end", self.small),
        )

    def append(self, sizes: Sizes) -> float:
        def once(number: int) -> None:
            os.write(self._log, ONE)
            os.fdatasync(self._log)

        return median_us(once, sizes.count(100, 20))

    def close(self) -> None:
        super().close()
        os.close(self._log)
