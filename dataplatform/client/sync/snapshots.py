"""Snapshots: what a volume was at one commit. Synchronous."""

from __future__ import annotations

from datetime import timedelta

from ..paths import Path
from ..runtime import run
from ..values import SnapshotInfo, SnapshotSchedule, VolumeInfo
from .base import Operations


class SnapshotOperations(Operations):
    """Everything in a snapshot is read by its path: `/projects/.snapshot/NAME/…`, the same in
    every directory below, or `PATH@NAME`."""

    def create_snapshot(self, path: Path, name: str) -> SnapshotInfo:
        """Take a snapshot of the volume that holds `path`: files, rows, streams and consumer
        offsets at one commit, with everything that was acknowledged before. Writers go on.

        Needs `admin` of the volume. Raises Exists, Invalid, Denied.
        """
        return run(self._aio.create_snapshot(path, name))

    def snapshots(self, path: Path, *, sizes: bool = False) -> list[SnapshotInfo]:
        """The snapshots of the volume that holds `path`, the oldest first. `sizes`: with what
        removing each of them alone would give back."""
        return run(self._aio.snapshots(path, sizes=sizes))

    def snapshot_info(self, path: Path, name: str | None = None) -> SnapshotInfo:
        """One snapshot, with what removing it alone would give back; without a name the one that
        `path` is in. Raises NotFound."""
        return run(self._aio.snapshot_info(path, name))

    def remove_snapshot(self, path: Path, name: str) -> None:
        """Remove a snapshot for good. Raises NotFound; Invalid while a clone needs it; Denied."""
        run(self._aio.remove_snapshot(path, name))

    def clone_snapshot(self, path: Path, name: str, new: Path) -> VolumeInfo:
        """Make a volume at `new`, which can be written, of a snapshot of the volume that holds
        `path`. It takes no longer for a large one: what is in it is shared.

        Needs `admin` of the volume, and the right to make volumes at `new`. Raises NotFound,
        Exists, Invalid, Denied.
        """
        return run(self._aio.clone_snapshot(path, name, new))

    def restore_snapshot(self, path: Path, name: str) -> str:
        """Put what a snapshot has at `path` in place of what is there now, at once: a file, a
        directory with all below it, a table, a stream; or a whole volume, if `path` is its root.
        The path.

        A whole volume is not to be used meanwhile: what is open in it is not any more, and readers
        of its changes get Stale. Needs `admin` of the volume. Raises NotFound, Invalid, Denied.
        """
        return run(self._aio.restore_snapshot(path, name))

    def promote_clone(self, path: Path) -> str:
        """Put what a clone has at `path` into the volume that the clone was made of, at the same
        place there, at once; its path there.

        Needs `admin` of both. Raises Conflict, with the path, if something there has changed since
        the snapshot; Invalid, NotFound, Denied.
        """
        return run(self._aio.promote_clone(path))

    def set_snapshot_schedule(
        self, path: Path, *, every: timedelta, keep: int, name: str | None = None
    ) -> SnapshotSchedule:
        """Take a snapshot of the volume in every period of this length, and keep the last `keep`
        of them. `name` is what their names begin with ("hourly", "daily", "every-15m", …).
        A schedule of the same name is changed. Raises Invalid, Denied."""
        return run(self._aio.set_snapshot_schedule(path, every=every, keep=keep, name=name))

    def remove_snapshot_schedule(self, path: Path, name: str) -> None:
        """Take no more of them; those that there are stay. Raises NotFound, Denied."""
        run(self._aio.remove_snapshot_schedule(path, name))

    def snapshot_schedules(self, path: Path) -> list[SnapshotSchedule]:
        """The schedules of the volume that holds `path`."""
        return run(self._aio.snapshot_schedules(path))
