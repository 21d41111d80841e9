"""Snapshots: what a volume was at one commit, as a volume of its own that nobody can write.

A snapshot is three things: a checkpoint of the volume's engine, the segments that it refers to,
and a record in the root volume. The record is what counts: a checkpoint without one is a leftover
of a crash, and goes when its volume is opened next. They are made and undone in that order:

    create   no segment goes from now on (`Holds.pin`); checkpoint; record, durable
    remove   record, durable; nobody reads it any more; checkpoint; segments that nobody else needs

Nothing of that holds the volume's lane: writers go on. Which commit a snapshot is stands in the
checkpoint itself, because every commit writes the volume's state.

What is known here is exact: every change of a record passes here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Corrupt, Exhausted, Exists, Invalid, NotFound, PlatformError
from ..base.limits import SNAPSHOTS_MAX
from ..engine.base import Reader, View, scan_all
from ..keyspace import keys
from ..keyspace.records import ROOT_INODE, ROOT_VOLUME, SnapshotRecord, VolumeState
from . import compaction
from .access.verbs import Verb
from .segments import Pin, Pins
from .snapshot_names import check_name
from .units import Request, Unit
from .volumes import Volume

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger(__name__)

CHECKPOINTS = "snapshot-"
"""What names of checkpoints begin with that are snapshots. On disk: it must not change."""


class Snapshot(NamedTuple):
    """A snapshot, and of what."""

    volume: int
    name: str
    record: SnapshotRecord

    @property
    def number(self) -> int:
        """As a volume's: what names an inode in it."""
        return self.record.number


