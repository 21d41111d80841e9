"""Gathering: topics of other clusters into one here. Synchronous."""

from __future__ import annotations

from collections.abc import Iterable

from ..paths import Path
from ..runtime import run
from ..values import GatherInfo
from .base import Operations


class GatherOperations(Operations):
    """For administrators; Denied for others."""

    def gather(self, path: Path, topic: str, sources: Iterable[str]) -> GatherInfo:
        """Have all records of the sources, `/cluster/path:topic`, flow into a topic of the stream
        at `path`, from their oldest on: each exactly once, and those of one source's partition in
        their order. The header `dp-origin` says where one is from. Called again, it adds sources.

        Raises Exists (a source is gathered there already), NotFound (a cluster, the stream).
        """
        return run(self._aio.gather(path, topic, sources))

    def gathers(self) -> list[GatherInfo]:
        """Every topic that is gathered into, and of each source how far it is, and why not."""
        return run(self._aio.gathers())

    def pause_gather(self, path: Path, topic: str, *, paused: bool = True) -> None:
        """Gather no further for now; or, not `paused`, go on, with what was stopped, too."""
        run(self._aio.pause_gather(path, topic, paused=paused))

    def end_gather(self, path: Path, topic: str, sources: Iterable[str] = ()) -> None:
        """Gather from these sources, or from all, no more. What has come stays."""
        run(self._aio.end_gather(path, topic, sources))
