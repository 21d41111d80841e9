"""Snapshots.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.core import clones, restore, restore_paths, snapshot_schedules
from dataplatform.core.catalog import Description
from dataplatform.core.snapshot_names import SNAPSHOT_NAME
from dataplatform.core.snapshot_schedules import Schedule
from dataplatform.core.snapshots import Snapshot
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE

from ..dispatch import Call, rpc
from ..packing import volume_message
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


async def _cloned(call: Call, message: Any, volume: Volume, stored: int) -> pb.VolumeInfo:
    """The new volume as it is now; its number if it has gone meanwhile."""
    try:
        return volume_message(await call.platform.catalog.describe(stored))
    except NotFound:
        return pb.VolumeInfo(volume=stored, state="removed")


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
    if not message.name and found is None:
        raise Invalid("which snapshot? Name it, or give a path in it: PATH/.snapshot/NAME")
    if message.name or found is None:
        found = snapshots.get(volume.id, message.name)
    return await snapshot_message(call, found, await snapshots.freed_bytes(volume, found))


@rpc("Snapshots.Remove", answer=done)
async def remove(call: Call, message: pb.SnapshotRequest, data: Any) -> pb.Empty:
    volume = (await call.node(message.target)).volume
    await call.platform.snapshots.remove(call.request(message), volume, message.name)
    return pb.Empty()


@rpc("Snapshots.Clone", answer=_cloned)
async def clone(call: Call, message: pb.CloneRequest, data: Any) -> pb.VolumeInfo:
    node = await call.node(message.target)
    at = await call.new_name(message.new, parents=True, look=True)
    request = call.request(message)
    record = call.platform.snapshots.get(node.volume.id, message.name).record
    stored = await clones.clone(call.platform, request, node.volume, message.name, at)
    path = await call.platform.catalog.mount_path(stored)
    settings = clones.settings_of(node.volume)
    made = Description(
        *(stored, path, record.commit + 1, record.used_bytes, record.entries, settings, False),
        state="ready",
    )
    return volume_message(made)  # as it was made: looking at it would open it, which can wait


async def _restored_volume(call: Call, message: pb.SnapshotRequest) -> Volume | None:
    """The volume whose root the target is, if it is one."""
    try:
        node = await call.node(message.target, follow=False)
    except NotFound:
        return None  # it is to be there again
    if node.inode.volume:
        node = await call.node(pb.Target(volume=node.inode.volume, inode=ROOT_INODE))
    return node.volume if node.inode.number == ROOT_INODE else None


async def _restored(
    call: Call, message: Any, volume: Volume, stored: int | list[int]
) -> pb.Restored:
    """A list: a whole volume was."""
    if isinstance(stored, list):
        path = await call.platform.catalog.path_for_people(stored[0])
        return pb.Restored(path=path, volume=stored[0], inode=ROOT_INODE)
    path = await call.platform.path_of(volume, stored)
    return pb.Restored(path=path, volume=volume.id, inode=stored)


@rpc("Snapshots.Restore", answer=_restored)
async def restore_(call: Call, message: pb.SnapshotRequest, data: Any) -> pb.Restored:
    whole = await _restored_volume(call, message)
    request = call.request(message)
    if whole is not None:
        number = whole.id
        call.release(whole)  # it cannot be replaced while this call uses it
        stored = await restore.restore(call.platform, request, number, message.name)
        return await _restored(call, message, whole, stored)
    at = await call.new_name(message.target, parents=True, look=True)
    made = await restore_paths.restore(call.platform, request, at, message.name)
    return await _restored(call, message, at.volume, made)


@rpc("Snapshots.Promote", answer=_restored)
async def promote(call: Call, message: pb.PromoteRequest, data: Any) -> pb.Restored:
    node = await call.node(message.target, follow=False)
    if node.inode.volume:  # the root of a volume, so that it is told what can be promoted
        node = await call.node(pb.Target(volume=node.inode.volume, inode=ROOT_INODE))
    request = call.request(message)
    source, made = await restore_paths.promote(
        call.platform, request, node.volume, node.inode.number
    )
    volume = await call.platform.acquire(source)
    try:
        return await _restored(call, message, volume, made)
    finally:
        call.platform.release(volume)


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
