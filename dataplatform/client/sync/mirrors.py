"""Mirrors: volumes that follow one of another cluster. Synchronous."""

from __future__ import annotations

from datetime import timedelta

from ..paths import Path
from ..runtime import run
from ..values import MirrorInfo
from .base import Operations


class MirrorOperations(Operations):
    """Made and changed by administrators; Denied for others."""

    def create_mirror(
        self,
        path: Path,
        source: str,
        *,
        every: timedelta | None = None,
        bandwidth: int | None = None,
        token: str | None = None,
        ca: str | None = None,
        insecure: bool = False,
        quota_bytes: int | None = None,
        quota_entries: int | None = None,
        encrypt: bool = False,
        discard: bool = False,
    ) -> MirrorInfo:
        """A mirror, at a new path, of the volume `source`: `/CLUSTER/PATH` of a known cluster, or
        an address with a path, `grpc://host:port/path`, and then with a `token` of an administrator
        there, and `ca`, the PEM text of whom its certificate must be signed by.

        It is copied once, then follows: continuously, or every so often. `bandwidth`: bytes per
        second that it may ask for. It is only read until `promote_mirror`. Its quota, limits and
        encryption are its own.

        At the path of a volume that has a past in common with the source, that volume becomes the
        mirror: only what differs is shipped. If it has commits that the source has not, that is a
        Conflict, which says how many; `discard` gives them up.

        Nothing is made if the source cannot be reached (Unavailable), holds more than the quota
        allows (Exhausted), or is not what it is called (Invalid). `insecure`: the token may cross a
        network without TLS. Raises Exists, NotFound, Denied.
        """
        made = self._aio.create_mirror(
            path,
            source,
            every=every,
            bandwidth=bandwidth,
            token=token,
            ca=ca,
            insecure=insecure,
            quota_bytes=quota_bytes,
            quota_entries=quota_entries,
            encrypt=encrypt,
            discard=discard,
        )
        return run(made)

    def mirrors(self) -> list[MirrorInfo]:
        """Every mirror of this cluster that one may see, and how far it is."""
        return run(self._aio.mirrors())

    def mirror_info(self, path: Path) -> MirrorInfo:
        """The mirror that holds `path`. Raises Invalid if it is none."""
        return run(self._aio.mirror_info(path))

    def set_mirror(
        self, path: Path, *, every: timedelta | None = None, bandwidth: int | None = None
    ) -> MirrorInfo:
        """Change how it follows; None leaves one as it is. `every` of 0: continuously; `bandwidth`
        of 0: without a limit."""
        return run(self._aio.set_mirror(path, every=every, bandwidth=bandwidth))

    def pause_mirror(self, path: Path) -> MirrorInfo:
        """Let it stay what it is, until `resume_mirror`."""
        return run(self._aio.pause_mirror(path))

    def resume_mirror(self, path: Path, *, discard: bool = False) -> MirrorInfo:
        """Let it follow again. `discard`: also if its source was put back to an earlier commit;
        what the mirror has of later ones is given up."""
        return run(self._aio.resume_mirror(path, discard=discard))

    def promote_mirror(self, path: Path) -> int:
        """Let it be written from now on; it follows nothing any more. Needs no source. The last
        commit that it has from there. Raises Unavailable before it is copied once."""
        return run(self._aio.promote_mirror(path))

    def remove_mirror(self, path: Path) -> None:
        """Remove a mirror with all that it holds. Nothing changes at its source."""
        run(self._aio.remove_mirror(path))
