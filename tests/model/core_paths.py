"""Where a path leads in the model: POSIX.1-2017 §4.13, across volumes and symbolic links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .core_state import INVALID, NOT_FOUND, ROOT, Refused, State

LINKS_MAX = 40


class Found(NamedTuple):
    """The place of the last name; `directory` is 0 if that is the root of a volume."""

    volume: int
    state: State
    directory: int
    name: str
    number: int | None  # None: there is nothing of that name
    missing: bool = False  # nor a directory that it could be in

    def check_name(self) -> None:
        if not self.directory:
            raise Refused(INVALID)


def resolve(
    states: Mapping[int, State],
    first: int,
    path: str,
    *,
    follow: bool,
    start: int | None = None,
) -> Found:
    """`first` is the platform's root volume. With `start`, the walk begins in the root of that
    volume, and must not leave it."""
    volume, at, directory, name = start or first, ROOT, 0, ""
    todo = _names(path)
    links = 0
    while todo:
        name = todo.pop()
        nodes = states[volume].nodes
        if nodes[at].kind != "directory":
            raise Refused(NOT_FOUND)
        directory, number = at, nodes[at].entries.get(name)
        if number is None:
            return Found(volume, states[volume], directory, name, None, bool(todo))
        node = nodes[number]
        goes_on = bool(todo) or follow
        if node.volume and goes_on:
            if start is not None:
                raise Refused(INVALID)
            volume, at, directory, name = node.volume, ROOT, 0, ""
        elif node.kind == "symlink" and goes_on:
            links += 1
            if links > LINKS_MAX:
                raise Refused(INVALID)
            todo += _names(node.target)
            if node.target.startswith("/"):
                if start is not None and start != first:
                    raise Refused(INVALID)
                volume, at, directory, name = first, ROOT, 0, ""
        else:
            at = number
    return Found(volume, states[volume], directory, name, at)


def _names(path: str) -> list[str]:
    return [name for name in reversed(path.split("/")) if name]
