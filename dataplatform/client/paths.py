"""Paths as callers give them, and as the wire carries them: text in UTF-8, names split by `/`.

What a path may be is decided by the server alone; here only what could not even be sent is refused.
"""

from __future__ import annotations

import os

from ..api import platform_pb2 as pb
from ..base.errors import Invalid

Path = str | os.PathLike[str]


def text(path: Path) -> str:
    """The path as the wire carries it. Invalid when it is not text in UTF-8."""
    try:
        name = os.fspath(path)
    except TypeError:
        raise Invalid("a path is text", path=path, type=type(path).__name__) from None
    if isinstance(name, bytes):
        raise Invalid("a path is text, not bytes", path=name)
    if not name.isascii():
        checked(name, "path")
    return name


def checked(name: str, what: str) -> str:
    """`name`, unless it is no text or cannot be written in UTF-8 (it holds lone surrogates)."""
    if not isinstance(name, str):
        raise Invalid(f"the {what} is not text", **{what: name, "type": type(name).__name__})
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Invalid(f"the {what} is not UTF-8", **{what: name}) from None
    return name


def target(path: Path) -> pb.Target:
    return pb.Target(path=text(path))


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`."""
    return directory + name if directory.endswith("/") else f"{directory}/{name}"


def split(path: str) -> tuple[str, str]:
    """Directory and last name: ("/a", "b") for "/a/b"."""
    directory, _, name = path.rstrip("/").rpartition("/")
    return directory or "/", name
