"""Hands that do wrong on the subject, each in one way: what a walk must find.

Run as a program, this serves a walk: `python -m tests.mount.plants CLASS FD UID GROUPS TREE...`,
where CLASS is `Work`, which does no wrong, or one of these.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from .hands import KEEP_SIZE, PUNCH_HOLE, RENAME_EXCHANGE, RENAME_NOREPLACE, Answer, Work, main


class ForgetsModes(Work):
    def chmod(self, path: str, mode: int) -> None:
        super().chmod(path, os.stat(path).st_mode & 0o7777 if self._tree else mode)


class ReplacesAllTheSame(Work):
    def rename(self, old: str, new: str, flags: int) -> None:
        super().rename(old, new, flags & ~RENAME_NOREPLACE if self._tree else flags)


class MovesInsteadOfExchanging(Work):
    def rename(self, old: str, new: str, flags: int) -> None:
        if self._tree and flags == RENAME_EXCHANGE:
            os.stat(new)
            flags = 0
        super().rename(old, new, flags)


class LosesTheGroupOfADirectory(Work):
    def mkdir(self, path: str, mode: int, umask: int) -> None:
        super().mkdir(path, mode, umask)
        if self._tree:
            os.chown(path, -1, os.getegid())


class CutsNanoseconds(Work):
    def utimens(self, path: str, atime: Any, mtime: Any, flags: int) -> None:
        if self._tree and mtime[1] < 10**9:
            mtime = (mtime[0], mtime[1] // 1000 * 1000)
        super().utimens(path, atime, mtime, flags)


class KeepsTheTimeOfWhatIsWritten(Work):
    def write_at(self, path: str, flags: int, offset: int, data: bytes, sync: bool) -> int:
        before = os.stat(path)
        written = super().write_at(path, flags, offset, data, sync)
        if self._tree:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return written


class LosesALastByte(Work):
    def write_mapped(self, path: str, offset: int, data: bytes) -> int | None:
        if self._tree and (offset + len(data)) % 4096 == 0:
            return super().write_mapped(path, offset, data[:-1]) and len(data)
        return super().write_mapped(path, offset, data)


class AppendsAtAnOffset(Work):
    def write_at(self, path: str, flags: int, offset: int, data: bytes, sync: bool) -> int:
        if self._tree:
            flags &= ~os.O_APPEND
        return super().write_at(path, flags, offset, data, sync)


class ForgetsANameInAListing(Work):
    def listdir(self, path: str) -> list[tuple[str, str]]:
        found = super().listdir(path)
        return [entry for entry in found if len(entry[0]) < 255] if self._tree else found


class LosesWhatIsUnlinked(Work):
    def pread(self, h: int, length: int, offset: int) -> object:
        if self._tree and not os.fstat(self._fd(h)).st_nlink:
            return b""
        return super().pread(h, length, offset)


class PunchesNothing(Work):
    def fallocate(self, h: int, mode: int, offset: int, length: int) -> None:
        if self._tree and mode == PUNCH_HOLE | KEEP_SIZE:
            os.fstat(self._fd(h))
            return
        super().fallocate(h, mode, offset, length)


class CreatesAttributesTwice(Work):
    def setxattr(self, path: str, name: str, value: bytes, flags: int, follow: bool) -> None:
        if self._tree:
            flags &= ~os.XATTR_CREATE
        super().setxattr(path, name, value, flags, follow)


class MistakesErrors(Work):
    def do(self, tree: int, name: str, arguments: Any) -> Answer:
        answer = super().do(tree, name, arguments)
        if tree and answer == ("error", errno.errorcode[errno.ENOTEMPTY]):
            return "error", errno.errorcode[errno.EEXIST]
        return answer


class CountsLinksOfDirectoriesWrongly(Work):
    def lstat(self, path: str) -> object:
        found = super().lstat(path)
        assert isinstance(found, tuple)
        is_directory = self._tree and found[0].startswith("0o4")
        return (found[0], 1, *found[2:]) if is_directory else found


class TouchesADirectoryWithoutNeed(Work):
    def setxattr(self, path: str, name: str, value: bytes, flags: int, follow: bool) -> None:
        super().setxattr(path, name, value, flags, follow)
        if self._tree:
            os.utime(os.path.dirname(path) or ".")


class RemembersSizes(Work):
    """As a second mount that is told nothing."""

    def __init__(self, trees: Any) -> None:
        super().__init__(trees)
        self._seen: dict[str, object] = {}

    def stat(self, path: str) -> object:
        found = super().stat(path)
        return self._seen.setdefault(path, found) if self._tree == 2 else found


class RemembersWhatIsNotThere(Work):
    """As a second mount with negative entries that nobody drops."""

    def __init__(self, trees: Any) -> None:
        super().__init__(trees)
        self._missing: set[str] = set()

    def lstat(self, path: str) -> object:
        if self._tree == 2 and path in self._missing:
            raise FileNotFoundError(errno.ENOENT, "remembered")
        try:
            return super().lstat(path)
        except FileNotFoundError:
            if self._tree == 2:
                self._missing.add(path)
            raise


if __name__ == "__main__":
    main(globals()[sys.argv[1]], sys.argv[2:])
