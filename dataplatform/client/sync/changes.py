"""The ordered feed of what happened below a path. Synchronous."""

from __future__ import annotations

from collections.abc import Iterator

from ..paths import Path
from ..runtime import iterate
from ..values import Change
from .base import Operations


class ChangeOperations(Operations):
    def changes(self, path: Path = "/", since: int = 0, follow: bool = False) -> Iterator[Change]:
        """What happened at and below `path` after commit `since` (0: from the oldest kept).

        In the order of commits, each event once. With `follow` it waits for more for ever. To go on
        later, pass the last `.commit` seen as `since`. Raises Stale when `since` is older than what
        is kept.

            for change in dp.changes("/projects/cars", since=0):
                print(change.time, change.event, change.path)
        """
        return iterate(self._aio.changes(path, since, follow))
