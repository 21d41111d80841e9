"""Errors of the operating system, as kinds: the one place where this package reads an errno."""

from __future__ import annotations

import errno

from ..base.errors import ErrorKind, PlatformError

_KINDS = {
    errno.ENOENT: ErrorKind.NOT_FOUND,
    errno.EEXIST: ErrorKind.EXISTS,
    errno.EACCES: ErrorKind.DENIED,
    errno.EPERM: ErrorKind.DENIED,
    errno.EROFS: ErrorKind.DENIED,
    errno.ENOSPC: ErrorKind.EXHAUSTED,
    errno.EDQUOT: ErrorKind.EXHAUSTED,
    errno.EMFILE: ErrorKind.EXHAUSTED,
    errno.ENFILE: ErrorKind.EXHAUSTED,
    errno.EIO: ErrorKind.CORRUPT,
    errno.ENOTDIR: ErrorKind.INVALID,
    errno.EISDIR: ErrorKind.INVALID,
}


def from_os_error(error: OSError, message: str, **facts: object) -> PlatformError:
    """What a foreign `error` means here; UNAVAILABLE when nothing better is known."""
    if isinstance(error, PlatformError):
        return error
    kind = _KINDS.get(error.errno or 0, ErrorKind.UNAVAILABLE)
    return PlatformError(kind, message, **facts, cause=error)
