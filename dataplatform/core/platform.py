"""The platform of one server: its volumes under one namespace, and the clients' sessions.

Volumes are opened on demand and closed when idle. A path is walked volume by volume: a junction in
one leads to the root of another (D1). The root volume keeps the list of volumes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator
from typing import NamedTuple

from ..base.clock import Clock, Entropy, SystemClock, SystemEntropy
from ..base.errors import Corrupt, Denied, Invalid, NotFound, PlatformError, Unavailable
from ..base.limits import SYMLINK_FOLLOW_MAX
from ..engine.base import Storage, Storages
from ..engine.readonly import read_only
from ..keyspace.records import (
    ROOT_INODE,
    ROOT_VOLUME,
    Inode,
    Kind,
    VolumeSettings,
)
from . import damages, encryption, paths
from .access.guard import Guard, Search
from .access.verbs import REACH
from .audit.trail import Audit
from .catalog import Catalog
from .clusters import Clusters
from .gathering.gathers import Gathers
from .globalnames import Elsewhere
from .histories import HISTORY_BYTES
from .identities import Identities
from .keys import Masters
from .opens import Opens
from .promises import Keeper, Promises
from .publications.publishing import Publications
from .replication.mirrors import Mirrors
from .replication.pins import Pins
from .snapshot_names import SNAPSHOT_NAME, directory_of_snapshots
from .snapshot_schedules import Schedules
from .snapshot_walk import enter
from .snapshots import Snapshot, Snapshots
from .units import SYSTEM, Request
from .volumes import Volume, create_volume, open_snapshot, open_volume

log = logging.getLogger(__name__)

IDLE_S = 600.0
"""A volume that nobody used for so long is closed; it reopens on demand."""


WITHDRAW_S = 5.0
"""What calls under way have to end when their volume is locked."""

SNAPSHOT_OPENS_S = 0.1

REPLACED_MAX = 100
"""How often a name is looked up again because what it led to went meanwhile."""


class Node(NamedTuple):
    """Something found: its volume, held in use until `Platform.release`, and its inode as a
    reader should see it (buffered writes and statistics included)."""

    volume: Volume
    inode: Inode


class NewName(NamedTuple):
    """Where something is, or could be created: `missing` directories below `directory` come
    first. `inode` is 0 if there is nothing of that name, or if nobody looked."""

    volume: Volume
    directory: int
    missing: tuple[str, ...]
    name: str
    inode: int


IDENTITY_BYTES = 16


def identity_of(root: VolumeSettings) -> bytes:
    """What tells a store from all others. One that was made before there was such a thing is known
    by the moment at which it was made."""
    return root.identity or root.created_ns.to_bytes(IDENTITY_BYTES, "big")


class Platform:
    """All volumes of one server. `await Platform.start(...)` makes one."""

    def __init__(
        self,
        storages: Storages,
        cluster: str,
        clock: Clock,
        entropy: Entropy,
        masters: Masters | None = None,
        *,
        encrypt_root: bool = False,
    ) -> None:
        self.storages = storages
        self.cluster = cluster
        self.clock = clock
        self.entropy = entropy
        self.started_ns = clock.now_ns()
        self.identity = b""  # of what is stored here, whoever serves it
        self.catalog = Catalog(self)
        self.snapshots = Snapshots(self)
        self.schedules = Schedules(self)
        self.identities = Identities(self)
        self.clusters = Clusters(self)
        self.gathers = Gathers(self)
        self.opens = Opens(self)
        self.promises = Promises(clock)
        self.guard = Guard(self)
        self.audit = Audit(self)
        self.guard.on_denied = self.audit.denied
        self.publications = Publications(self)
        self.pins = Pins(self)
        self._volumes: dict[int, Volume] = {}
        self._opening: dict[int, asyncio.Future[None]] = {}
        self.masters = masters if masters is not None else Masters()
        self.mirrors = Mirrors(self)
        self._encrypt_root = encrypt_root
        self.withdrawn: set[int] = set()  # locked: nobody may open them
        self.unplaced: set[int] = set()  # another storage is to take its place: see `restore`
        self._discarded: set[int] = set()  # removed since the start: ids are never used again
        self._closed = False

    @classmethod
    async def start(
        cls,
        storages: Storages,
        *,
        cluster: str = "local",
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        masters: Masters | None = None,
        encrypt_root: bool = False,
    ) -> Platform:
        """Open the root volume, made on the first start, and finish what a crash left half done."""
        platform = cls(
            storages,
            cluster,
            clock or SystemClock(),
            entropy or SystemEntropy(),
            masters,
            encrypt_root=encrypt_root,
        )
        platform.withdrawn |= await platform.catalog.locked()
        await platform.audit.load()
        await platform.catalog.recover()
        root = await platform.acquire(ROOT_VOLUME)
        platform.identity = identity_of(root.settings)
        await platform.identities.load(root)
        await platform.clusters.load(root)
        await platform.gathers.load(root)
        platform.release(root)
        await platform.publications.load()
        return platform

    async def close(self) -> None:
        """Make everything durable and close every volume. Raises the first error, after all."""
        with contextlib.suppress(PlatformError):  # which it has logged; the next start goes on
            await self.audit.run_once()
        await self.mirrors.close()
        self._closed = True
        if self._opening:
            await asyncio.wait(self._opening.values())
        errors = []
        for volume in sorted(self._volumes.values(), key=lambda v: not v.is_snapshot):
            try:
                await self._close(volume)
            except PlatformError as error:
                errors.append(error)
        await self.storages.close()
        if errors:
            raise errors[0]

    # ---- volumes

    @property
    def volumes(self) -> list[Volume]:
        """Those that are open right now."""
        return list(self._volumes.values())

    async def acquire(self, volume_id: int) -> Volume:
        """The volume, opened if need be, in use until `release`. NOT_FOUND."""
        while True:
            volume = self.hold(volume_id)
            if volume is not None:
                return volume
            if self._closed:
                raise Unavailable("the server is shutting down")
            if volume_id in self._discarded:
                raise NotFound("the volume was removed", volume=volume_id)
            if volume_id in self.withdrawn:
                raise encryption.refusal(volume_id)
            if volume_id in self.unplaced and volume_id not in self._opening:
                raise Unavailable("restoring the volume is not done yet", volume=volume_id)
            await self._open(volume_id)

    def hold(self, volume_id: int) -> Volume | None:
        """The volume if it is open, in use until `release`."""
        volume = self._volumes.get(volume_id)
        if volume is None or self._closed or volume_id in self._discarded:
            return None
        if volume_id in self.withdrawn:
            return None
        volume.users += 1
        volume.used_monotonic_s = self.clock.monotonic()
        return volume

    def peek(self, volume_id: int) -> Volume | None:
        """As `hold`, for background work, which does not count as use. None if its lane is broken,
        too."""
        volume = self._volumes.get(volume_id)
        if volume is None or volume.lane.broken is not None or volume_id in self.withdrawn:
            return None
        volume.users += 1
        return volume

    @contextlib.asynccontextmanager
    async def using(self, volume_id: int) -> AsyncIterator[Volume]:
        """The volume, in use meanwhile. NOT_FOUND."""
        volume = await self.acquire(volume_id)
        try:
            yield volume
        finally:
            self.release(volume)

    def release(self, volume: Volume) -> None:
        volume.users -= 1
        assert volume.users >= 0
        if not volume.users:
            volume.unused.set()

    async def _open(self, volume_id: int) -> None:
        """Open it, or wait for whoever opens or closes it right now: look again afterwards."""
        opening = self._opening.get(volume_id)
        if opening is None:
            # A task of its own: whoever asked first may be cancelled, and what a thread has opened
            # by then must not be lost.
            opening = self._opening[volume_id] = asyncio.create_task(self._open_now(volume_id))
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(opening)

    async def _open_now(self, volume_id: int) -> None:
        try:
            snapshot = self.snapshots.find(volume_id)
            if snapshot is not None:
                self._volumes[volume_id] = await self._open_snapshot(snapshot)
                return
            is_root = volume_id == ROOT_VOLUME
            storage = await self.storages.open(volume_id, create=is_root)
            try:
                if is_root:
                    await self._make_root(storage)
                settings = await encryption.stored_settings(storage)
                readable, keyring = await encryption.with_keys(
                    storage, settings, self.masters, self.entropy
                )
                if is_root:
                    await self.snapshots.load(readable.engine)
                volume = await open_volume(
                    volume_id,
                    readable,
                    self.clock,
                    self.entropy,
                    self.promises,
                    self.guard,
                    keyring,
                    self.snapshots.pins(volume_id),
                )
                await self.snapshots.sweep(volume)
            except BaseException:
                await _let_go(storage)
                raise
            self.audit.opened(volume)
            self._volumes[volume_id] = volume
            self.publications.opened(volume)
        except PlatformError as caught:
            error = await damages.name(self, caught, volume_id, 0)
            error.facts.setdefault("volume", volume_id)
            raise error from caught.__cause__
        finally:
            del self._opening[volume_id]

    async def _open_snapshot(self, snapshot: Snapshot) -> Volume:
        """Its source is in use until it is closed."""
        source = await self.acquire(snapshot.volume)
        try:
            storage = await _storage_of(snapshot, source)
            try:
                time_ns = snapshot.record.time_ns
                return await open_snapshot(snapshot.number, storage, source, time_ns)
            except BaseException:
                await _let_go(storage)
                raise
        except BaseException:
            self.release(source)
            raise

    async def _make_root(self, storage: Storage) -> None:
        """On the first start, or after one that was cut short before it stored anything."""
        if await _is_empty(storage):
            settings = VolumeSettings(identity=self.entropy.token(IDENTITY_BYTES))
            if self._encrypt_root:
                settings.encryption = await encryption.new_keys(self.masters, self.entropy)
            await self.make_volume(storage, ROOT_VOLUME, settings)
        elif self._encrypt_root and not (await encryption.stored_settings(storage)).encryption:
            raise Invalid(
                "the root volume was made without encryption, and that cannot be changed: start "
                "without --encrypt-root, or with an empty data directory"
            )

    async def make_volume(
        self, storage: Storage, volume_id: int, settings: VolumeSettings, uid: int = 0, gid: int = 0
    ) -> None:
        """Write what an empty volume with these settings holds; its root is this owner's."""
        settings.history = settings.history or self.entropy.token(HISTORY_BYTES)
        readable, _ = await encryption.with_keys(storage, settings, self.masters, self.entropy)
        await create_volume(readable, volume_id, self.clock.now_ns(), settings, uid, gid)

    async def _close(self, volume: Volume) -> None:
        """Close it; who wants it meanwhile waits, and opens it again."""
        closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opening[volume.id] = closing
        del self._volumes[volume.id]
        try:
            await volume.close()
        finally:
            if volume.source is not None:
                self.release(volume.source)
            self.audit.closed(volume)
            self.publications.closed(volume)
            del self._opening[volume.id]
            closing.set_result(None)

    async def discard(self, volume_id: int) -> None:
        """Close a volume that is going to be removed: nobody opens it from now on, unless it is
        given to `readmit`. UNAVAILABLE while it is in use; what keeps the audit from its last
        changes is raised, and the volume stays."""
        volume = self._volumes.get(volume_id)
        while volume is not None and (snapshots := self._open_snapshots(volume)):
            if not all(snapshot.idle for snapshot in snapshots):
                raise Unavailable("a snapshot of the volume is in use", volume=volume_id)
            await self._close(snapshots[0])
        if volume is not None and (volume.users or volume.opens):
            raise Unavailable("the volume is in use", volume=volume_id)
        self._discarded.add(volume_id)
        self.guard.changed()
        self.promises.forget_volume(volume_id)
        if volume is not None:
            try:
                await self.audit.drain(volume)
            except BaseException:
                self.readmit(volume_id)
                raise
            await self._close(volume)
        self.publications.forget(volume_id)

    async def withdraw(self, volume_id: int) -> None:
        """Let nobody open the volume, and close it: calls under way have a few seconds."""
        self.withdrawn.add(volume_id)
        volume = self._volumes.get(volume_id)
        for snapshot in self._open_snapshots(volume) if volume is not None else ():
            await self._cut_off(snapshot.id)
        await self._cut_off(volume_id)

    async def withdraw_snapshot(self, number: int) -> None:
        """Close a snapshot that is no more: calls under way have a few seconds."""
        self._discarded.add(number)
        try:
            await self._cut_off(number)
        finally:
            self._discarded.discard(number)  # nobody finds it any more

    def _open_snapshots(self, source: Volume) -> list[Volume]:
        return [volume for volume in self._volumes.values() if volume.source is source]

    async def _cut_off(self, volume_id: int) -> None:
        self.guard.changed()
        self.promises.forget_volume(volume_id)
        while (opening := self._opening.get(volume_id)) is not None:
            await asyncio.wait((opening,))
        volume = self._volumes.get(volume_id)
        if volume is None:
            return
        await self._unused(volume)
        with contextlib.suppress(PlatformError):  # then it goes on after the unlocking
            await self.audit.drain(volume)
        self.opens.forget_volume(volume_id)
        if self._volumes.get(volume_id) is volume:
            await self._close(volume)

    async def _unused(self, volume: Volume) -> None:
        """Calls under way have some time to end."""
        volume.partitions.close()  # those who wait for records wait no longer
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAW_S):
                while volume.users:
                    volume.unused.clear()
                    await volume.unused.wait()

    @contextlib.asynccontextmanager
    async def still(self, volume_id: int) -> AsyncIterator[Volume]:
        """The volume, and nobody else in it: calls under way had a few seconds, new ones wait until
        this is over and find what there is then. It is closed in the end, at the latest."""
        volume = await self.acquire(volume_id)
        self.release(volume)
        busy: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opening[volume_id] = busy  # it is open, so nobody else was at it
        del self._volumes[volume_id]
        try:
            volume.partitions.close()  # those who wait for records wait no longer
            volume.changed.notify()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WITHDRAW_S):
                    await self._emptied(volume)
            self.opens.forget_volume(volume_id)
            yield volume
        finally:
            try:
                if not volume.closed:
                    await volume.close()
            finally:
                self.audit.closed(volume)
                self.guard.changed()
                self.promises.replaced(volume_id)
                del self._opening[volume_id]
                busy.set_result(None)

    def close_later(self, volume_id: int, storage: Storage) -> None:
        """Close the storage of a volume that nobody knows yet: RocksDB may take seconds for it
        while another database is being compacted. Who opens the volume waits for that."""

        async def close() -> None:
            try:
                await _let_go(storage)
            finally:
                del self._opening[volume_id]

        self._opening[volume_id] = asyncio.ensure_future(close())

    async def settled(self, volume_id: int) -> None:
        """Nobody opens or closes the volume any more."""
        while (opening := self._opening.get(volume_id)) is not None:
            await asyncio.wait((opening,))

    async def _emptied(self, volume: Volume) -> None:
        """Wait until nobody is in the volume, or in a snapshot of it."""
        while True:
            for snapshot in self._open_snapshots(volume):
                await self._cut_off(snapshot.id)
            if not volume.users:
                return
            volume.unused.clear()
            with contextlib.suppress(TimeoutError):
                # A snapshot that was being opened is not told of.
                async with asyncio.timeout(SNAPSHOT_OPENS_S):
                    await volume.unused.wait()

    @contextlib.asynccontextmanager
    async def aside(self, volume_id: int) -> AsyncIterator[Storage]:
        """The storage, as it is, of a volume that is not open; nobody opens it meanwhile."""
        while (opening := self._opening.get(volume_id)) is not None:
            await asyncio.wait((opening,))
        if volume_id in self._volumes:
            raise Unavailable("the volume is open", volume=volume_id)
        busy: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opening[volume_id] = busy
        try:
            storage = await self.storages.open(volume_id)
            try:
                yield storage
            finally:
                await storage.segments.close()
                await storage.engine.close()
        finally:
            del self._opening[volume_id]
            busy.set_result(None)

    def readmit(self, volume_id: int) -> None:
        """The volume is not going to be removed after all."""
        self._discarded.discard(volume_id)

    # ---- finding

    async def locate(
        self,
        path: str = "",
        volume: int = 0,
        inode: int = 0,
        *,
        follow: bool = True,
        keeper: Keeper | None = None,
        request: Request = SYSTEM,
    ) -> Node:
        """What a path, an inode, or a path relative to an inode names. NOT_FOUND with the path;
        DENIED if the request's principal cannot get there.

        The node's volume is in use until it is given to `release`. What is found is promised to
        the keeper, and so is the directory in which one name was looked for, found or not.
        """
        node = None
        if inode and "/" not in path:
            node = await self._locate_near(path, volume, inode, follow, keeper, request)
        if node is None:
            node = await self._locate(path, volume, inode, follow, keeper, request)
        principal = request.principal
        if not principal.is_free and not self.guard.allows_now(
            principal, node.volume, node.inode, REACH
        ):
            try:
                await node.volume.allow(
                    request.principal,
                    node.inode,
                    REACH,
                    session=request.caller,
                    origin=request.origin,
                )
            except BaseException as error:
                self.release(node.volume)
                if keeper is not None:
                    keeper.denied(volume, inode)
                    keeper.denied(node.volume.id, node.inode.number)
                if isinstance(error, Denied) and path:
                    error.facts.setdefault("path", path)
                raise
        return node

    async def _locate(
        self,
        path: str,
        volume: int,
        inode: int,
        follow: bool,
        keeper: Keeper | None,
        request: Request,
    ) -> Node:
        for _ in range(REPLACED_MAX):
            held, place = await self._walk(
                path, volume, inode, follow=follow, keeper=keeper, request=request
            )
            try:
                if not place.inode:
                    raise NotFound("no such file or directory", path=path)
                if keeper is not None:
                    await self._promise(keeper, held, place.inode)
                found = await held.find(place.inode)
                if found is not None:
                    return Node(held, found)
            except BaseException:
                self.release(held)
                raise
            self.release(held)
            if not place.directory:
                break  # it is not the name that led to something else meanwhile
        raise NotFound("no such file or directory", path=path or None, inode=place.inode)

    async def _locate_near(
        self,
        name: str,
        volume_id: int,
        inode: int,
        follow: bool,
        keeper: Keeper | None,
        request: Request,
    ) -> Node | None:
        """An inode, or one name in a directory: what a mount asks for, in two reads. None if it is
        not that simple, or if it is not there, though the directory is."""
        held = self.hold(volume_id)
        if held is None:
            return None
        if name and (name == SNAPSHOT_NAME or directory_of_snapshots(inode)):
            self.release(held)
            return None
        try:
            if name:
                encoded = paths.check_name(name)
                if keeper is not None:
                    keeper.keep_now(held, inode)
                entry = await held.find_entry(inode, encoded)
                search = self._searcher(held, request)
                if search is not None and not search.is_sure(inode):
                    if entry is None:
                        await search.check(inode, 0, 0)
                    else:
                        await search.check(inode, entry.volume, entry.inode)
                if entry is None:
                    await self._check_directory(held, inode)
                    raise NotFound("no such file or directory", path=name)
                if follow and (entry.volume or entry.kind == Kind.SYMLINK):
                    self.release(held)
                    return None
                inode = entry.inode
            if keeper is not None:
                await self._promise(keeper, held, inode)
            found = await held.find(inode)
        except BaseException as error:
            self.release(held)
            if keeper is not None and isinstance(error, Denied):
                keeper.denied(volume_id, inode)
            raise
        if found is not None:
            return Node(held, found)
        self.release(held)
        return None

    async def _promise(self, keeper: Keeper, volume: Volume, inode: int) -> None:
        if directory_of_snapshots(inode):
            self.promises.keep_directory(keeper, volume, inode)
        else:
            await keeper.keep(volume, inode)

    async def locate_name(
        self,
        path: str = "",
        volume: int = 0,
        inode: int = 0,
        *,
        look: bool = True,
        request: Request = SYSTEM,
    ) -> NewName:
        """Where to create, remove or rename `path`: the directory of its last name, which is not
        followed. The volume is in use until `release`. INVALID for a root.

        Without `look`, one name relative to an inode is not looked up, nor is that directory: a
        unit that works on it finds out itself.
        """
        if inode and path and "/" not in path and not look:
            near = self.hold(volume)
            if near is not None:
                try:
                    paths.check_name(path)
                except BaseException:
                    self.release(near)
                    raise
                return NewName(near, inode, (), path, 0)
        if not path.strip("/"):
            raise Invalid("this is a root: give a path below it", path=path or "/")
        held, place = await self._walk(
            path, volume, inode, follow=False, request=request, is_new=True
        )
        if not place.directory:
            self.release(held)
            raise Invalid("this is the root of a volume, or the name of the cluster", path=path)
        if place.inode:
            return NewName(held, place.directory, (), place.name.decode(), place.inode)
        return NewName(held, place.directory, place.rest[:-1], place.rest[-1], 0)

    async def reach(self, path: str = "", volume: int = 0, inode: int = 0) -> Volume:
        """The last volume that a path leads to, whether or not it leads to anything there. In use
        until `release`. INVALID for what is no path, NOT_FOUND for a volume that is not there."""
        held, _ = await self._walk(path, volume, inode, follow=False, reach=True)
        return held

    async def _walk(
        self,
        path: str,
        volume_id: int,
        inode: int,
        *,
        follow: bool,
        reach: bool = False,
        keeper: Keeper | None = None,
        request: Request = SYSTEM,
        is_new: bool = False,
    ) -> tuple[Volume, paths.Place]:
        """Where a path leads. With `is_new` its last name is taken as it is, `@` or not."""
        if inode and not volume_id:
            raise Invalid("an inode needs its volume", inode=inode)
        names = tuple(paths.split_path(path))
        if not inode:
            names = self._on_this_cluster(names)
        held = await self.acquire(volume_id or ROOT_VOLUME)
        start = inode or ROOT_INODE
        hops = 0
        try:
            if inode and names:
                if keeper is not None and len(names) == 1:
                    self.promises.keep_directory(keeper, held, inode)
                await self._check_directory(held, inode)
            if directory := directory_of_snapshots(inode):
                start, names = directory, (SNAPSHOT_NAME, *names)
            while True:
                place = await paths.walk(
                    held.storage.engine,
                    start,
                    names,
                    follow=follow,
                    search=self._searcher(held, request),
                    junctions=not held.is_snapshot,
                )
                if place.ended:
                    if place.inode or not place.rest:
                        return held, place
                    # A mount's names are those that are there; paths know of snapshots, too.
                    at_names = not inode and not (is_new and len(place.rest) == 1)
                    entered = await enter(self, held, place, at_names=at_names)
                    if entered is None:
                        return held, place
                    self.release(held)
                    held, start, names, place = entered
                    if not names:
                        return held, place
                    continue
                hops += 1
                if hops > SYMLINK_FOLLOW_MAX * 2:
                    raise Invalid(
                        "too many symbolic links on the path", path=path, errno=errno.ELOOP
                    )
                names = self._on_this_cluster(place.rest) if place.absolute else place.rest
                if place.absolute and names and self.clusters.find(names[0]) is not None:
                    raise Elsewhere("/" + "/".join(names))
                if place.above:
                    target, start = await self._above(held)
                else:
                    target, start = await self.acquire(place.volume or ROOT_VOLUME), ROOT_INODE
                self.release(held)
                held = target
        except BaseException as error:
            if reach and isinstance(error, PlatformError):
                return held, paths.Place(0, b"", 0, 0)
            self.release(held)
            if keeper is not None and isinstance(error, Denied):
                keeper.denied(volume_id, inode)
            if isinstance(error, Denied) and path:
                error.facts["path"] = path
            if isinstance(error, NotFound) and path and not isinstance(error, Elsewhere):
                raise NotFound(error.message, path=path, errno=error.os_errno) from error
            raise

    def _searcher(self, volume: Volume, request: Request) -> paths.Search | None:
        """Asks whether the request's principal may look up names. None: it may anywhere."""
        principal = request.principal
        if principal.is_free:
            return None

        return Search(principal, volume, origin=request.origin)

    def _on_this_cluster(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """`/cluster/path` is `/path` on that cluster (D9), so no directory of the root can have the
        cluster's name."""
        return names[1:] if names and names[0] == self.cluster else names

    async def _above(self, volume: Volume) -> tuple[Volume, int]:
        """Where `..` leads from the root of a volume; the platform's root is its own parent. From
        a snapshot's, where it leads from that of its volume."""
        volume = volume.source or volume
        record = await self.catalog.find(volume.id)
        if record is None:
            return await self.acquire(ROOT_VOLUME), ROOT_INODE
        parent = await self.acquire(record.parent_volume)
        junction = await parent.find_inode(record.junction)
        if junction is None:
            self.release(parent)
            raise NotFound("the volume was removed", volume=volume.id)
        return parent, junction.parent

    async def _check_directory(self, volume: Volume, number: int) -> None:
        inode = await volume.find_inode(number)
        if inode is None:
            raise NotFound("the directory is gone", volume=volume.id, inode=number)
        if inode.kind != Kind.DIRECTORY:
            raise NotFound("not a directory", inode=number, errno=20)

    async def describe(self, volume: Volume, number: int, path: str | None = None) -> Inode:
        """The inode as a reader should see it. NOT_FOUND."""
        inode = await volume.find(number)
        if inode is None:
            raise NotFound("no such file or directory", path=path, inode=number)
        return inode

    async def path_of(self, volume: Volume, number: int) -> str:
        """The path from the platform's root of something that has a name."""
        below = await volume.path_of(number)
        above = await self.catalog.mount_path(volume.id)
        return below if above == "/" else above + ("" if below == "/" else below)

    # ---- sessions

    def end_session(self, session: bytes) -> None:
        """The client is gone for good: let go of what it held."""
        self.opens.close_session(session)
        self.promises.leave(session)
        self.pins.end_session(session)

    # ---- background

    async def close_idle(self) -> int:
        """Close volumes that nobody used for a while; how many."""
        now_s = self.clock.monotonic()
        idle = [
            v
            for v in self._volumes.values()
            if v.id != ROOT_VOLUME and v.idle and now_s - v.used_monotonic_s > IDLE_S
        ]
        for volume in idle:
            if volume.idle and self._volumes.get(volume.id) is volume:  # still
                await self._close(volume)
        return len(idle)


async def _storage_of(snapshot: Snapshot, source: Volume) -> Storage:
    try:
        view = await source.storage.engine.open_checkpoint(snapshot.record.checkpoint)
    except NotFound as error:
        raise Corrupt(
            "the snapshot's checkpoint is gone: run dp check", name=snapshot.name
        ) from error
    return read_only(view, source.storage.segments)


async def _let_go(storage: Storage) -> None:
    """Close what was opened and cannot be used, so that it can be opened again."""
    for part in (storage.segments, storage.engine):
        with contextlib.suppress(PlatformError):  # the first error tells more
            await part.close()


async def _is_empty(storage: Storage) -> bool:
    """Whether nothing was ever stored in it."""
    try:
        return not await storage.engine.scan(b"\x00", b"\xff", limit=1)
    except Corrupt:
        return False
