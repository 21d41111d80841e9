"""The ordered feed of what happened below a path. Synchronous."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..paths import Path
from ..runtime import iterate, run
from ..values import Change, Publication
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

    def publish_changes(
        self,
        path: Path,
        stream: Path,
        topic: str,
        *,
        kinds: Iterable[str] | None = None,
        events: Iterable[str] | None = None,
        since: int | None = None,
        restart: bool = False,
    ) -> Publication:
        """Copy what happens at and below `path` to a topic, exactly once, from now on or from after
        commit `since` (0: from the oldest kept), until `unpublish_changes`.

        Records are JSON objects as of `dp changes --json`; the key is the path. The topic is made
        if it is not there. It goes on with your rights, as they are then: what you may not see is
        left out, and when you may not append any more, it stops. `restart`: one that stopped goes
        on. Raises Exists if that is published there already, Stale when `since` is older than what
        is kept.

            dp.publish_changes("/projects", "/projects/log", "changes", kinds=["file"])
        """
        return run(
            self._aio.publish_changes(
                path, stream, topic, kinds=kinds, events=events, since=since, restart=restart
            )
        )

    def unpublish_changes(self, stream: Path, topic: str, *, path: Path | None = None) -> None:
        """End what is published to a topic: of `path`, if several are. What was written stays.
        Raises NotFound if nothing is."""
        run(self._aio.unpublish_changes(stream, topic, path=path))

    def publications(self, path: Path | None = None) -> list[Publication]:
        """Those of yours, and those to streams that are yours to administer; with `path` those of
        what is at or below it, or to streams there."""
        return run(self._aio.publications(path))
