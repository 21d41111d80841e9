"""The list of volumes, kept in the root volume, and how volumes come and go.

Making or removing a volume touches up to three databases: the list, the parent volume that gets the
junction, and the volume itself. Each step is repeatable, and the phase in the list says after a
crash whether to go on or to go back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..base.errors import (
    Corrupt,
    Denied,
    ErrorKind,
    Exhausted,
    Exists,
    Invalid,
    NotFound,
    PlatformError,
)
from ..base.limits import SNAPSHOTS_MAX
from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import (
    ROOT_INODE,
    ROOT_VOLUME,
    AuditCursor,
    Inode,
    Kind,
    VolumePhase,
    VolumeRecord,
    VolumeSettings,
)
from . import change_trims, encryption, namespace, owners, paths, restore
from .access.verbs import REACH, Verb
from .audit import trail
from .namespace import Attributes
from .principals import Principal
from .quotas import VOLUME, check_limits
from .snapshot_names import SNAPSHOT_NAME
from .units import SYSTEM, Request, Unit
from .volumes import Volume

if TYPE_CHECKING:
    from .clones import Making
    from .platform import NewName, Platform

T = TypeVar("T")

log = logging.getLogger(__name__)

COMPRESSIONS = ("none", "lz4")

LIMITS = (
    *("quota_bytes", "quota_entries", "advisory_bytes", "advisory_entries"),
    *("iops", "bandwidth", "audit", "audit_ttl_ms"),
)
"""Settings that administrators alone make."""


@dataclass(frozen=True, slots=True)
class Description:
    """A volume as its users see it."""

    id: int
    path: str
    commit: int
    used_bytes: int
    entries: int
    settings: VolumeSettings
    is_open: bool
    state: str
    encrypted: encryption.State = encryption.NOT_ENCRYPTED
    snapshots: int = 0  # how many there are


class Catalog:
    """Volumes of the cluster."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._lock = asyncio.Lock()  # one volume comes or goes at a time

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Meanwhile no volume comes or goes, or is restored."""
        async with self._lock:
            yield

    async def record(self, unit: Unit, volume_id: int) -> VolumeRecord:
        """In a unit of the root volume. NOT_FOUND."""
        return await _record(unit, volume_id)

    def pack_request(self, request: Request) -> list[object]:
        """For a record: see `recover`."""
        return _pack_request(request)

    # ---- looking

    async def records(self) -> list[VolumeRecord]:
        """CORRUPT if one of them cannot be read."""
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            return [
                VolumeRecord.unpack(value)
                async for _, value in scan_all(root.storage.engine, *keys.prefix_range(keys.VOLUME))
            ]
        finally:
            self._platform.release(root)

    async def readable_records(self) -> list[VolumeRecord]:
        """Those that can be read: damage of one must not cost the others. The rest is logged."""
        found: list[VolumeRecord] = []
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            start, end = keys.prefix_range(keys.VOLUME)
            async for _, value in scan_all(root.storage.engine, start, end):
                try:
                    found.append(VolumeRecord.unpack(value))
                except Corrupt as error:
                    log.error("a volume's record cannot be read: run dp check: %s", error)
        except Corrupt as error:
            log.error("the list of volumes cannot be read to its end: run dp check: %s", error)
        finally:
            self._platform.release(root)
        return found

    async def ready(self) -> list[int]:
        """Volumes, the root volume apart, that can be opened as far as is known."""
        records = await self.readable_records()
        return [r.volume for r in records if r.phase == VolumePhase.READY and not r.locked]

    async def find(self, volume_id: int) -> VolumeRecord | None:
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            value = await root.storage.engine.get(keys.volume(volume_id))
            return VolumeRecord.unpack(value) if value is not None else None
        finally:
            self._platform.release(root)

    async def mounted_in(self, volume_id: int) -> list[int]:
        """Inodes of the volume at which others are, or are being, mounted or unmounted."""
        return [r.junction for r in await self.records() if r.parent_volume == volume_id]

    async def mount_path(self, volume_id: int) -> str:
        """Where the volume's root is seen, from the platform's root."""
        below = ""
        snapshot = self._platform.snapshots.find(volume_id)
        if snapshot is not None:
            volume_id, below = snapshot.volume, f"/{SNAPSHOT_NAME}/{snapshot.name}"
        while volume_id != ROOT_VOLUME:
            record = await self.find(volume_id)
            if record is None:
                return f"(volume {volume_id}){below}"
            parent = await self._platform.acquire(record.parent_volume)
            try:
                below = await parent.path_of(record.junction) + below
            finally:
                self._platform.release(parent)
            volume_id = record.parent_volume
        return below or "/"

    async def describe(self, volume_id: int) -> Description:
        """NOT_FOUND. Opens the volume if need be."""
        volume = await self._platform.acquire(volume_id)
        try:
            state = volume.state
            broken = volume.lane.broken
            return Description(
                id=volume_id,
                path=await self.mount_path(volume_id),
                commit=state.commit,
                used_bytes=state.used_bytes,
                entries=state.entries,
                settings=volume.settings,
                is_open=True,
                state=f"failed: {broken}" if broken else "ready",
                encrypted=encryption.state_of(volume.settings, volume.rotation),
                snapshots=len(self._platform.snapshots.of(volume_id)),
            )
        finally:
            self._platform.release(volume)

    async def _list(self) -> list[Description]:
        found = [await self.describe(ROOT_VOLUME)]
        for record in await self.readable_records():
            if record.phase == VolumePhase.READY:
                try:
                    found.append(await self.describe(record.volume))
                except PlatformError as error:
                    if error.kind not in (ErrorKind.CORRUPT, ErrorKind.DENIED):
                        raise
                    found.append(await self.describe_closed(record, error))
        return found

    async def list(self, request: Request = SYSTEM) -> list[Description]:
        """All of them whose root the request's principal can reach; one that cannot be opened is
        listed with what is wrong as its state."""
        found = await self._list()
        if request.principal.is_free:
            return found
        return [described for described in found if await self._can_reach(request, described)]

    async def _can_reach(self, request: Request, described: Description) -> bool:
        if not described.is_open:
            return False
        volume = await self._platform.acquire(described.id)
        try:
            guard = self._platform.guard
            return await guard.may(request.principal, volume, ROOT_INODE, REACH)
        finally:
            self._platform.release(volume)

    async def path_for_people(self, volume_id: int) -> str:
        """Where it is mounted, or its number if that cannot be known."""
        try:
            return await self.mount_path(volume_id)
        except PlatformError:
            return f"(volume {volume_id})"

    async def find_id(self, path: str, request: Request) -> int:
        """The volume mounted at a path, also if it cannot be opened. NOT_FOUND; DENIED to whoever
        is no administrator, as the way there is not asked about."""
        self._platform.guard.require_admin(request.principal, "find a closed volume", changes=False)
        wanted = "/".join(paths.split_path(path))
        wanted = "/" + wanted.removeprefix(f"{self._platform.cluster}/")
        if wanted in ("/", f"/{self._platform.cluster}"):
            return ROOT_VOLUME
        for record in await self.readable_records():
            if await self.path_for_people(record.volume) == wanted:
                return record.volume
        raise NotFound("no volume is mounted there: dp volume ls lists them", path=path)

    async def describe_any(self, volume_id: int) -> Description:
        """As `describe`, also of a volume that cannot be opened. NOT_FOUND."""
        try:
            return await self.describe(volume_id)
        except PlatformError as error:
            record = await self.find(volume_id)
            if record is None or error.kind not in (ErrorKind.CORRUPT, ErrorKind.DENIED):
                raise
            return await self.describe_closed(record, error)

    async def find_closed(self, path: str, error: PlatformError) -> Description | None:
        """The volume mounted at a path, if it is the one that cannot be opened; not if somebody may
        not see what is in an open one."""
        volume_id = error.facts.get("volume")
        if any(volume.id == volume_id for volume in self._platform.volumes):
            return None
        for record in await self.readable_records():
            if record.volume == volume_id:
                described = await self.describe_closed(record, error)
                wanted = "/" + "/".join(paths.split_path(path))
                return described if described.path == wanted else None
        return None

    async def locked(self) -> set[int]:
        """Volumes that nobody may open."""
        return {record.volume for record in await self.readable_records() if record.locked}

    async def describe_closed(self, record: VolumeRecord, error: PlatformError) -> Description:
        """A volume that cannot be opened, with the reason as its state."""
        path = await self.path_for_people(record.volume)
        if record.locked:
            state = "locked"
        elif error.kind is ErrorKind.DENIED:
            state = f"locked: {error.message}"
        else:
            state = f"damaged: {error}"
        is_locked = state.startswith("locked")
        known = encryption.State(encryption.CIPHER) if is_locked else encryption.NOT_ENCRYPTED
        return Description(record.volume, path, 0, 0, 0, VolumeSettings(), False, state, known)

    # ---- coming

    async def create(
        self,
        request: Request,
        at: NewName,
        settings: VolumeSettings,
        *,
        encrypt: bool = False,
        is_mirror: bool = False,
        making: Making | None = None,
    ) -> int:
        """A new volume mounted at a new name; its id. Empty, unless it is a clone in the making.

        EXISTS, INVALID; DENIED to whoever may not create names in the directory, or has no `admin`
        there.
        """
        check_settings(settings)
        if encrypt:
            platform = self._platform
            settings.encryption = await encryption.new_keys(platform.masters, platform.entropy)
        async with self._lock:
            root = await self._platform.acquire(ROOT_VOLUME)
            try:
                known, result = await root.lane.find_reply(request)
                if known:
                    return int(result)
                if at.inode:
                    raise Exists("the name exists already", name=at.name)
                return await self._create(
                    root, request, at, settings, is_mirror=is_mirror, making=making
                )
            finally:
                self._platform.release(root)

    async def _create(
        self,
        root: Volume,
        request: Request,
        at: NewName,
        settings: VolumeSettings,
        *,
        is_mirror: bool,
        making: Making | None,
    ) -> int:
        platform, now_ns = self._platform, self._platform.clock.now_ns()

        async def parents(unit: Unit) -> tuple[int, int]:
            directory = at.directory
            if at.missing:
                new = Attributes(Kind.DIRECTORY)
                directory = await namespace.make_parents(unit, directory, at.missing, new)
            await unit.search(directory)
            parent = await namespace.directory_of(unit, directory)
            await owners.check_create(unit, parent, Kind.DIRECTORY, is_junction=True)
            # What limits a clone limited its source: nobody gets more by it.
            limits = settings if making is None else VolumeSettings()
            await self._check_limits(unit, directory, limits)
            return directory, unit.new_inode_number()

        directory, junction = await at.volume.run(request.step, parents, durable=False)

        async def announce(unit: Unit) -> int:
            number = unit.new_inode_number()  # never used again, so neither is the volume's id
            record = VolumeRecord(
                number,
                VolumePhase.CREATING,
                at.volume.id,
                directory,
                at.name.encode(),
                junction,
                now_ns,
                _pack_request(request),
                is_mirror=is_mirror,
                origin=making.origin if making is not None else [],
            )
            if making is not None:
                await making.announce(unit, number)
            unit.put(keys.volume(number), record.pack())
            if settings.audit:
                unit.put(keys.audit_cursor(number), cursor.pack())
            return number

        above = await self.mount_path(at.volume.id)
        below = await at.volume.path_of(directory)
        path = "/".join((above.rstrip("/") + below.rstrip("/"), at.name))
        cursor = AuditCursor(making.commit if making is not None else 0, path, is_on=True)
        volume_id = await root.run(SYSTEM, announce, durable=True)
        if settings.audit:
            platform.audit.created(volume_id, cursor)
        try:
            if making is not None:
                await making.make(volume_id)
            else:
                await self._make(request, volume_id, settings)

            async def mount(unit: Unit) -> int:
                new = Attributes(Kind.DIRECTORY, 0o755, volume=volume_id, number=junction)
                return await namespace.create(unit, directory, at.name, new)

            await at.volume.run(request.step, mount, durable=True)
        except PlatformError:
            if at.volume.lane.broken is None:  # else nobody knows whether it is mounted: recover
                await self._forget(root, volume_id)
            raise
        await self._finish(root, request, volume_id)
        return volume_id

    async def _make(self, request: Request, volume_id: int, settings: VolumeSettings) -> None:
        platform, by = self._platform, request.principal
        storage = await platform.storages.open(volume_id, create=True)
        uid, gid = (0, 0) if by.is_admin else (by.uid, by.gid)
        await platform.make_volume(storage, volume_id, settings, uid, gid)
        await storage.segments.close()
        await storage.engine.close()

    async def _check_limits(self, unit: Unit, directory: int, settings: VolumeSettings) -> None:
        """DENIED to whoever is no administrator and says what a volume may use, or leaves a quota
        behind: what a volume holds does not count for what it is mounted in."""
        quotas, above = unit.volume.quotas, unit.volume.settings
        is_limited = any(getattr(settings, name) for name in LIMITS)
        is_limited = is_limited or bool(above.quota_bytes or above.quota_entries)
        if is_limited or len(await quotas.chain(directory, unit)) > 1:
            self._platform.guard.require_admin(unit.request.principal, "limits of a volume")

    async def _finish(self, root: Volume, request: Request, volume_id: int) -> None:
        async def ready(unit: Unit) -> int:
            record = await _record(unit, volume_id)
            record.phase, record.request = VolumePhase.READY, []
            unit.put(keys.volume(volume_id), record.pack())
            if not self._platform.storages.clones_refer:
                self._platform.snapshots.let_go(unit, volume_id)
            return volume_id

        await root.run(request, ready, durable=True)

    # ---- changing

    async def new_number(self) -> int:
        """For a storage that is no volume that anybody sees; never used again."""

        async def work(unit: Unit) -> int:
            unit.put(keys.STATE_KEY, b"")  # written by the lane
            return unit.new_inode_number()

        return await self._in_root(work)

    async def change_record(self, volume_id: int, change: Callable[[VolumeRecord], None]) -> None:
        """Change a volume's record, durably; nothing if it is gone."""

        async def work(unit: Unit) -> None:
            value = await unit.get(keys.volume(volume_id))
            if value is not None:
                record = VolumeRecord.unpack(value)
                change(record)
                packed = record.pack()
                if packed != value:
                    unit.put(keys.volume(volume_id), packed)

        await self._in_root(work)

    async def _in_root(self, work: Callable[[Unit], Awaitable[T]]) -> T:
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            return await root.run(SYSTEM, work, durable=True)
        finally:
            self._platform.release(root)

    async def set(self, request: Request, volume: Volume, settings: VolumeSettings) -> None:
        """New settings for an open volume. DENIED to whoever is no administrator: what a volume may
        use is not its owner's to say."""
        self._platform.guard.require_admin(request.principal, "set a volume")
        check_settings(settings)
        old = volume.settings
        facts: dict[str, Any] = {"quota_bytes": settings.quota_bytes}
        of_audit = (settings.audit, settings.audit_ttl_ms)
        if of_audit != (old.audit, old.audit_ttl_ms) and not request.principal.is_free:
            raise Denied("the audit is set by administrators", errno=errno.EPERM)
        if settings.audit != old.audit:
            facts["audit"] = settings.audit or "off"
        for name in ("audit_ttl_ms", "changes_ttl_ms", "changes_rows"):
            if getattr(settings, name) != getattr(old, name):
                facts[name] = getattr(settings, name)

        if volume.settings.mirror:
            if (settings.audit, settings.compression) != ("", old.compression):
                raise Invalid("compression is the source's, and the audit begins when promoted")
            await volume.lane.apply(lambda unit: _set_mirror(unit, settings), durable=True)
            return

        async def work(unit: Unit) -> None:
            settings.encryption = volume.settings.encryption  # its own changes: see encryption
            settings.history = volume.settings.history
            settings.lineage = volume.settings.lineage
            settings.snapshots = volume.settings.snapshots
            unit.put(keys.SETTINGS_KEY, settings.pack())
            unit.on_commit(lambda _: setattr(volume, "settings", settings))
            unit.event("volume set", "/", "volume", **facts)
            state = volume.state
            unit.over = await volume.quotas.advise(
                *(unit, VOLUME, settings, state.used_bytes, state.entries, state.over)
            )

        audit = self._platform.audit
        if not settings.audit:
            await volume.run(request, work, durable=True)
            return
        try:
            await audit.begin(volume)
            await volume.run(request, work, durable=True)
        finally:
            audit.settled(volume)

    # ---- going

    async def remove(self, request: Request, volume_id: int, *, recursive: bool) -> None:
        """Unmount the volume and delete its bytes for good. INVALID if it is not empty; DENIED to
        whoever has no `admin` of it and of the directory that it is mounted in."""
        async with self._lock:
            root = await self._platform.acquire(ROOT_VOLUME)
            try:
                known, _ = await root.lane.find_reply(request)
                if not known:
                    await self._check_admin(request, volume_id)
                    await self._check_removable(volume_id)
                    await self._remove(root, request, volume_id, recursive=recursive)
            finally:
                self._platform.release(root)

    async def _check_admin(self, request: Request, volume_id: int) -> None:
        principal = request.principal
        if principal.is_free or volume_id == ROOT_VOLUME:
            return
        record = await self.find(volume_id)
        if record is None:
            raise NotFound("no such volume", volume=volume_id)
        parent = await self._platform.acquire(record.parent_volume)
        try:
            volume = await self._platform.acquire(volume_id)
            try:
                await volume.allow(principal, ROOT_INODE, Verb.ADMIN, code=errno.EPERM)
            finally:
                self._platform.release(volume)
            junction = await parent.find_inode(record.junction)
            if junction is None:
                raise NotFound("no such volume", volume=volume_id)
            await parent.allow(principal, junction.parent, Verb.ADMIN, code=errno.EPERM)
        finally:
            self._platform.release(parent)

    async def _check_removable(self, volume_id: int) -> None:
        if volume_id == ROOT_VOLUME:
            raise Invalid("the root volume cannot be removed")
        for record in await self.records():
            if record.parent_volume == volume_id:
                raise Invalid(
                    "another volume is mounted inside: remove that first",
                    path=await self.mount_path(record.volume),
                )

    async def _remove(
        self, root: Volume, request: Request, volume_id: int, *, recursive: bool
    ) -> None:
        async def announce(unit: Unit) -> None:
            record = await _record(unit, volume_id)
            record.phase, record.request = VolumePhase.REMOVING, _pack_request(request)
            unit.put(keys.volume(volume_id), record.pack())

        described = await self.describe(volume_id)
        snapshots = self._platform.snapshots
        if snapshots.of(volume_id) and not recursive:
            raise Invalid(
                "the volume has snapshots: remove it recursively, with them and all it holds",
                path=described.path,
                snapshots=len(snapshots.of(volume_id)),
                errno=errno.ENOTEMPTY,
            )
        snapshots.check_unused(volume_id)
        if described.entries and not recursive:
            raise Invalid(
                "the volume is not empty: remove it recursively, with all it holds",
                path=described.path,
                entries=described.entries,
                errno=errno.ENOTEMPTY,
            )
        async with self._platform.mirrors.quiet(volume_id):
            await self._platform.discard(volume_id)
        try:
            await root.run(SYSTEM, announce, durable=True)
        except PlatformError:
            self._platform.readmit(volume_id)
            raise
        try:
            await self._unmount(request.step, volume_id)
        except Exhausted:
            await self._take_back(root, volume_id)
            raise
        await self._forget(root, volume_id, request)

    async def _take_back(self, root: Volume, volume_id: int) -> None:
        """A full disk refused to take the name away: so the volume stays. If there is no room for
        that either, the removal is finished as soon as there is, by `run_once`."""

        async def work(unit: Unit) -> None:
            record = await _record(unit, volume_id)
            record.phase, record.request = VolumePhase.READY, []
            unit.put(keys.volume(volume_id), record.pack())

        try:
            await root.run(SYSTEM, work, durable=True)
        except PlatformError as error:
            log.warning("volume %d is removed when there is room: %s", volume_id, error)
        else:
            self._platform.readmit(volume_id)

    async def _unmount(self, request: Request, volume_id: int) -> None:
        record = await self.find(volume_id)
        if record is None:
            return
        number = record.junction
        parent = await self._platform.acquire(record.parent_volume)
        try:

            async def work(unit: Unit) -> None:
                junction = await unit.find_inode(number)
                if junction is not None and junction.volume == volume_id:
                    await namespace.remove_junction(unit, junction.parent, junction.name)

            await parent.run(request, work, durable=True)
        finally:
            self._platform.release(parent)

    async def _forget(self, root: Volume, volume_id: int, request: Request = SYSTEM) -> None:
        """Delete the bytes, then the record that they belong to."""
        await self._platform.audit.removed(volume_id, request)
        record = await self.find(volume_id)
        if record is not None and record.copy:
            await self._platform.storages.remove(record.copy)
        await self._platform.settled(volume_id)
        await self._platform.storages.remove(volume_id)

        async def work(unit: Unit) -> None:
            unit.delete(keys.volume(volume_id))
            self._platform.snapshots.let_go(unit, volume_id)
            start, end = keys.prefix_range(keys.snapshots(volume_id))
            for key, _ in await unit.scan(start, end, limit=SNAPSHOTS_MAX + 1):
                unit.delete(key)

        await root.run(request, work, durable=True)
        self._platform.snapshots.forget_volume(volume_id)

    # ---- after a crash, or an error on the way

    async def run_once(self) -> None:
        """Go on with what a full disk left half done."""
        async with self._lock:
            await self.recover()

    async def recover(self) -> None:
        """Finish or take back what was half done. What damage keeps from that waits for the next
        start, and keeps nobody else from being served."""
        records = await self.readable_records()
        for record in records:
            if record.copy and not record.is_mirror:
                await self._recover_copy(record)
        for record in records:
            if record.phase == VolumePhase.READY:
                await self._platform.mirrors.recover(record)
                continue
            root = await self._platform.acquire(ROOT_VOLUME)
            try:
                await self._recover(root, record, await _still_wanted(root, record))
            except PlatformError as error:
                if error.kind is not ErrorKind.CORRUPT:
                    raise
                log.error("volume %d stays half done: %s", record.volume, error)
            finally:
                self._platform.release(root)

    async def _recover_copy(self, record: VolumeRecord) -> None:
        log.info("volume %d was being restored: recovering", record.volume)
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            request = await _still_wanted(root, record)
            await restore.recover(self._platform, root, record, request)
        except PlatformError as error:
            if record.is_placing:
                self._platform.unplaced.add(record.volume)
            if error.kind is not ErrorKind.CORRUPT:
                raise
            log.error("restoring volume %d stays half done: %s", record.volume, error)
        finally:
            self._platform.release(root)

    async def _recover(self, root: Volume, record: VolumeRecord, request: Request) -> None:
        log.info("volume %d was left in phase %d: recovering", record.volume, record.phase)
        if record.phase == VolumePhase.REMOVING:
            await self._unmount(SYSTEM, record.volume)
            await self._forget(root, record.volume, request)
            return
        parent = await self._platform.acquire(record.parent_volume)
        try:
            junction: Inode | None = await parent.find_inode(record.junction)
        finally:
            self._platform.release(parent)
        if junction is not None and junction.volume == record.volume:
            await self._finish(root, request, record.volume)
        else:
            await self._forget(root, record.volume)


