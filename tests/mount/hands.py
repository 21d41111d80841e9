"""A process that does file operations as some user, and says what came of each.

The parent names an operation and its arguments; the answer is a plain value, or the name of the
errno. Everything happens relative to a *tree*: a directory that the process enters before each
operation, so that paths are equally long whatever the tree's own path is. `Hands` is the parent's
side, `Work` the operations, which mean the same on any file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import socket
import stat
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ANSWER_S = 60.0
SHORT = 64
"""Bytes that are longer are answered as length and digest."""

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
KEEP_SIZE = 1
PUNCH_HOLE = 2
ZERO_RANGE = 16

NOW_NS = 3600 * 10**9
"""A time within this of the clock was not set by a walk, which sets none that is."""

Answer = tuple[str, Any]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
_libc.renameat2.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
]


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def shown(data: bytes) -> object:
    """Bytes as an answer: themselves, or length and digest."""
    if len(data) <= SHORT:
        return bytes(data)
    return len(data), hashlib.blake2b(data, digest_size=8).hexdigest()


def time_shown(time_ns: int) -> object:
    return "now" if abs(time_ns - time.time_ns()) < NOW_NS else time_ns


def attributes(status: os.stat_result) -> tuple[object, ...]:
    """What must be equal: type, mode, links, owners, size, device, and a time that was set.

    A directory's size, blocks and access times are each file system's own.
    """
    is_directory = stat.S_ISDIR(status.st_mode)
    return (
        oct(status.st_mode),
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        0 if is_directory else status.st_size,
        status.st_rdev,
        time_shown(status.st_mtime_ns),
    )


class Work:
    """The operations. Names of files are relative to the tree; `h` numbers what is held open."""

    def __init__(self, trees: Sequence[str]) -> None:
        self._trees = [os.open(tree, os.O_RDONLY | os.O_DIRECTORY) for tree in trees]
        self._files: dict[tuple[int, int], int] = {}
        self._tree = 0

    def do(self, tree: int, name: str, arguments: Sequence[Any]) -> Answer:
        self._tree = tree
        try:
            os.fchdir(self._trees[tree])
            return "ok", getattr(self, name)(*arguments)
        except OSError as error:
            number = error.errno or 0
            return "error", errno.errorcode.get(number, str(error))

    # ---- names

    def mkdir(self, path: str, mode: int, umask: int) -> None:
        os.umask(umask)
        os.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mknod(self, path: str, mode: int, device: int, umask: int) -> None:
        os.umask(umask)
        os.mknod(path, mode, device)

    def bind(self, path: str) -> None:
        """A socket's name."""
        with socket.socket(socket.AF_UNIX) as endpoint:
            try:
                endpoint.bind(path)
            except OSError as error:
                if error.errno is None:  # "AF_UNIX path too long"
                    raise OSError(errno.EINVAL, "path too long") from error
                raise

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def link(self, old: str, new: str) -> None:
        os.link(old, new, follow_symlinks=False)

    def rename(self, old: str, new: str, flags: int) -> None:
        if flags:
            names = os.fsencode(old), os.fsencode(new)
            _checked(_libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], flags))
        else:
            os.rename(old, new)

    def listdir(self, path: str) -> list[tuple[str, str]]:
        """Names and types; each name once."""
        with os.scandir(path) as entries:
            return sorted((e.name, _type_of(e)) for e in entries)

    # ---- attributes

    def stat(self, path: str) -> object:
        return attributes(os.stat(path))

    def lstat(self, path: str) -> object:
        return attributes(os.lstat(path))

    def access(self, path: str, mode: int, effective: bool) -> bool:
        return os.access(path, mode, effective_ids=effective)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def utimens(
        self, path: str, atime: tuple[int, int], mtime: tuple[int, int], flags: int
    ) -> None:
        times = struct.pack("qqqq", *atime, *mtime)
        _checked(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags))

    def truncate(self, path: str, size: int) -> None:
        if _is_regular(path):
            os.truncate(path, size)

    def setxattr(self, path: str, name: str, value: bytes, flags: int, follow: bool) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=follow)

    def getxattr(self, path: str, name: str) -> object:
        return shown(os.getxattr(path, name))

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(path, name)

    def listxattr(self, path: str) -> list[str]:
        return _own(os.listxattr(path))

    def statvfs(self, path: str) -> bool:
        found = os.statvfs(path)
        return found.f_namemax == 255 and found.f_bsize > 0 and found.f_bavail <= found.f_blocks

    # ---- whole operations on a file: open, do, close

    def read_all(self, path: str) -> object:
        with self._opened(path, os.O_RDONLY) as fd:
            return shown(_read_all(fd))

    def write_new(self, path: str, flags: int, mode: int, umask: int, data: bytes) -> int:
        os.umask(umask)
        with self._opened(path, os.O_WRONLY | flags, mode) as fd:
            return os.write(fd, data) if stat.S_ISREG(os.fstat(fd).st_mode) else 0

    def write_at(self, path: str, flags: int, offset: int, data: bytes, sync: bool) -> int:
        with self._opened(path, os.O_WRONLY | flags) as fd:
            written = os.pwrite(fd, data, offset)
            if sync:
                os.fsync(fd)
            return written

    def write_mapped(self, path: str, offset: int, data: bytes) -> int | None:
        with self._opened(path, os.O_RDWR) as fd:
            return _write_mapped(fd, offset, data)

    def write_direct(self, path: str, block: int, count: int, fill: int) -> int:
        """Whole blocks of 4 KiB around the page cache."""
        with (
            self._opened(path, os.O_WRONLY | os.O_DIRECT) as fd,
            mmap.mmap(-1, count << 12) as data,
        ):
            data.write(bytes([fill]) * (count << 12))
            return os.pwrite(fd, data, block << 12)

    def read_direct(self, path: str, block: int, count: int) -> object:
        with (
            self._opened(path, os.O_RDONLY | os.O_DIRECT) as fd,
            mmap.mmap(-1, count << 12) as data,
        ):
            length = os.preadv(fd, [data], block << 12)
            return shown(data[:length])

    def extents(self, path: str) -> bool:
        """What SEEK_DATA calls a hole reads as zeros; every file system may call less a hole."""
        with self._opened(path, os.O_RDONLY) as fd:
            return _holes_are_zeros(fd)

    # ---- what is held open

    def open(self, h: int, path: str, flags: int, mode: int, umask: int) -> bool:
        self.close(h)
        os.umask(umask)
        with self._opened(path, flags, mode) as fd:
            self._files[self._tree, h] = os.dup(fd)
        return True

    def tmpfile(self, h: int, path: str, flags: int, mode: int, umask: int) -> bool:
        return self.open(h, path, os.O_TMPFILE | flags, mode, umask)

    def link_held(self, h: int, path: str) -> None:
        """Give a name to what may have none."""
        held = f"/proc/self/fd/{self._fd(h)}".encode()
        _checked(_libc.linkat(AT_FDCWD, held, AT_FDCWD, os.fsencode(path), AT_SYMLINK_FOLLOW))

    def close(self, h: int) -> None:
        fd = self._files.pop((self._tree, h), None)
        if fd is not None:
            os.close(fd)

    def read(self, h: int, length: int) -> object:
        return shown(os.read(self._fd(h), length))

    def write(self, h: int, data: bytes) -> int:
        return os.write(self._fd(h), data)

    def pread(self, h: int, length: int, offset: int) -> object:
        return shown(os.pread(self._fd(h), length, offset))

    def pwrite(self, h: int, data: bytes, offset: int) -> int:
        return os.pwrite(self._fd(h), data, offset)

    def readv(self, h: int, lengths: list[int]) -> object:
        parts = [bytearray(length) for length in lengths]
        count = os.readv(self._fd(h), parts)
        return shown(b"".join(parts)[:count])

    def writev(self, h: int, parts: list[bytes]) -> int:
        return os.writev(self._fd(h), parts)

    def lseek(self, h: int, offset: int, whence: int) -> int | None:
        fd = self._fd(h)
        if stat.S_ISDIR(os.fstat(fd).st_mode):  # where a directory ends is each file system's own
            return None
        return os.lseek(fd, offset, whence)

    def extents_held(self, h: int) -> bool:
        return _holes_are_zeros(self._fd(h))

    def fstat(self, h: int) -> object:
        return attributes(os.fstat(self._fd(h)))

    def fsync(self, h: int) -> None:
        os.fsync(self._fd(h))

    def fdatasync(self, h: int) -> None:
        os.fdatasync(self._fd(h))

    def ftruncate(self, h: int, size: int) -> None:
        os.ftruncate(self._fd(h), size)

    def fchmod(self, h: int, mode: int) -> None:
        os.fchmod(self._fd(h), mode)

    def fchown(self, h: int, uid: int, gid: int) -> None:
        os.fchown(self._fd(h), uid, gid)

    def futimens(self, h: int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
        times = struct.pack("qqqq", *atime, *mtime)
        _checked(_libc.utimensat(self._fd(h), None, times, 0))

    def fallocate(self, h: int, mode: int, offset: int, length: int) -> None:
        _checked(_libc.fallocate(self._fd(h), mode, offset, length))

    def copy_range(self, a: int, at_a: int, b: int, at_b: int, length: int) -> int:
        done = 0
        while done < length:
            count = os.copy_file_range(
                self._fd(a), self._fd(b), length - done, at_a + done, at_b + done
            )
            if not count:
                break
            done += count
        return done

    def read_mapped(self, h: int, offset: int, length: int) -> object:
        fd = self._fd(h)
        size = os.fstat(fd).st_size
        if not size or not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as data:
            return shown(data[offset : offset + length])

    def write_held_mapped(self, h: int, offset: int, data: bytes) -> int | None:
        return _write_mapped(self._fd(h), offset, data)

    def list_held(self, h: int) -> list[str]:
        return sorted(os.listdir(self._fd(h)))

    def lookup_held(self, h: int, name: str) -> object:
        return attributes(os.stat(name, dir_fd=self._fd(h), follow_symlinks=False))

    # ---- the state of all

    def times(self, paths: Sequence[str]) -> list[tuple[int, int, int] | None]:
        """Inode number, mtime and ctime of each that there is."""
        found: list[tuple[int, int, int] | None] = []
        for path in paths:
            try:
                status = os.lstat(path)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
        return found

    def everything(self) -> dict[str, object]:
        """Every name with its attributes, content, extended attributes and other names."""
        found: dict[str, object] = {}
        first: dict[int, str] = {}
        for directory, directories, files in os.walk(".", onerror=_raise):
            directories.sort(key=os.fsencode)  # `os.walk` goes on in this order
            for name in sorted(directories + files, key=os.fsencode):
                path = f"{directory}/{name}"[2:]
                status = os.lstat(path)
                content: object = None
                if stat.S_ISREG(status.st_mode):
                    content = self.read_all(path)
                elif stat.S_ISLNK(status.st_mode):
                    content = os.readlink(path)
                xattrs = []
                if not stat.S_ISLNK(status.st_mode):
                    names = _own(os.listxattr(path))
                    xattrs = [(x, shown(os.getxattr(path, x))) for x in names]
                same = None
                if not stat.S_ISDIR(status.st_mode):
                    same = first.setdefault(status.st_ino, path)
                found[path] = (*attributes(status), content, xattrs, same)
        return found

    def entries(self) -> list[tuple[str, str]]:
        """Every path and what it is: d, f, l or another letter."""
        found = []
        for directory, directories, files in os.walk("."):
            for name in directories + files:
                path = f"{directory}/{name}"[2:]
                found.append((path, _letter(os.lstat(path).st_mode)))
        return sorted(found, key=lambda entry: os.fsencode(entry[0]))

    def bytes_of(self, path: str) -> bytes:
        with self._opened(path, os.O_RDONLY) as fd:
            return _read_all(fd)

    # ---- inside

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int, mode: int = 0o666):  # type: ignore[no-untyped-def]
        # A FIFO would wait for its other end. What a device answers is the device's.
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.stat(path).st_mode) or stat.S_ISBLK(os.stat(path).st_mode):
                raise OSError(errno.ENXIO, "not opened here")
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        try:
            yield fd
        finally:
            os.close(fd)

    def _fd(self, h: int) -> int:
        try:
            return self._files[self._tree, h]
        except KeyError:
            raise OSError(errno.EBADF, "not open") from None


