"""The ordered feed of what happened below a path. Synchronous."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..paths import Path
from ..runtime import iterate
from ..values import Change
from .base import Operations


class ChangeOperations(Operations):
    def changes(
        self,
        path: Path = "/",
        since: int = 0,
        follow: bool = False,
        kinds: Iterable[str] | None = None,
        events: Iterable[str] | None = None,
    ) -> Iterator[Change]:
        """What happened at and below `path` after commit `since` (0: from the oldest kept).

        In the order of commits, each event once, of `kinds` (`["file", "table"]`) and `events`
        (`["created", "row put"]`) if these are given. It ends with what was durable when it began;
        with `follow` it waits for more for ever, wherever `path` is renamed to, and raises NotFound
        when that is removed. To go on later, pass the last `.commit` seen as `since`. Raises Stale
        when `since` is older than what is kept: the fact `oldest` is the oldest commit that is.

            for change in dp.changes("/projects/cars", since=0, kinds=["file"]):
                print(change.time, change.event, change.path)
        """
        return iterate(self._aio.changes(path, since, follow, kinds, events))
