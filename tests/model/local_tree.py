"""A real directory as the right answer: POSIX calls below a root that no path can leave.

`openat2` with RESOLVE_IN_ROOT makes the directory the root of absolute links and of `..`, as it is
in a platform. Every error is the kernel's OSError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_OPENAT2 = 437
_RENAMEAT2 = 316 if os.uname().machine == "x86_64" else 276
_RESOLVE_IN_ROOT = 0x10
_KEEP_SIZE_AND_PUNCH_HOLE = 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def rename_below(old_fd: int, old: str | bytes, new_fd: int, new: str | bytes, flags: int) -> None:
    """renameat2(2)."""
    _checked(_libc.syscall(_RENAMEAT2, old_fd, os.fsencode(old), new_fd, os.fsencode(new), flags))


class LocalTree:
    def __init__(self, root: Path) -> None:
        root.mkdir()
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        # ext4, xfs and tmpfs count a directory's subdirectories in its links, btrfs does not.
        self.counts_subdirectories = os.stat(root).st_nlink == 2

    def end(self) -> None:
        os.close(self._root)

    @staticmethod
    def supported(path: Path) -> bool:
        """Whether this kernel and file system can do all that is asked of them."""
        try:
            tree = LocalTree(path / "probe")
            fd = tree.open("/", os.O_PATH)
            os.setxattr(f"/proc/self/fd/{fd}", "user.probe", b"")
            os.close(fd)
            tree.end()
        except OSError:
            return False
        return True

    # ---- finding

    def open(self, path: str, flags: int) -> int:
        how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
        while True:
            try:
                return _checked(
                    _libc.syscall(_OPENAT2, self._root, os.fsencode(path) or b".", how, len(how))
                )
            except OSError as error:
                if error.errno != errno.EAGAIN:  # somebody renamed something while `..` was walked
                    raise

    @contextmanager
    def found(self, path: str, flags: int = os.O_PATH) -> Iterator[str]:
        fd = self.open(path, flags)
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    @contextmanager
    def name(self, path: str) -> Iterator[tuple[int, str]]:
        """(descriptor of the directory, last name)."""
        above, _, name = path.rstrip("/").rpartition("/")
        fd = self.open(above or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            os.close(fd)

    # ---- names

    def create(self, path: str, mode: int) -> None:
        with self.name(path) as (fd, name):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode, dir_fd=fd))

    def mkdir(self, path: str, mode: int) -> None:
        with self.name(path) as (fd, name):
            os.mkdir(name, mode, dir_fd=fd)

    def mkfifo(self, path: str, mode: int) -> None:
        with self.name(path) as (fd, name):
            os.mkfifo(name, mode, dir_fd=fd)

    def symlink(self, target: str, path: str) -> None:
        with self.name(path) as (fd, name):
            os.symlink(target, name, dir_fd=fd)

    def link(self, existing: str, path: str) -> None:
        with self.name(existing) as (a, old):
            os.stat(old, dir_fd=a, follow_symlinks=False)  # looked up before the new name's path
            with self.name(path) as (b, new):
                os.link(old, new, src_dir_fd=a, dst_dir_fd=b, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        with self.name(path) as (fd, name):
            os.unlink(name, dir_fd=fd)

    def rmdir(self, path: str) -> None:
        with self.name(path) as (fd, name):
            os.rmdir(name, dir_fd=fd)

    def rename(self, old: str, new: str, flags: int) -> None:
        with self.name(old) as (a, old_name), self.name(new) as (b, new_name):
            rename_below(a, old_name, b, new_name, flags)

    # ---- attributes

    def stat(self, path: str, *, follow: bool = True) -> os.stat_result:
        with self.found(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW)) as proc:
            return os.stat(int(proc.rpartition("/")[2]))

    def read_link(self, path: str) -> str:
        with self.name(path) as (fd, name):
            return os.readlink(name, dir_fd=fd)

    def chmod(self, path: str, mode: int) -> None:
        with self.found(path) as proc:
            os.chmod(proc, mode)

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        with self.found(path) as proc:
            os.utime(proc, ns=(atime_ns, mtime_ns))

    def set_xattr(self, path: str, name: str, value: bytes, create: bool, replace: bool) -> None:
        flags = (os.XATTR_CREATE if create else 0) | (os.XATTR_REPLACE if replace else 0)
        with self.found(path) as proc:
            os.setxattr(proc, name, value, flags)

    def remove_xattr(self, path: str, name: str) -> None:
        with self.found(path) as proc:
            os.removexattr(proc, name)

    def xattrs(self, path: str) -> dict[str, bytes]:
        with self.found(path) as proc:
            return {name: os.getxattr(proc, name) for name in sorted(os.listxattr(proc))}

    def names(self, path: str) -> list[str]:
        with self.found(path) as proc, os.scandir(proc) as entries:
            return sorted((e.name for e in entries), key=os.fsencode)

    # ---- bytes

    def read(self, path: str, offset: int, length: int) -> bytes:
        with self.found(path) as proc:
            fd = os.open(proc, os.O_RDONLY)
            try:
                return os.pread(fd, length, offset)
            finally:
                os.close(fd)

    def write(self, path: str, offset: int, data: bytes) -> None:
        with self.found(path) as proc:
            fd = os.open(proc, os.O_WRONLY)
            try:
                os.pwrite(fd, data, offset)
            finally:
                os.close(fd)

    def append(self, path: str, data: bytes) -> int:
        with self.found(path) as proc:
            fd = os.open(proc, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(fd, data)
                return os.lseek(fd, 0, os.SEEK_CUR) - len(data)
            finally:
                os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        with self.found(path) as proc:
            os.truncate(proc, size)

    def punch(self, path: str, offset: int, length: int) -> None:
        with self.found(path) as proc:
            fd = os.open(proc, os.O_WRONLY)
            try:
                _checked(_libc.fallocate(fd, _KEEP_SIZE_AND_PUNCH_HOLE, offset, length))
            finally:
                os.close(fd)
