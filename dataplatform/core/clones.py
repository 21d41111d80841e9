"""Clones: a writable volume made of a snapshot.

Its storage is made of the snapshot's checkpoint (`Storages.clone`); what is in it is left as it is,
whatever its size. One commit then makes it a volume of its own: settings, history, and what only
the source has to do with goes. It comes like any other volume, see `catalog`: the record in the
root volume says after a crash whether to go on or to go back.

From its announcement on the clone is among the snapshot's `users`, so the snapshot stays. Where the
storage shares by reference it is one for good, elsewhere until it is made.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Invalid, NotFound
from ..engine.base import Reader, scan_all
from ..keyspace import keys
from ..keyspace.records import (
    ROOT_VOLUME,
    Entry,
    Segment,
    SnapshotRecord,
    VolumeSettings,
)
from . import encryption, histories
from .snapshots import Snapshot, check_admin
from .units import SYSTEM, Request, Unit
from .volumes import Volume, open_volume

if TYPE_CHECKING:
    from .platform import NewName, Platform

OF_THE_SOURCE = (keys.DEAD_SEGMENT, keys.MIRROR, keys.PUBLICATION, keys.GATHER)
"""What a copy of a volume does not have: its own snapshots are none, it is no mirror, and what it
copied to others the source goes on copying."""


class Making(NamedTuple):
    """A clone that the catalog is making."""

    platform: Platform
    source: Volume
    snapshot: Snapshot
    settings: VolumeSettings
    path: str  # of the source

    @property
    def commit(self) -> int:
        """The last one that it shares with its source."""
        return self.snapshot.record.commit

    @property
    def origin(self) -> list[int]:
        """What its record says of where it comes from: see `VolumeRecord`."""
        record = self.snapshot.record
        return [self.source.id, record.commit, record.segments_end, record.number]

    async def announce(self, unit: Unit, volume_id: int) -> None:
        """In the unit that makes the clone's record. NOT_FOUND if the snapshot has gone."""
        key = keys.snapshot(self.source.id, self.snapshot.name)
        value = await unit.get(key)
        if value is None or SnapshotRecord.unpack(value).number != self.snapshot.number:
            raise NotFound("no such snapshot: dp snapshot ls lists them", name=self.snapshot.name)
        self.platform.snapshots.use(unit, self.snapshot, volume_id)

    async def make(self, volume_id: int) -> None:
        platform, record = self.platform, self.snapshot.record
        await platform.storages.clone(self.source.id, record.checkpoint, volume_id)
        storage = await platform.storages.open(volume_id, briefly=True)
        try:
            stored = await encryption.stored_settings(storage)
            settings = replace(
                self.settings,
                created_ns=platform.clock.now_ns(),
                history=stored.history,
                lineage=stored.lineage,
            )
            histories.cut(settings, record.commit, platform.entropy)
            readable, keyring = await encryption.with_keys(
                storage, settings, platform.masters, platform.entropy
            )
            volume = await open_volume(
                volume_id, readable, platform.clock, platform.entropy, keyring=keyring
            )
            junctions = await self.platform.snapshots.junctions(self.source.id, record)

            async def begin(unit: Unit) -> None:
                for letter in OF_THE_SOURCE:
                    await delete_all(unit, letter)
                for number in junctions:
                    await unmount(unit, number)
                for key in await dead_accounts(unit.engine):
                    unit.delete(key)
                unit.put(keys.SETTINGS_KEY, settings.pack())
                facts = {"source": self.path, "name": self.snapshot.name, "at": record.commit}
                unit.event("volume cloned", "/", "volume", **facts)

            await volume.run(SYSTEM, begin, durable=True)
        finally:
            platform.close_later(volume_id, storage)


async def clone(
    platform: Platform, request: Request, source: Volume, name: str, at: NewName
) -> int:
    """A new volume, mounted at a new name, with what a snapshot of `source` holds; its id.

    NOT_FOUND, EXISTS; INVALID for the root volume; DENIED to whoever has no `admin` of the source
    or may not make volumes in the directory.
    """
    await check_admin(request, source)
    if source.id == ROOT_VOLUME:
        raise Invalid(
            "the root volume holds what belongs to the whole cluster, and cannot be cloned: make a "
            "volume for what you want to clone",
            errno=errno.EPERM,
        )
    await histories.of(source)
    snapshot = platform.snapshots.get(source.id, name)
    path = await platform.catalog.mount_path(source.id)
    making = Making(platform, source, snapshot, settings_of(source), path)
    return await platform.catalog.create(request, at, making.settings, making=making)


def settings_of(source: Volume) -> VolumeSettings:
    """Of a clone: as the source's are now, apart from what it does with its own past and future.
    Keys are never forgotten that a snapshot needs, so they are those of now."""
    settings = replace(source.settings, mirror={}, snapshots=[], identity=b"")
    settings.encryption = own_keys(source.settings)
    return settings


def own_keys(settings: VolumeSettings) -> dict[str, object]:
    """Wrapped keys for a copy: what is known of the segments, and of what older keys are still
    needed for, is not known of the copy."""
    known = ("below", "needed")
    return {name: value for name, value in settings.encryption.items() if name not in known}


async def dead_accounts(reader: Reader) -> list[bytes]:
    """Keys of the accounts of segments that nothing refers to. A snapshot does not need those, so
    they may be gone where it was taken."""
    dead = []
    async for key, value in scan_all(reader, *keys.prefix_range(keys.SEGMENT)):
        start, end = keys.prefix_range(keys.references(keys.number_of(key)))
        if not Segment.unpack(value).live_bytes and not await reader.scan(start, end, limit=1):
            dead.append(key)
    return dead


async def delete_all(unit: Unit, letter: bytes) -> None:
    """Delete all rows of a kind of which there are few."""
    start, end = keys.prefix_range(letter)
    async for key, _ in scan_all(unit.engine, start, end):
        unit.delete(key)


async def unmount(unit: Unit, number: int) -> None:
    """Make a plain empty directory of what was a junction when the snapshot was taken."""
    inode = await unit.find_inode(number)
    if inode is None or not inode.volume or not inode.links:
        return
    inode.volume = 0
    unit.save(inode)
    unit.put(keys.entry(inode.parent, inode.name), Entry(number, inode.kind).pack())
