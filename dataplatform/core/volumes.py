"""An open volume: one line of commits and everything that is kept in memory beside it.

Whatever lives here is either exact (changed only by commits) or can be thrown away.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Hashable
from typing import Protocol, TypeVar

from ..base.clock import Clock, Entropy, StoppedClock
from ..base.errors import Corrupt, Invalid
from ..engine.base import Storage
from ..engine.ciphers import Keyring
from ..keyspace import keys
from ..keyspace.records import (
    ROOT_INODE,
    DirectoryQuota,
    Entry,
    Inode,
    Kind,
    Statistics,
    VolumeSettings,
    VolumeState,
)
from .access.guard import Guard
from .access.verbs import Verb
from .followers import Followers
from .groups import Coordinator
from .lanes import Lane
from .partitions import Partitions
from .places import Places
from .principals import Principal
from .promises import Promises
from .puts import Puts
from .quotas import Quotas, load_quotas
from .replies import Replies
from .rotations import Rotation
from .segments import Holds, Pins, drop_unknown
from .signals import Signal
from .snapshot_names import SNAPSHOT_NAME, directory_of_snapshots, snapshots_of
from .units import SYSTEM, Request, Unit
from .writeback import Writeback

T = TypeVar("T")


class Paths:
    """Paths of directories, tables and streams, until one of those is renamed or removed."""

    _REMEMBERED = frozenset((Kind.DIRECTORY, Kind.TABLE, Kind.STREAM))
    _MAX = 100_000

    def __init__(self) -> None:
        self._paths: dict[int, str] = {ROOT_INODE: "/"}
        self.cleared = 0  # how often: what was looked up before a clearing is not remembered

    def get(self, number: int) -> str | None:
        return self._paths.get(number)

    def remember(self, number: int, path: str, kind: int) -> None:
        if kind in self._REMEMBERED and len(self._paths) < self._MAX:
            self._paths[number] = path

    def clear(self) -> None:
        self.cleared += 1
        self._paths = {ROOT_INODE: "/"}


def why_read_only(settings: VolumeSettings) -> str:
    """Why a volume with these settings cannot be written; empty: it can be."""
    if settings.mirror:
        return "this is a mirror, which is only read until it is promoted: dp mirror promote"
    return ""


LEASE_S = 60.0
"""After a volume was opened, what was there before is kept so long for clients that still have it
open."""


class Pinned(Protocol):
    """Reads the volume as it was at some commit; it ends when the volume is closed."""

    @property
    def commit(self) -> int: ...

    def drop(self) -> None:
        """Let go, at once."""


class Volume:
    """One open volume. Made by `open_volume`."""

    def __init__(
        self,
        volume_id: int,
        storage: Storage,
        clock: Clock,
        entropy: Entropy,
        state: VolumeState,
        settings: VolumeSettings,
        promises: Promises | None = None,
        guard: Guard | None = None,
        quotas: dict[int, DirectoryQuota] | None = None,
        keyring: Keyring | None = None,
        *,
        read_only: str = "",
        source: Volume | None = None,
        pins: Pins | None = None,
    ) -> None:
        self.id = volume_id
        self.read_only = read_only or why_read_only(settings)
        """Why nothing can be written; empty: it can. Whoever brings a mirror up to date does."""
        self.source = source
        """Of a snapshot: the volume that it is of, which stays open as long as this is."""
        self.storage = storage
        self.clock = clock
        self.entropy = entropy
        self.state = state
        self.settings = settings
        self.opened_monotonic_s = clock.monotonic()
        self._inodes_before = state.next_inode  # those below were there when it was opened
        self.paths = Paths()
        self.quotas = Quotas(self, quotas if quotas is not None else {})
        self.statistics: dict[int, Statistics] = {}  # as committed, of what was written to lately
        self.changed = Signal()  # a commit became durable
        self.followers = Followers(self)
        self.places = Places(self)  # of who reads the change feed
        self.promises = promises if promises is not None else Promises(clock)  # of the whole server
        self.guard = guard if guard is not None else Guard()  # of the whole server
        self.replies = Replies(storage.engine)
        self.lane = Lane(self)
        self.puts = Puts(self)
        self.opens: dict[int, int] = {}  # inode -> how many sessions hold it open
        self.holds = Holds(storage.segments)
        self.snapshot_pins = pins if pins is not None else Pins()  # what its snapshots need
        self.keyring = keyring  # None: the volume is not encrypted
        self.rotation = Rotation()  # of its key
        self.writeback = Writeback(self)
        self.partitions = Partitions(self)
        self.groups = Coordinator(self)
        self.audited_commit: int | None = None
        """Change rows after it are kept for the audit; None: the volume is not audited."""
        self.change_holds: dict[Hashable, int] = {}
        """How far those have read who copy change rows elsewhere: see change_trims."""
        self.audit_stream = 0  # of the root volume, once it is there
        self.views: set[Pinned] = set()  # of mirrors that read it: see core/replication
        self.closed = False
        self.users = 0  # calls under way; see Platform.acquire
        self.unused = asyncio.Event()  # set when they are over
        self.used_monotonic_s = self.opened_monotonic_s

    @property
    def home(self) -> Volume:
        """The volume whose limits count and whose audit is told: a snapshot's is its source."""
        return self if self.source is None else self.source

    @property
    def is_snapshot(self) -> bool:
        return self.source is not None

    def refusal(self) -> Invalid:
        """What whoever writes is told, if nothing can be written."""
        return Invalid(self.read_only, errno=errno.EROFS)

    def may_be_missed(self, number: int) -> bool:
        """Whether a client that had the inode open before the server was restarted may yet come
        back for it."""
        age_s = self.clock.monotonic() - self.opened_monotonic_s
        return number < self._inodes_before and age_s < LEASE_S

    async def run(
        self, request: Request, work: Callable[[Unit], Awaitable[T]], *, durable: bool
    ) -> T:
        """One unit of work; see `Lane.run`."""
        return await self.lane.run(request, work, durable=durable)

    async def run_own(self, work: Callable[[Unit], Awaitable[None]], *, durable: bool) -> None:
        """A unit about what this store alone knows of the volume: segments, keys, settings of a
        mirror. In a mirror it is no commit, as those are the source's."""
        if self.settings.mirror:
            await self.lane.apply(work, durable=durable)
        else:
            await self.lane.run(SYSTEM, work, durable=durable)

    async def allow(
        self,
        principal: Principal,
        thing: Inode | int,
        verb: Verb,
        *,
        session: bytes | None = None,
        code: int = errno.EACCES,
        origin: str = "",
    ) -> None:
        """DENIED unless the principal may; for what is no unit. What the session has open counts.
        See `Guard.allow`."""
        if principal.is_free:
            return
        if isinstance(thing, Inode) and self.guard.allows_now(principal, self, thing, verb):
            return
        await self.guard.allow(
            principal, self, thing, verb, session=session, code=code, origin=origin
        )

    async def find_inode(self, number: int) -> Inode | None:
        """As committed; `writeback` may hold newer times and size of a file."""
        value = await self.storage.engine.get(keys.inode(number))
        if value is None:
            directory = directory_of_snapshots(number)
            return await self._snapshots_of(directory) if directory else None
        inode = Inode.unpack(value)
        if self.source is not None:
            inode.volume = 0
        return inode

    async def _snapshots_of(self, directory: int) -> Inode | None:
        """`.snapshot` in a directory. There is none in a snapshot."""
        inode = await self.find_inode(directory)
        if inode is None or inode.kind != Kind.DIRECTORY or self.is_snapshot:
            return None
        return Inode(
            number=snapshots_of(directory),
            kind=Kind.DIRECTORY,
            mode=inode.mode & 0o555,
            uid=inode.uid,
            gid=inode.gid,
            links=2,
            size=len(self.snapshot_pins.seen_from(directory)),
            atime_ns=inode.birth_ns,
            mtime_ns=inode.birth_ns,
            ctime_ns=inode.birth_ns,
            birth_ns=inode.birth_ns,
            parent=directory,
            name=SNAPSHOT_NAME.encode(),
        )

    async def find(self, number: int) -> Inode | None:
        """As a reader should see it: see `complete`."""
        if directory_of_snapshots(number):
            return await self.find_inode(number)
        inode = await self.writeback.find(number)
        return await self.complete(inode) if inode is not None else None

    async def complete(self, inode: Inode) -> Inode:
        """As a reader should see it: with buffered writes, and statistics of tables and streams."""
        if inode.kind == Kind.FILE:
            return self.writeback.apply(inode)
        if inode.kind in (Kind.TABLE, Kind.STREAM):
            value = await self.storage.engine.get(keys.statistics(inode.number))
            if value is not None:
                statistics = Statistics.unpack(value)
                inode.size = statistics.count
                inode.used_bytes = statistics.size_bytes
                inode.mtime_ns = max(inode.mtime_ns, statistics.mtime_ns)
                inode.version = max(inode.version, statistics.version)
        elif self.source is not None:
            inode.volume = 0
        return inode

    async def find_entry(self, directory: int, name: bytes) -> Entry | None:
        value = await self.storage.engine.get(keys.entry(directory, name))
        if value is None:
            return None
        found = Entry.unpack(value)
        return found._replace(volume=0) if found.volume and self.source is not None else found

    async def path_of(self, number: int) -> str:
        """Path from this volume's root of something that has a name."""
        return await Unit(self, SYSTEM).path_of(number)

    @property
    def idle(self) -> bool:
        return not (self.users or self.opens or self.views or self.groups.active)

    async def sync(self) -> None:
        """Everything acknowledged so far, buffered file writes included, is durable after this."""
        await self.writeback.flush_all()
        await self.lane.durable()

    async def close(self) -> None:
        """Make everything durable and close the storage. Waiting fetches end."""
        self.closed = True
        self.partitions.close()
        for pin in list(self.views):
            pin.drop()
        await self.followers.close()
        try:
            if self.lane.broken is None:
                await self.sync()
        finally:
            await asyncio.shield(self._close_storage())

    async def _close_storage(self) -> None:
        await self.storage.segments.close()
        await self.storage.engine.close()