def _pack_request(request: Request) -> list[object]:
    """So that a request which recovery completes is known when it is repeated."""
    if request.session is None:
        return []
    return [
        request.session,
        request.slot,
        request.sequence,
        request.method,
        request.principal.owner,
    ]


def _unpack_request(packed: list[Any]) -> Request:
    """Done by the platform's right, in the name of who asked."""
    *known, owner = packed if len(packed) > _UNNAMED else [*packed, ""]
    principal = Principal(owner, uid=0, is_admin=True) if owner else SYSTEM.principal
    return Request(principal, *known)


_UNNAMED = 4
"""Parts of a packed request from before it said whose it is."""


async def _still_wanted(root: Volume, record: VolumeRecord) -> Request:
    """The request that recovery completes, so that its repetition is answered; the platform's own
    if nobody can repeat it any more."""
    request = _unpack_request(record.request)
    try:
        known, _ = await root.lane.find_reply(request)
    except PlatformError as error:
        log.warning("the request that left volume %d is void: %s", record.volume, error)
        return SYSTEM
    return SYSTEM if known else request


async def _set_mirror(unit: Unit, settings: VolumeSettings) -> None:
    volume = unit.volume
    now = volume.settings
    settings = replace(
        settings,
        encryption=now.encryption,
        history=now.history,
        lineage=now.lineage,
        mirror=now.mirror,
    )
    unit.put(keys.SETTINGS_KEY, settings.pack())
    unit.on_commit(lambda _: setattr(volume, "settings", settings))


async def _record(unit: Unit, volume_id: int) -> VolumeRecord:
    value = await unit.get(keys.volume(volume_id))
    if value is None:
        raise NotFound("no such volume", volume=volume_id)
    return VolumeRecord.unpack(value)


def check_settings(settings: VolumeSettings) -> None:
    if settings.compression not in COMPRESSIONS:
        raise Invalid("unknown compression: use lz4 or none", compression=settings.compression)
    if settings.audit not in trail.MODES:
        raise Invalid("unknown audit: use off, changes or all", audit=settings.audit)
    if settings.audit_ttl_ms and settings.audit_ttl_ms < trail.TTL_MS_MIN:
        raise Invalid("the audit is kept for a day or longer", ttl_ms_min=trail.TTL_MS_MIN)
    change_trims.check_settings(settings)
    check_limits(settings)
