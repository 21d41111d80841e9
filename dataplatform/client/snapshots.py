"""Snapshots: what a volume was at one commit."""

from __future__ import annotations

from datetime import timedelta

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from .base import Operations
from .messages import build
from .paths import Path, target
from .values import SnapshotInfo, SnapshotSchedule, VolumeInfo
from .volumes import volume_of

CREATE = METHODS["Snapshots.Create"]
LIST = METHODS["Snapshots.List"]
INFO = METHODS["Snapshots.Info"]
REMOVE = METHODS["Snapshots.Remove"]
CLONE = METHODS["Snapshots.Clone"]
RESTORE = METHODS["Snapshots.Restore"]
PROMOTE = METHODS["Snapshots.Promote"]
SET_SCHEDULE = METHODS["Snapshots.SetSchedule"]
REMOVE_SCHEDULE = METHODS["Snapshots.RemoveSchedule"]
SCHEDULES = METHODS["Snapshots.Schedules"]


def snapshot_of(snapshot: pb.Snapshot) -> SnapshotInfo:
    return SnapshotInfo(
        name=snapshot.name,
        path=snapshot.path,
        volume=snapshot.volume,
        commit=snapshot.commit,
        time_ns=snapshot.time_ns,
        used_bytes=snapshot.used_bytes,
        entries=snapshot.entries,
        schedule=snapshot.schedule or None,
        by=snapshot.by,
        clones=tuple(snapshot.clones),
        frees_bytes=snapshot.frees_bytes if snapshot.HasField("frees_bytes") else None,
    )


def schedule_of(schedule: pb.SnapshotSchedule) -> SnapshotSchedule:
    return SnapshotSchedule(
        name=schedule.name,
        every=timedelta(seconds=schedule.every_s),
        keep=schedule.keep,
        since_ns=schedule.since_ns,
    )


class SnapshotOperations(Operations):
    async def create_snapshot(self, path: Path, name: str) -> SnapshotInfo:
        request = build(pb.SnapshotRequest, target=target(path), name=name)
        return snapshot_of((await self._channel.call(CREATE, request))[0])

    async def snapshots(self, path: Path, *, sizes: bool = False) -> list[SnapshotInfo]:
        request = build(pb.SnapshotsRequest, target=target(path), sizes=sizes)
        reply, _ = await self._channel.call(LIST, request)
        return [snapshot_of(snapshot) for snapshot in reply.snapshots]

    async def snapshot_info(self, path: Path, name: str | None = None) -> SnapshotInfo:
        request = build(pb.SnapshotRequest, target=target(path), name=name)
        return snapshot_of((await self._channel.call(INFO, request))[0])

    async def remove_snapshot(self, path: Path, name: str) -> None:
        request = build(pb.SnapshotRequest, target=target(path), name=name)
        await self._channel.call(REMOVE, request)

    async def clone_snapshot(self, path: Path, name: str, new: Path) -> VolumeInfo:
        request = build(pb.CloneRequest, target=target(path), name=name, new=target(new))
        return volume_of((await self._channel.call(CLONE, request))[0])

    async def restore_snapshot(self, path: Path, name: str) -> str:
        request = build(pb.SnapshotRequest, target=target(path), name=name)
        return str((await self._channel.call(RESTORE, request))[0].path)

    async def promote_clone(self, path: Path) -> str:
        request = build(pb.PromoteRequest, target=target(path))
        return str((await self._channel.call(PROMOTE, request))[0].path)

    async def set_snapshot_schedule(
        self, path: Path, *, every: timedelta, keep: int, name: str | None = None
    ) -> SnapshotSchedule:
        every_s = round(every.total_seconds())
        schedule = build(pb.SnapshotSchedule, name=name, every_s=max(every_s, 0), keep=max(keep, 0))
        request = build(pb.SnapshotScheduleRequest, target=target(path), schedule=schedule)
        return schedule_of((await self._channel.call(SET_SCHEDULE, request))[0])

    async def remove_snapshot_schedule(self, path: Path, name: str) -> None:
        schedule = pb.SnapshotSchedule(name=name)
        request = build(pb.SnapshotScheduleRequest, target=target(path), schedule=schedule)
        await self._channel.call(REMOVE_SCHEDULE, request)

    async def snapshot_schedules(self, path: Path) -> list[SnapshotSchedule]:
        request = build(pb.SnapshotsRequest, target=target(path))
        reply, _ = await self._channel.call(SCHEDULES, request)
        return [schedule_of(schedule) for schedule in reply.schedules]
