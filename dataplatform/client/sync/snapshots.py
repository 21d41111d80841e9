"""Snapshots: what a volume was at one commit. Synchronous."""

from __future__ import annotations

from datetime import timedelta

from ..paths import Path
from ..runtime import run
from ..values import SnapshotInfo, SnapshotSchedule
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