def _raise(error: OSError) -> None:
    raise error


def _letter(mode: int) -> str:
    return {stat.S_IFDIR: "d", stat.S_IFREG: "f", stat.S_IFLNK: "l"}.get(stat.S_IFMT(mode), "s")


def _type_of(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "l"
    if entry.is_dir(follow_symlinks=False):
        return "d"
    return "f" if entry.is_file(follow_symlinks=False) else "s"


def _is_regular(path: str) -> bool:
    return not stat.S_ISFIFO(os.stat(path).st_mode) and not stat.S_ISCHR(os.stat(path).st_mode)


def _own(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(("user.", "trusted.")))


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _write_mapped(fd: int, offset: int, data: bytes) -> int | None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or offset + len(data) > status.st_size or not data:
        return None
    with mmap.mmap(fd, status.st_size) as mapped:
        mapped[offset : offset + len(data)] = data
        mapped.flush()
    return len(data)


def _holes_are_zeros(fd: int) -> bool:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return True
    position = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        at = 0
        while at < status.st_size:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                start = status.st_size
            end = os.lseek(fd, start, os.SEEK_HOLE) if start < status.st_size else start
            if not at <= start <= end <= status.st_size:
                return False
            hole = os.pread(fd, start - at, at)
            if hole.count(0) != start - at:
                return False
            if end == at:  # neither data nor a hole
                return False
            at = end
        with contextlib.suppress(OSError):
            os.lseek(fd, status.st_size, os.SEEK_DATA)
            return False  # ENXIO is due
        return True
    finally:
        os.lseek(fd, position, os.SEEK_SET)


# ---------------------------------------------------------------------------------- processes


class Silent(Exception):
    """No answer: the operation hangs, or its process died."""


class Hands:
    """The parent's side."""

    def __init__(
        self,
        trees: Sequence[Path],
        uid: int = 0,
        groups: Sequence[int] = (0,),
        work: str = "Work",
    ) -> None:
        self.uid = uid
        ours, theirs = socket.socketpair()
        listed = ",".join(map(str, groups))
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.mount.plants", work),
                    *(str(theirs.fileno()), str(uid), listed),
                    *map(str, trees),
                ],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2],
            )
        self._pipe = Connection(ours.detach())

    def do(self, tree: int, name: str, *arguments: Any) -> Answer:
        try:
            self._pipe.send((tree, name, arguments))
            if not self._pipe.poll(ANSWER_S):
                raise Silent(f"{name}{arguments} hangs")
            answer: Answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise Silent(f"{name}{arguments}: the process died") from None
        if answer[0] == "raised":
            raise AssertionError(f"{name}{arguments}:\n{answer[1]}")
        return answer

    def end(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def __enter__(self) -> Hands:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def serve(pipe: Connection, work: Work) -> None:
    while True:
        try:
            tree, name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = work.do(tree, name, arguments)
        except Exception:
            answer = "raised", traceback.format_exc()
        pipe.send(answer)


def main(kind: type[Work], arguments: Sequence[str]) -> None:
    """Serve the parent at the other end of FD: FD UID GROUPS TREE..."""
    fd, uid, groups, *trees = arguments
    gids = [int(gid) for gid in groups.split(",")]
    work = kind(trees)
    os.setgroups(gids)
    os.setgid(gids[0])
    os.setuid(int(uid))
    with Connection(int(fd)) as pipe:
        serve(pipe, work)