class Snapshots:
    """All snapshots of a platform."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.damaged = False
        """Not all records could be read."""
        self._unreadable: set[bytes] = set()  # the keys of those
        self._by_number: dict[int, Snapshot] = {}
        self._by_volume: dict[int, dict[str, Snapshot]] = {}
        self._pins: defaultdict[int, Pins] = defaultdict(Pins)
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load(self, root: Reader) -> None:
        """From the root volume. What damage hides is logged, and found by the check."""
        start, end = keys.prefix_range(keys.SNAPSHOT)
        try:
            async for key, value in scan_all(root, start, end):
                try:
                    record = SnapshotRecord.unpack(value)
                    self._add(Snapshot(keys.number_of(key), keys.name_of(key).decode(), record))
                except (Corrupt, UnicodeDecodeError) as error:
                    self.damaged = True
                    self._unreadable.add(key)
                    self._pins[keys.number_of(key)].pin_all()
                    log.error("a snapshot's record cannot be read: run dp check: %s", error)
        except Corrupt as error:
            self.damaged = True
            log.error("the list of snapshots cannot be read to its end: run dp check: %s", error)

    # ---- looking

    def find(self, number: int) -> Snapshot | None:
        """By its number as a volume."""
        return self._by_number.get(number)

    def find_name(self, volume_id: int, name: str) -> Snapshot | None:
        return self._by_volume.get(volume_id, {}).get(name)

    def get(self, volume_id: int, name: str) -> Snapshot:
        """NOT_FOUND."""
        found = self.find_name(volume_id, name)
        if found is None:
            raise NotFound("no such snapshot: dp snapshot ls lists them", name=name)
        return found

    def of(self, volume_id: int) -> list[Snapshot]:
        """Those of a volume, the oldest first."""
        found = self._by_volume.get(volume_id, {})
        return sorted(found.values(), key=lambda s: (s.record.commit, s.number))

    def volumes(self) -> set[int]:
        """Those that have snapshots."""
        return {snapshot.volume for snapshot in self._by_number.values()}

    def pins(self, volume_id: int) -> Pins:
        """What the snapshots of a volume need; this object goes on being exact."""
        return self._pins[volume_id]

    async def freed_bytes(self, volume: Volume, snapshot: Snapshot) -> int:
        """What removing this one alone would give back: of the database, and of segments that no
        other snapshot needs, nor the volume itself."""
        number = snapshot.number
        sizes = await volume.storage.segments.sizes()
        pins = volume.snapshot_pins
        alone = [
            sizes.get(segment, 0)
            for segment, died in await compaction.kept_dead(volume)
            if pins.needed_by(segment, died) == [number]
        ]
        own = await volume.storage.engine.checkpoint_size(snapshot.record.checkpoint)
        return own + sum(alone)

    # ---- coming

    async def create(
        self, request: Request, volume: Volume, name: str, *, schedule: str = ""
    ) -> Snapshot:
        """What the volume is now, under a new name. Durable. Everything that was acknowledged
        before is in it, buffered file writes included.

        EXISTS, INVALID; DENIED to whoever has no `admin` of the volume.
        """
        check_name(name)
        await check_admin(request, volume)
        async with self._turns[volume.id]:
            root = await self._platform.acquire(ROOT_VOLUME)
            try:
                known, number = await root.lane.find_reply(request)
                if known:
                    return self._by_number.get(number) or self.get(volume.id, name)
                if self.find_name(volume.id, name) is not None:
                    raise Exists("there is a snapshot of that name", name=name)
                if len(self._by_volume.get(volume.id, ())) >= SNAPSHOTS_MAX:
                    raise Exhausted("the volume has too many snapshots", count_max=SNAPSHOTS_MAX)
                with volume.holds.pin():
                    found = await self._create(root, request, volume, name, schedule)
            finally:
                self._platform.release(root)
            told = self._platform.promises.snapshots_changed(volume.id, name)
            await _tell(request, volume, "snapshot created", found)
        await self._platform.promises.acknowledged(told)
        return found

    async def _create(
        self, root: Volume, request: Request, volume: Volume, name: str, schedule: str
    ) -> Snapshot:
        platform, engine = self._platform, volume.storage.engine
        await volume.writeback.flush_all()
        checkpoint = CHECKPOINTS + platform.entropy.token(8).hex()
        record = SnapshotRecord(
            0,
            checkpoint,
            time_ns=platform.clock.now_ns(),
            schedule=schedule,
            by=request.principal.name,
        )

        async def announce(unit: Unit) -> int:
            record.number = unit.new_inode_number()  # never used again
            unit.put(keys.snapshot(volume.id, name), record.pack())
            unit.on_commit(lambda _: self._add(Snapshot(volume.id, name, record)))
            return record.number

        mounted = await platform.catalog.mounted_in(volume.id)
        await engine.checkpoint(checkpoint)
        try:
            await volume.lane.durable()  # what is in it is shown to everybody
            # Whatever was mounted at the commit that it is, is in the list before or after it.
            record.junctions = sorted({*mounted, *await platform.catalog.mounted_in(volume.id)})
            view = await engine.open_checkpoint(checkpoint)
            try:
                await _describe(view, record)
            finally:
                view.close()
            await root.run(request, announce, durable=True)
        except PlatformError:
            if record.number not in self._by_number:  # else nobody knows whether it is stored
                await engine.delete_checkpoint(checkpoint)
            raise
        return self.get(volume.id, name)

    def _add(self, snapshot: Snapshot) -> None:
        record = snapshot.record
        self._by_number[snapshot.number] = snapshot
        self._by_volume.setdefault(snapshot.volume, {})[snapshot.name] = snapshot
        self._pins[snapshot.volume].add(
            Pin(
                snapshot.number,
                snapshot.name,
                record.commit,
                record.segments_end,
                record.checkpoint,
                record.next_inode,
            )
        )

    # ---- those that need them

    def use(self, unit: Unit, snapshot: Snapshot, user: int) -> None:
        """In a unit of the root volume: this volume needs the snapshot from now on."""
        self._set_users(unit, snapshot, [*snapshot.record.users, user])

    def let_go(self, unit: Unit, user: int) -> None:
        """In a unit of the root volume: this volume needs no snapshot any more."""
        for snapshot in self._by_number.values():
            if user in snapshot.record.users:
                left = [other for other in snapshot.record.users if other != user]
                self._set_users(unit, snapshot, left)

    def _set_users(self, unit: Unit, snapshot: Snapshot, users: list[int]) -> None:
        changed = snapshot._replace(record=replace(snapshot.record, users=users))
        unit.put(keys.snapshot(snapshot.volume, snapshot.name), changed.record.pack())
        unit.on_commit(lambda _: self._add(changed))

    async def junctions(self, volume_id: int, record: SnapshotRecord) -> list[int]:
        """Inodes that may be junctions in the snapshot."""
        return sorted({*record.junctions, *await self._platform.catalog.mounted_in(volume_id)})

    # ---- going

    async def sweep(self, volume: Volume) -> None:
        """On opening a volume: checkpoints without a record are what a crash left."""
        if self.damaged:
            return  # nobody knows whose they are
        known = {snapshot.record.checkpoint for snapshot in self.of(volume.id)}
        engine = volume.storage.engine
        for name in await engine.checkpoints():
            if name.startswith(CHECKPOINTS) and name not in known:
                log.info("volume %d: removing what a crash left of a snapshot", volume.id)
                await engine.delete_checkpoint(name)

    async def remove(self, request: Request, volume: Volume, name: str) -> None:
        """For good; whoever reads it is cut off. NOT_FOUND; INVALID (EBUSY) while a clone needs it;
        DENIED to whoever has no `admin` of the volume."""
        await check_admin(request, volume)
        async with self._turns[volume.id]:
            root = await self._platform.acquire(ROOT_VOLUME)
            try:
                known, _ = await root.lane.find_reply(request)
                if known:
                    return
                if keys.snapshot(volume.id, name) in self._unreadable:
                    await self._remove_unreadable(root, request, volume, name)
                    return
                found = self.get(volume.id, name)
                _check_unused(found)

                async def work(unit: Unit) -> int:
                    _check_unused(self.get(volume.id, name))
                    unit.delete(keys.snapshot(volume.id, name))
                    return found.number

                await root.run(request, work, durable=True)
            finally:
                self._platform.release(root)
            await self.forget(volume, found)
            told = self._platform.promises.snapshots_changed(volume.id, name)
            await _tell(request, volume, "snapshot removed", found)
        await self._platform.promises.acknowledged(told)

    async def _remove_unreadable(
        self, root: Volume, request: Request, volume: Volume, name: str
    ) -> None:
        """One whose record is damaged: what it kept is found by what others do not keep."""
        key = keys.snapshot(volume.id, name)

        async def work(unit: Unit) -> int:
            unit.delete(key)
            return 0

        await root.run(request, work, durable=True)
        self._unreadable.discard(key)
        if not any(keys.number_of(other) == volume.id for other in self._unreadable):
            self._pins[volume.id].discard(0)
        self.damaged = bool(self._unreadable)
        await self.sweep(volume)
        await compaction.delete_dead(volume)

    async def forget(self, volume: Volume, snapshot: Snapshot) -> None:
        """Its record is gone for good: so goes the rest."""
        self._drop(snapshot)
        await self._platform.withdraw_snapshot(snapshot.number)
        await volume.storage.engine.delete_checkpoint(snapshot.record.checkpoint)
        await compaction.delete_dead(volume)

    def _drop(self, snapshot: Snapshot) -> None:
        self._by_number.pop(snapshot.number, None)
        self._by_volume.get(snapshot.volume, {}).pop(snapshot.name, None)
        self._pins[snapshot.volume].discard(snapshot.number)

    def check_unused(self, volume_id: int) -> None:
        """INVALID (EBUSY) while a clone needs one of the volume's."""
        for snapshot in self.of(volume_id):
            _check_unused(snapshot)

    def forget_volume(self, volume_id: int) -> None:
        """The volume is gone, with its checkpoints and their records."""
        for snapshot in self.of(volume_id):
            self._drop(snapshot)
        self._by_volume.pop(volume_id, None)
        self._pins.pop(volume_id, None)
        self._turns.pop(volume_id, None)


