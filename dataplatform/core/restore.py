"""Restoring a whole volume: what it was at a snapshot takes the place of what it is.

A storage aside is made of the snapshot's checkpoint, as for a clone. Into it goes, in one commit,
what the volume must not lose: it goes on counting commits, inodes and producers where it was; its
settings and the replies to clients' requests are those of now; segments that it had since are noted
as dead, because later snapshots need them. Then it takes the volume's place
(`Storages.replace`), which keeps its number, its name, and all its snapshots.

The volume's record says what to do after a crash: a `copy` that is not being placed goes, one that
`is_placing` is placed.

Meanwhile nobody is in the volume: calls under way have a few seconds, new ones wait and find the
restored one. What sessions had open is forgotten, and caches hear that everything is over. Readers
of the change feed get STALE: the oldest change that is kept is the restoring itself.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Container
from dataclasses import replace
from typing import TYPE_CHECKING

from ..base.errors import Corrupt, Invalid, PlatformError
from ..engine.base import Reader, scan_all
from ..keyspace import keys
from ..keyspace.records import (
    ROOT_VOLUME,
    ChangeRow,
    Entry,
    Event,
    Inode,
    Segment,
    VolumeRecord,
    VolumeState,
)
from . import encryption, histories
from .clones import dead_accounts, own_keys
from .snapshots import Snapshot, check_admin
from .units import Request, Unit
from .volumes import Volume, load_state

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger(__name__)


async def restore(platform: Platform, request: Request, volume_id: int, name: str) -> list[int]:
    """Make a volume what it was at a snapshot; its id, alone. Whoever calls has let go of it.

    NOT_FOUND; INVALID for the root volume, for what is read only, and if a volume that was mounted
    inside since would lose its place; DENIED to whoever has no `admin` of the volume.
    """
    async with platform.catalog.alone():
        root = await platform.acquire(ROOT_VOLUME)
        try:
            known, result = await root.lane.find_reply(request)
            if known:
                return list(result)
            snapshot = await _check(platform, request, volume_id, name)
            number = await _announce(platform, root, request, volume_id)
            try:
                await _restore(platform, root, request, snapshot, number)
            except BaseException:
                if volume_id not in platform.unplaced:
                    await _take_back(platform, root, volume_id)
                raise
            result = await finish(root, request, volume_id)
            await platform.promises.acknowledged(platform.promises.outstanding(request.caller))
            return result
        finally:
            platform.release(root)


async def _check(platform: Platform, request: Request, volume_id: int, name: str) -> Snapshot:
    volume = await platform.acquire(volume_id)
    try:
        await check_admin(request, volume)
        if volume_id == ROOT_VOLUME:
            raise Invalid(
                "the root volume holds what belongs to the whole cluster, and is not restored as a "
                "whole: restore paths in it",
                errno=errno.EPERM,
            )
        if volume.read_only:
            raise volume.refusal()
        snapshot = platform.snapshots.get(volume_id, name)
    finally:
        platform.release(volume)
    await _check_mounted(platform, snapshot)
    return snapshot


async def _check_mounted(platform: Platform, snapshot: Snapshot) -> None:
    """INVALID if a volume that is mounted inside would lose its place."""
    then = await platform.acquire(snapshot.number)
    try:
        for record in await _mounted(platform, snapshot):
            inode = await then.find_inode(record.junction)
            if inode is None or record.junction not in snapshot.record.junctions:
                raise Invalid(
                    "a volume that is mounted inside was not when the snapshot was taken, and "
                    "would lose its place: remove it first, or restore paths",
                    path=await platform.catalog.mount_path(record.volume),
                )
    finally:
        platform.release(then)


async def _mounted(platform: Platform, snapshot: Snapshot) -> list[VolumeRecord]:
    """Volumes that are mounted inside now."""
    records = await platform.catalog.records()
    return [record for record in records if record.parent_volume == snapshot.volume]


async def _announce(platform: Platform, root: Volume, request: Request, volume_id: int) -> int:
    async def work(unit: Unit) -> int:
        record = await platform.catalog.record(unit, volume_id)
        record.copy, record.is_placing = unit.new_inode_number(), False
        record.request = platform.catalog.pack_request(request)
        unit.put(keys.volume(volume_id), record.pack())
        return record.copy

    return await root.run(request.step, work, durable=True)


async def _restore(
    platform: Platform, root: Volume, request: Request, snapshot: Snapshot, number: int
) -> None:
    async def placing(unit: Unit) -> None:
        platform.audit.skip(unit, snapshot.volume, commit)
        record = await platform.catalog.record(unit, snapshot.volume)
        record.is_placing = True
        unit.put(keys.volume(snapshot.volume), record.pack())

    async with platform.audit.paused() as drain, platform.still(snapshot.volume) as volume:
        await volume.sync()
        await drain(volume)
        commit = volume.state.commit
        await platform.storages.clone(volume.id, snapshot.record.checkpoint, number)
        await _fill(platform, request, volume, snapshot, number)
        await volume.close()
        platform.unplaced.add(volume.id)  # unless all of the following is done
        await root.run(request.step, placing, durable=True)
        await platform.storages.replace(volume.id, number)
        platform.unplaced.discard(volume.id)


async def finish(root: Volume, request: Request, volume_id: int) -> list[int]:
    """The copy has taken the volume's place, or is gone."""

    async def work(unit: Unit) -> list[int]:
        value = await unit.get(keys.volume(volume_id))
        if value is not None:
            record = VolumeRecord.unpack(value)
            record.copy, record.is_placing, record.request = 0, False, []
            unit.put(keys.volume(volume_id), record.pack())
        return [volume_id]

    return await root.run(request, work, durable=True)


