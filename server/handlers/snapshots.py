"""Snapshots.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.core import snapshot_schedules
from dataplatform.core.snapshot_names import SNAPSHOT_NAME
from dataplatform.core.snapshot_schedules import Schedule
from dataplatform.core.snapshots import Snapshot
from dataplatform.core.volumes import Volume

from ..dispatch import Call, rpc
from .namespace import done


async def snapshot_message(
    call: Call, snapshot: Snapshot, frees_bytes: int | None = None
) -> pb.Snapshot:
    catalog, record = call.platform.catalog, snapshot.record
    above = await catalog.path_for_people(snapshot.volume)
    return pb.Snapshot(
        path=f"{above.rstrip('/')}/{SNAPSHOT_NAME}/{snapshot.name}",
        name=snapshot.name,
        volume=snapshot.number,
        source=snapshot.volume,
        commit=record.commit,
        time_ns=record.time_ns,
        used_bytes=record.used_bytes,
        entries=record.entries,
        schedule=record.schedule,
        by=record.by,
        clones=[await catalog.path_for_people(clone) for clone in record.users],
        frees_bytes=frees_bytes,
    )


async def _volume(call: Call, target: pb.Target) -> tuple[Volume, Snapshot | None]:
    """The volume that a target is in, and the snapshot if it is in one."""
    volume = (await call.node(target)).volume
    if volume.source is None:
        return volume, None
    return volume.source, call.platform.snapshots.find(volume.id)


async def _created(call: Call, message: Any, volume: Volume, stored: int) -> pb.Snapshot:
    """The new snapshot; its number and name if it has gone meanwhile."""
    found = call.platform.snapshots.find(stored)
    if found is None:
        return pb.Snapshot(volume=stored, name=message.name)
    return await snapshot_message(call, found)


@rpc("Snapshots.Create", answer=_created)
async def create(call: Call, message: pb.SnapshotRequest, data: Any) -> pb.Snapshot:
    volume = (await call.node(message.target)).volume
    taken = await call.platform.snapshots.create(call.request(message), volume, message.name)
    return await snapshot_message(call, taken)


@rpc("Snapshots.List")
async def list_(call: Call, message: pb.SnapshotsRequest, data: Any) -> pb.SnapshotsReply:
    volume, _ = await _volume(call, message.target)
    snapshots, reply = call.platform.snapshots, pb.SnapshotsReply()
    for snapshot in snapshots.of(volume.id):
        frees = await snapshots.freed_bytes(volume, snapshot) if message.sizes else None
        reply.snapshots.append(await snapshot_message(call, snapshot, frees))
    return reply


@rpc("Snapshots.Info")
async def info(call: Call, message: pb.SnapshotRequest, data: Any) -> pb.Snapshot:
    volume, found = await _volume(call, message.target)
    snapshots = call.platform.snapshots
    if message.name or found is None:
        found = snapshots.get(volume.id, message.name)
    return await snapshot_message(call, found, await snapshots.freed_bytes(volume, found))


@rpc("Snapshots.Remove", answer=done)
async def remove(call: Call, message: pb.SnapshotRequest, data: Any) -> pb.Empty:
    volume = (await call.node(message.target)).volume
    await call.platform.snapshots.remove(call.request(message), volume, message.name)
    return pb.Empty()


def schedule_message(schedule: Schedule) -> pb.SnapshotSchedule:
    return pb.SnapshotSchedule(**schedule._asdict())


def _scheduled(call: Call, message: Any, volume: Volume, stored: list[Any]) -> pb.SnapshotSchedule:
    return schedule_message(Schedule(*stored))


@rpc("Snapshots.SetSchedule", answer=_scheduled)
async def set_schedule(
    call: Call, message: pb.SnapshotScheduleRequest, data: Any
) -> pb.SnapshotSchedule:
    volume = (await call.node(message.target)).volume
    wanted = message.schedule
    stored = await snapshot_schedules.set_schedule(
        call.request(message), volume, wanted.every_s, wanted.keep, wanted.name
    )
    return schedule_message(stored)


@rpc("Snapshots.RemoveSchedule", answer=done)
async def remove_schedule(call: Call, message: pb.SnapshotScheduleRequest, data: Any) -> pb.Empty:
    volume = (await call.node(message.target)).volume
    await snapshot_schedules.remove_schedule(call.request(message), volume, message.schedule.name)
    return pb.Empty()


@rpc("Snapshots.Schedules")
async def schedules(
    call: Call, message: pb.SnapshotsRequest, data: Any
) -> pb.SnapshotSchedulesReply:
    volume, _ = await _volume(call, message.target)
    found = snapshot_schedules.schedules_of(volume.settings.snapshots)
    return pb.SnapshotSchedulesReply(schedules=map(schedule_message, found))
