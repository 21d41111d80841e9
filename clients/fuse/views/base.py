"""Tables and streams as files: what the mount asks of a node that is not stored as one.

A view node stands for a table, a row, a stream, a topic or a partition. The mount gives it a number
and keeps it while the kernel knows it; the kernel caches nothing of it (no attributes, no names, no
pages), so every question comes here and every answer is what the server says at that moment.

Errors leave as `PlatformError` or as `OSError` with an errno; the mount turns both into the errno
of the call.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass

from dataplatform.api import platform_pb2 as pb


@dataclass(slots=True)
class ViewAttributes:
    """What stat(2) shows. `mode` has the file type; times are nanoseconds since 1970."""

    mode: int
    size: int = 0
    links: int = 1
    uid: int = 0
    gid: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


class ViewHandle:
    """An open view file. Reads and writes reach it as programs make them: nothing is cached."""

    nonseekable = False

    async def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes at `offset`; empty at the end."""
        raise OSError(errno.EBADF, "not open for reading")

    async def write(self, offset: int, data: bytes) -> int:
        """How many bytes were taken. An error may also be kept for `flush`."""
        raise OSError(errno.EBADF, "not open for writing")

    async def flush(self) -> None:
        """close(2) or fsync(2): what was written takes effect now, or an error says why not."""

    async def release(self) -> None:
        """The last close. Errors go nowhere."""


class ViewNode:
    """A file or directory made up from a table or stream. Subclasses override what they have."""

    is_directory = False

    async def attributes(self) -> ViewAttributes:
        raise NotImplementedError

    async def set_attributes(self, *, size: int | None = None) -> None:
        """truncate(2), also as part of open(2) with O_TRUNC. Times and modes are not set here: the
        mount ignores utimens, and refuses chmod and chown, on views."""
        if size is not None:
            raise OSError(errno.EPERM, "cannot be truncated")

    # ---- directories

    async def lookup(self, name: str) -> ViewNode:
        """ENOENT if there is no such name."""
        raise OSError(errno.ENOTDIR, "not a directory")

    def entries(self, after: str = "") -> AsyncIterator[tuple[str, ViewNode]]:
        """Names in a fixed order, from the first one behind `after` on."""
        raise OSError(errno.ENOTDIR, "not a directory")

    async def create(self, name: str) -> ViewNode:
        """open(2) with O_CREAT of a name that `lookup` did not find."""
        raise OSError(errno.EPERM, "no files can be created here")

    async def unlink(self, name: str) -> None:
        raise OSError(errno.EPERM, "cannot be removed")

    async def mkdir(self, name: str) -> ViewNode:
        raise OSError(errno.EPERM, "no directories can be created here")

    async def rmdir(self, name: str) -> None:
        raise OSError(errno.EPERM, "cannot be removed")

    async def rename(self, name: str, directory: ViewNode, new_name: str) -> None:
        """From here to a directory of the same table or stream."""
        raise OSError(errno.EXDEV, "cannot be moved")

    # ---- files

    async def open(self, *, reading: bool, writing: bool, truncate: bool) -> ViewHandle:
        raise OSError(errno.EISDIR, "is a directory")

    # ---- extended attributes

    async def xattrs(self) -> dict[str, bytes]:
        """All of them: `user.dp.kind` and what else there is to say."""
        return {}


def view_attributes(node: pb.Node, *, directory: bool, size: int = 0) -> ViewAttributes:
    """Of a view that shares owner, permissions and times with the table or stream it belongs to."""
    mode = node.mode & 0o777
    if directory:
        mode |= stat.S_IFDIR | (mode & 0o444) >> 2  # who may read may enter
    else:
        mode |= stat.S_IFREG
    return ViewAttributes(
        mode=mode,
        size=size,
        links=2 if directory else 1,
        uid=node.uid,
        gid=node.gid,
        atime_ns=node.atime_ns,
        mtime_ns=node.mtime_ns,
        ctime_ns=node.ctime_ns,
    )