async def _take_back(platform: Platform, root: Volume, volume_id: int) -> None:
    """It failed before it mattered. What cannot be undone now is at the next start."""
    try:
        record = await platform.catalog.find(volume_id)
        if record is not None and record.copy and not record.is_placing:
            await platform.storages.remove(record.copy)
            await finish(root, Request(), volume_id)
    except PlatformError as error:
        log.warning("what is left of restoring volume %d goes later: %s", volume_id, error)


async def recover(platform: Platform, root: Volume, record: VolumeRecord, request: Request) -> None:
    """After a crash, or an error on the way: see above. The volume is not open."""
    if record.is_placing:
        await platform.storages.replace(record.volume, record.copy)
        platform.unplaced.discard(record.volume)
        await finish(root, request, record.volume)
    else:
        await platform.storages.remove(record.copy)
        await finish(root, Request(), record.volume)


# ---------------------------------------------------------------- what is in it


async def _fill(
    platform: Platform, request: Request, volume: Volume, snapshot: Snapshot, number: int
) -> None:
    """Make the clone of the checkpoint what the volume is going to be, in one commit."""
    storage = await platform.storages.open(number, briefly=True)
    try:
        settings = replace(volume.settings, encryption=own_keys(volume.settings))
        readable, _ = await encryption.with_keys(
            storage, settings, platform.masters, platform.entropy
        )
        old, now = readable.engine, volume.storage.engine
        state, stored = await load_state(readable, number)
        commit = volume.state.commit + 1
        settings.history, settings.lineage = stored.history, stored.lineage
        histories.cut(settings, snapshot.record.commit, platform.entropy)
        state = VolumeState(
            commit=commit,
            next_inode=max(state.next_inode, volume.state.next_inode),
            next_producer=max(state.next_producer, volume.state.next_producer),
            used_bytes=state.used_bytes,
            entries=state.entries,
            oldest_change=commit,
            over=state.over,
        )
        facts = {"name": snapshot.name, "at": snapshot.record.commit}
        row = ChangeRow(
            platform.clock.now_ns(), "", [Event("volume restored", "/", "volume", facts)], []
        )
        row.principal, row.origin, row.right, row.token, row.by = request.author
        batch: dict[bytes, bytes | None] = {}
        for letter in (keys.REPLY, keys.DEAD_SEGMENT, keys.MIRROR):
            batch |= dict.fromkeys(
                [key async for key, _ in scan_all(old, *keys.prefix_range(letter))]
            )
        batch |= {key: value async for key, value in scan_all(now, *keys.prefix_range(keys.REPLY))}
        gone = await dead_accounts(old)
        batch |= dict.fromkeys(gone)
        batch |= await dead_segments(old, now, commit, gone)
        batch |= await _junctions(platform, old, snapshot)
        batch[keys.STATE_KEY] = state.pack()
        batch[keys.SETTINGS_KEY] = settings.pack()
        batch[keys.change(commit)] = row.pack()
        await readable.engine.durable(await readable.engine.commit(batch))
    finally:
        await storage.segments.close()
        await storage.engine.close()


async def dead_segments(
    old: Reader, now: Reader, commit: int, gone: Container[bytes] = ()
) -> dict[bytes, bytes | None]:
    """Segments that the volume has now and had not then: they died, at the latest by this commit;
    the ones that no snapshot needs go when the volume is looked after next. Accounts in `gone` do
    not count."""
    accounts = scan_all(old, *keys.prefix_range(keys.SEGMENT))
    alive = {key async for key, _ in accounts if key not in gone}
    dead: dict[bytes, bytes | None] = {}
    async for key, value in scan_all(now, *keys.prefix_range(keys.SEGMENT)):
        if key not in alive:
            try:
                died = Segment.unpack(value).died
            except Corrupt:
                died = 0
            dead[keys.dead_segment(keys.number_of(key))] = (died or commit).to_bytes(8, "big")
    async for key, value in scan_all(now, *keys.prefix_range(keys.DEAD_SEGMENT)):
        if keys.segment(keys.number_of(key)) not in alive:
            dead[key] = value
    return dead


async def _junctions(
    platform: Platform, old: Reader, snapshot: Snapshot
) -> dict[bytes, bytes | None]:
    """Volumes that are mounted inside stay where they were then; what was a junction to one that is
    gone is an empty directory."""
    mounted = {record.junction for record in await _mounted(platform, snapshot)}
    changed: dict[bytes, bytes | None] = {}
    for number in set(snapshot.record.junctions) - mounted:
        value = await old.get(keys.inode(number))
        inode = Inode.unpack(value) if value is not None else None
        if inode is not None and inode.links and inode.volume:
            inode.volume = 0
            changed[keys.inode(number)] = inode.pack()
            changed[keys.entry(inode.parent, inode.name)] = Entry(number, inode.kind).pack()
    return changed
