"""Refusing while there is still room: what a full disk breaks, a nearly full one need not.

A write that fails for lack of space breaks its engine, because nobody knows what the disk kept. So
nothing is begun when the file system's free space is below a reserve: that is EXHAUSTED, nothing
has happened, and the same call succeeds once there is room again.

Deleting must go on, or nobody could make room, and in a log-structured store it first takes some:
a small commit that deletes something may use most of the reserve. (It always puts something, too:
the volume's counters, the change feed.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ..base.errors import Exhausted
from ..base.limits import KIB
from .base import Batch, Room

DELETING_BYTES_MAX = 64 * KIB
"""A commit that deletes something and is no larger than this may use the reserve."""

DELETING_SHARE = 4
"""It may do so until a fourth of the reserve is left."""

LOOK_SECONDS = 0.1
"""For how long a look at the file system is good. Our own writes are counted meanwhile."""


class Space:
    """The free space of one file system, for all who write to it from one process."""

    def __init__(
        self,
        directory: Path | None,
        reserve_bytes: int,
        *,
        share: int = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """The reserve is `reserve_bytes`, but no more than one part in `share` of the file system.

        `directory` is None where there is no file system to look at: then there is always room.
        """
        self._directory = directory
        self._reserve_bytes_max = reserve_bytes
        self._share = share
        self._now = now
        self._looked_at = float("-inf")
        self._free_bytes = 0.0
        self._reserve_bytes = 0
        self._total_bytes = 0  # 0: not known

    def room(self) -> Room | None:
        """What the file system holds and what may still be written; None if it does not say."""
        self._look()
        if not self._total_bytes:
            return None
        return Room(self._total_bytes, max(0, int(self._free_bytes) - self._reserve_bytes))

    @property
    def full(self) -> bool:
        """Whether the free space is below the reserve."""
        self._look()
        return self._free_bytes < self._reserve_bytes

    def check(self, size_bytes: int) -> None:
        """EXHAUSTED if `size_bytes` more would go into the reserve."""
        self._take(size_bytes, 1)

    def check_commit(self, batch: Batch) -> int:
        """The same for a batch; a small one that deletes something may go into the reserve.
        Its bytes."""
        size_bytes = sum(map(len, batch))
        try:
            size_bytes += sum(map(len, batch.values()))  # type: ignore[arg-type]
            share = 1
        except TypeError:  # a None among them: it deletes something
            size_bytes += sum(map(len, filter(None, batch.values())))
            share = DELETING_SHARE if size_bytes <= DELETING_BYTES_MAX else 1
        self._take(size_bytes, share)
        return size_bytes

    def _take(self, size_bytes: int, share: int) -> None:
        if (
            self._free_bytes - size_bytes < self._reserve_bytes
            or self._now() - self._looked_at >= LOOK_SECONDS
        ):
            self._look()
        if self._free_bytes - size_bytes < self._reserve_bytes // share:
            raise Exhausted(
                "the disk is full: free space on it",
                directory=self._directory,
                free_bytes=int(self._free_bytes),
            )
        self._free_bytes -= size_bytes

    def _look(self) -> None:
        self._looked_at = self._now()
        self._free_bytes, self._reserve_bytes, self._total_bytes = float("inf"), 0, 0
        if self._directory is None:
            return
        try:
            found = os.statvfs(self._directory)
        except OSError:
            return  # the write itself will tell what is wrong
        if found.f_blocks:  # else this file system does not say
            self._free_bytes = found.f_bavail * found.f_frsize
            self._total_bytes = found.f_blocks * found.f_frsize
            self._reserve_bytes = min(self._reserve_bytes_max, self._total_bytes // self._share)
