"""What rocksdict raises, as errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rocksdict import DbClosedError

from ...base.errors import Corrupt, ErrorKind, PlatformError, Unavailable

DAMAGE = (
    "Corruption",
    "does not exist (create_if_missing",
    "No such file or directory",
    "Input/output error",
)
"""What RocksDB says of files that are damaged, lost, or not readable any more."""


def error_of(error: Exception, path: Path) -> PlatformError:
    """What rocksdict raised: a plain Exception with RocksDB's status as text."""
    if isinstance(error, PlatformError):
        return error
    text = str(error)
    if isinstance(error, DbClosedError):
        return Unavailable("database is closed", path=path)
    if "No space left on device" in text or "quota exceeded" in text:
        return PlatformError(ErrorKind.EXHAUSTED, "disk is full", path=path, cause=text)
    if any(sign in text for sign in DAMAGE):
        return Corrupt("database is damaged", path=path, cause=text)
    return Unavailable("database failed", path=path, cause=text)


def write_error_of(error: Exception, path: Path) -> PlatformError:
    """The same of a write or a sync: that the disk fails does not make what it holds damaged."""
    mapped = error_of(error, path)
    if mapped.kind is ErrorKind.CORRUPT:
        return Unavailable("database failed", path=path, cause=str(error))
    return mapped


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        mapped = error_of(error, path)
        raise mapped from (None if mapped is error else error)
