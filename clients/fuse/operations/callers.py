"""Who asks, and how an error reaches it."""

from __future__ import annotations

import errno
from typing import NamedTuple, Protocol

from dataplatform.base.errors import ErrorKind, PlatformError

_FAILED = (ErrorKind.UNAVAILABLE, ErrorKind.CONFLICT)
"""When these reach a program, patience is over: a local disk would have failed."""


class Caller(NamedTuple):
    uid: int
    gid: int
    pid: int
    key: int = 0  # of the request: the same when it is asked again after this process ended


class Asker(Protocol):
    """A request, which can say who made it."""

    @property
    def caller(self) -> Caller: ...


def errno_of(error: PlatformError | OSError) -> int:
    """The errno that the program sees: the one table's, or the call's own. Never 0."""
    if isinstance(error, PlatformError):
        if error.kind in _FAILED and "errno" not in error.facts:
            return errno.EIO  # EAGAIN would have programs try again at once, for ever
        return error.os_errno
    return error.errno or errno.EIO


def name_text(name: bytes) -> str:
    """A new name as the platform keeps it: UTF-8, at most 255 bytes. ENAMETOOLONG, EILSEQ."""
    if len(name) > 255:
        raise OSError(errno.ENAMETOOLONG, "names have at most 255 bytes")
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, "names are UTF-8") from error
