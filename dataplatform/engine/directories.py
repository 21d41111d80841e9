"""The data directory of an embedded server, and how things in it come and go whole.

::

    DATA/format.json                     what this is, see formats.py
    DATA/LOCK                            flock of the server that uses it; holds its pid
    DATA/volumes/<number>/db/            the database
    DATA/volumes/<number>/checkpoints/   one database per checkpoint, hard links mostly
    DATA/volumes/<number>/segments/      bulk bytes, see files.py
    DATA/volumes/<number>.new/           a volume being made: gone at the next start
    DATA/volumes/<number>.old/           a volume being removed or replaced: gone at the next start

A name appears by `rename` when all below it is synced, and goes by `rename` before its content
does, so a crash leaves no half. All calls here block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..base.errors import Invalid, NotFound, PlatformError, Unavailable
from . import formats
from .oserrors import from_os_error

LOCK = "LOCK"
NEW = ".new"
OLD = ".old"


@contextlib.contextmanager
def os_errors(message: str, path: Path) -> Iterator[None]:
    """Map what the operating system raises inside."""
    try:
        yield
    except PlatformError:
        raise
    except OSError as error:
        raise from_os_error(error, message, path=path) from error


def sync_directory(path: Path) -> None:
    """Make names made, renamed or removed in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that a crash leaves the old content or the new one."""
    temporary = path.with_name(path.name + NEW)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and what is below; a missing one is no error."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


class DataDirectory:
    """A locked data directory; made if it is missing or empty."""

    def __init__(self, path: Path, engine: str) -> None:
        """UNAVAILABLE if another server uses it, INVALID if it holds something else."""
        self.path = path
        self._volumes = path / "volumes"
        with os_errors("data directory cannot be opened", path):
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            if made:
                sync_directory(path.parent)
            self._check_ours()
            self._lock = self._take_lock()
            try:
                self._open(engine)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def volumes(self) -> list[int]:
        with os_errors("data directory cannot be read", self._volumes):
            names = os.listdir(self._volumes)
        return sorted({int(n) for n in (n.removesuffix(NEW) for n in names) if n.isdecimal()})

    def find_volume(self, volume: int) -> Path:
        """Where a volume is; NOT_FOUND if it was never made completely."""
        path = self._volumes / str(volume)
        if not path.is_dir():
            raise NotFound("volume not found", volume=volume)
        return path

    def make_volume(self, volume: int, fill: Callable[[Path], None]) -> None:
        """Make a volume unless it exists; `fill` puts things into a directory and syncs them."""
        path = self._volumes / str(volume)
        new = path.with_name(path.name + NEW)
        with os_errors("volume cannot be made", path):
            if path.exists():
                return
            remove_tree(new)
            new.mkdir()
            try:
                fill(new)
                sync_directory(new)
                new.rename(path)
            except BaseException:
                remove_tree(new)
                raise
            sync_directory(self._volumes)

    def remove_volume(self, volume: int) -> None:
        path = self._volumes / str(volume)
        old = path.with_name(path.name + OLD)
        with os_errors("volume cannot be removed", path):
            remove_tree(path.with_name(path.name + NEW))
            remove_tree(old)
            with contextlib.suppress(FileNotFoundError):
                path.rename(old)
            sync_directory(self._volumes)
            remove_tree(old)

    def replace_volume(self, volume: int, other: int, gather: Callable[[Path, Path], None]) -> None:
        """Put the directory of `other` in the place of that of `volume`.

        `gather(old, new)` first moves and links what has to stay into the new one, and syncs it.
        Both that and this can be repeated after a crash at any point; afterwards only this volume
        is there. NOT_FOUND if neither is.
        """
        path, new = self._volumes / str(volume), self._volumes / str(other)
        old = path.with_name(path.name + OLD)
        with os_errors("volume cannot be replaced", path):
            if new.is_dir():
                if path.is_dir():
                    gather(path, new)
                    remove_tree(old)
                    path.rename(old)
                new.rename(path)
                sync_directory(self._volumes)
            self.find_volume(volume)
            remove_tree(old)

    def _check_ours(self) -> None:
        """Refuse a foreign directory before anything is written into it."""
        names = set(os.listdir(self.path)) - {LOCK, formats.NAME + NEW}
        if names and formats.NAME not in names:
            raise Invalid(
                f"directory is not empty and has no {formats.NAME}: choose an empty one",
                path=self.path,
            )

    def _take_lock(self) -> int:
        fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise Unavailable(
                f"another server (pid {pid}) uses this data directory", path=self.path
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return fd

    def _open(self, engine: str) -> None:
        file = self.path / formats.NAME
        if not file.exists():
            write_whole(file, formats.describe(engine))
        formats.check(file.read_bytes(), engine, str(self.path))
        self._volumes.mkdir(exist_ok=True)
        self._volumes.chmod(0o700)  # who may read what is not the disk's to say
        for entry in self._volumes.iterdir():
            if entry.suffix in (NEW, OLD):
                remove_tree(entry)
        sync_directory(self.path)
        sync_directory(self._volumes)
