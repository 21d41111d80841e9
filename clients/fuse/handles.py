"""Open files and directories: what the kernel's handle numbers mean.

A handle may be unknown: it was given out by a process before this one. Then it is made again from
the node, since everything that has to be known of it comes with each request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .reading import Reading

if TYPE_CHECKING:
    from .listings import Listing
    from .nodes import Node
    from .operations.callers import Caller
    from .views.base import ViewHandle


class Handle:
    """An open file: how it is read, and which failed write it was told of last."""

    __slots__ = ("caller", "node", "number", "reading", "seen_failures", "view")

    def __init__(self, number: int, node: Node, reading: Reading | None) -> None:
        self.number = number
        self.node = node
        self.reading = reading
        self.view: ViewHandle | None = None
        self.caller: Caller | None = None  # who opened it; unknown of one before this process
        self.seen_failures = node.writing.failures if node.writing is not None else 0

    def raise_failure(self) -> None:
        """What a write met since the last flush or sync of this handle, once."""
        writing = self.node.writing
        if writing is not None and writing.failures > self.seen_failures:
            self.seen_failures = writing.failures
            assert writing.failure is not None
            raise writing.failure


class Handles:
    """By number, from 1 on, never used twice."""

    def __init__(self) -> None:
        self._last = 0
        self.files: dict[int, Handle] = {}
        self.directories: dict[int, Listing] = {}
        self.any_lost = False  # any file may have lost writes with a process before this one

    def next(self) -> int:
        self._last += 1
        return self._last

    def start_behind(self, number: int) -> None:
        """A process before this one gave out numbers up to this."""
        self._last = max(self._last, number)