async def create_volume(
    storage: Storage,
    volume_id: int,
    now_ns: int,
    settings: VolumeSettings,
    uid: int = 0,
    gid: int = 0,
) -> None:
    """Write what an empty volume holds, durably; its root is this owner's. Repeating it after a
    crash is fine."""
    if await storage.engine.get(keys.STATE_KEY) is not None:
        return
    root = Inode(
        number=ROOT_INODE,
        kind=Kind.DIRECTORY,
        mode=0o755,
        uid=uid,
        gid=gid,
        links=2,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        birth_ns=now_ns,
    )
    settings.created_ns = now_ns
    ticket = await storage.engine.commit(
        {
            keys.STATE_KEY: VolumeState().pack(),
            keys.SETTINGS_KEY: settings.pack(),
            keys.inode(ROOT_INODE): root.pack(),
        }
    )
    await storage.engine.durable(ticket)


async def open_volume(
    volume_id: int,
    storage: Storage,
    clock: Clock,
    entropy: Entropy,
    promises: Promises | None = None,
    guard: Guard | None = None,
    keyring: Keyring | None = None,
    pins: Pins | None = None,
) -> Volume:
    """CORRUPT if the storage does not hold a volume."""
    counters, settings = await load_state(storage, volume_id)
    await drop_unknown(storage, pins)
    return Volume(
        volume_id,
        storage,
        clock,
        entropy,
        counters,
        settings,
        promises,
        guard,
        await load_quotas(storage.engine),
        keyring,
        pins=pins,
    )


async def open_snapshot(number: int, storage: Storage, source: Volume, time_ns: int) -> Volume:
    """A snapshot as the volume that it was; time stands still in it. CORRUPT."""
    counters, settings = await load_state(storage, number)
    volume = Volume(
        number,
        storage,
        StoppedClock(source.clock, time_ns),
        source.entropy,
        counters,
        settings,
        source.promises,
        source.guard,
        await load_quotas(storage.engine),
        read_only="this is a snapshot: nothing in it can be changed",
        source=source,
    )
    volume.partitions.close()  # nobody needs to wait for more records
    return volume


async def load_state(storage: Storage, volume_id: int) -> tuple[VolumeState, VolumeSettings]:
    """CORRUPT if the storage does not hold a volume."""
    state, settings = await storage.engine.get_many([keys.STATE_KEY, keys.SETTINGS_KEY])
    if state is None or settings is None:
        raise Corrupt("the volume has no state: it was never finished", volume=volume_id)
    counters = VolumeState.unpack(state)
    if not all(type(n) is int for n in counters.fields()):
        raise Corrupt("the volume's state is damaged: restore it from a copy", volume=volume_id)
    return counters, VolumeSettings.unpack(settings)
