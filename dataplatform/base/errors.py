"""One error type, few kinds.

A kind exists only where a caller would act differently. `KINDS` is total: every kind has a gRPC
status code, an errno and an exit code, and nothing else in the project maps errors by hand.
Messages put facts last: ``row not found. table=`/a/t`, key=`k1```.

Where Python has a class for a kind, the subclass is that too, so `except FileNotFoundError` works.
"""

from __future__ import annotations

import enum
import errno
from typing import Any, NamedTuple


class ErrorKind(enum.Enum):
    """What went wrong, as far as the caller's next step depends on it. Values are on the wire."""

    NOT_FOUND = 1  # there is no such thing
    EXISTS = 2  # there is one already
    INVALID = 3  # the request itself is wrong: repeating it cannot help
    DENIED = 4  # not allowed
    CONFLICT = 5  # a precondition failed: read again and retry
    STALE = 6  # fenced or trimmed: reopen or restart from elsewhere
    UNAVAILABLE = 7  # not now: retry later
    EXHAUSTED = 8  # a quota, a limit or the disk is full
    CORRUPT = 9  # stored bytes are not what was written
    INTERNAL = 10  # a defect of ours


class KindRule(NamedTuple):
    """How one kind looks at each edge."""

    grpc_code: str  # name in grpc.StatusCode
    errno: int
    exit_code: int  # of the `dp` command; see docs/cli.md


KINDS: dict[ErrorKind, KindRule] = {
    ErrorKind.NOT_FOUND: KindRule("NOT_FOUND", errno.ENOENT, 3),
    ErrorKind.EXISTS: KindRule("ALREADY_EXISTS", errno.EEXIST, 4),
    ErrorKind.INVALID: KindRule("INVALID_ARGUMENT", errno.EINVAL, 2),
    ErrorKind.DENIED: KindRule("PERMISSION_DENIED", errno.EACCES, 5),
    ErrorKind.CONFLICT: KindRule("ABORTED", errno.EBUSY, 6),
    ErrorKind.STALE: KindRule("FAILED_PRECONDITION", errno.ESTALE, 7),
    ErrorKind.UNAVAILABLE: KindRule("UNAVAILABLE", errno.EAGAIN, 8),
    ErrorKind.EXHAUSTED: KindRule("RESOURCE_EXHAUSTED", errno.ENOSPC, 9),
    ErrorKind.CORRUPT: KindRule("DATA_LOSS", errno.EIO, 10),
    ErrorKind.INTERNAL: KindRule("INTERNAL", errno.EIO, 1),
}


class PlatformError(Exception):
    """The only error that leaves the platform.

    `kind` says what to do, `facts` say about what. The fact named ``errno`` (an int), where
    present, refines the kind's errno for POSIX callers (ENOTDIR, ENOTEMPTY, EXDEV, …).

    Build one with `PlatformError.of(kind, message, **facts)` or a subclass's constructor;
    constructing `PlatformError(kind, …)` gives the subclass that belongs to the kind.
    """

    kind: ErrorKind = ErrorKind.INTERNAL

    def __new__(cls, *args: Any, **facts: Any) -> PlatformError:
        if cls is PlatformError and args and isinstance(args[0], ErrorKind):
            cls = _CLASSES[args[0]]
        return super().__new__(cls)

    def __init__(self, *args: Any, **facts: Any) -> None:
        if args and isinstance(args[0], ErrorKind):
            self.kind, args = args[0], args[1:]
        self.message: str = str(args[0]) if args else ""
        self.facts: dict[str, Any] = {k: v for k, v in facts.items() if v is not None}
        Exception.__init__(self, self.message)
        # OSError's constructor would reinterpret the arguments; its fields are set instead.
        if isinstance(self, OSError):
            for name, value in (("errno", self.os_errno), ("strerror", self.message)):
                setattr(self, name, value)

    @property
    def os_errno(self) -> int:
        """The errno that a POSIX caller sees."""
        return int(self.facts.get("errno", KINDS[self.kind].errno))

    def __str__(self) -> str:
        facts = ", ".join(f"{k}=`{_text(v)}`" for k, v in self.facts.items() if k != "errno")
        return f"{self.message}. {facts}" if facts else self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.kind, self.message, self.facts))


def _rebuild(kind: ErrorKind, message: str, facts: dict[str, Any]) -> PlatformError:
    return PlatformError(kind, message, **facts)


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value).decode("utf-8", "backslashreplace")
    text = str(value)
    text = text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text
    return text if len(text) <= 200 else text[:200] + "…"


class NotFound(PlatformError, FileNotFoundError):
    kind = ErrorKind.NOT_FOUND


class Exists(PlatformError, FileExistsError):
    kind = ErrorKind.EXISTS


class Invalid(PlatformError, ValueError):
    kind = ErrorKind.INVALID


class Denied(PlatformError, PermissionError):
    kind = ErrorKind.DENIED


class Conflict(PlatformError):
    kind = ErrorKind.CONFLICT


class Stale(PlatformError):
    kind = ErrorKind.STALE


class Unavailable(PlatformError, ConnectionError):
    kind = ErrorKind.UNAVAILABLE


class Exhausted(PlatformError, OSError):
    kind = ErrorKind.EXHAUSTED


class Corrupt(PlatformError, OSError):
    kind = ErrorKind.CORRUPT


class Internal(PlatformError, RuntimeError):
    kind = ErrorKind.INTERNAL


_CLASSES: dict[ErrorKind, type[PlatformError]] = {
    c.kind: c
    for c in (
        NotFound,
        Exists,
        Invalid,
        Denied,
        Conflict,
        Stale,
        Unavailable,
        Exhausted,
        Corrupt,
        Internal,
    )
}