async def check_admin(request: Request, volume: Volume) -> None:
    """INVALID for a snapshot; DENIED to whoever has no `admin` of the volume."""
    if volume.is_snapshot:
        raise Invalid("this is a snapshot itself: name the volume that it is of")
    await volume.allow(
        request.principal, ROOT_INODE, Verb.ADMIN, code=errno.EPERM, origin=request.origin
    )


def _check_unused(snapshot: Snapshot) -> None:
    if snapshot.record.users:
        raise Invalid(
            "a clone needs the snapshot: remove that first",
            name=snapshot.name,
            clones=snapshot.record.users,
            errno=errno.EBUSY,
        )


async def _describe(view: View, record: SnapshotRecord) -> None:
    """Which commit the checkpoint is, and what it holds."""
    value = await view.get(keys.STATE_KEY)
    if value is None:
        raise Corrupt("the checkpoint holds no volume: run dp check")
    state = VolumeState.unpack(value)
    record.commit, record.next_inode = state.commit, state.next_inode
    record.used_bytes, record.entries = state.used_bytes, state.entries
    start, end = keys.prefix_range(keys.SEGMENT)
    last = await view.scan(start, end, reverse=True, limit=1)
    record.segments_end = keys.number_of(last[0][0]) + 1 if last else 0


async def _tell(request: Request, volume: Volume, verb: str, snapshot: Snapshot) -> None:
    """Those who follow the volume's changes. A mirror has those of its source."""
    if volume.read_only:
        return

    async def work(unit: Unit) -> None:
        unit.quiet = True
        # A commit writes something: the settings as they are.
        unit.put(keys.SETTINGS_KEY, volume.settings.pack())
        unit.event(verb, "/", "volume", name=snapshot.name, at=snapshot.record.commit)

    await volume.run(request.step, work, durable=False)
