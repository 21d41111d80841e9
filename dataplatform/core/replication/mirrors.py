"""The mirrors of a server: volumes that are filled from a source and only read until promoted.

What a mirror follows stands in its settings, which commit of that it is in its cursor, and that it
is one in its record in the root volume. `step` is one round of its work: ask the source, compare
who it says it is with who it was, and catch up. A source that is not what it was is never followed:
the reason stands in the status, until somebody says what to do.

A promotion is one batch of the mirror's own; it needs no source.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...base.errors import (
    Conflict,
    Exists,
    Invalid,
    NotFound,
    PlatformError,
    Stale,
    Unavailable,
)
from ...engine.base import Storage
from ...keyspace import keys
from ...keyspace.records import (
    ROOT_INODE,
    ROOT_VOLUME,
    CopyCursor,
    MirrorCursor,
    VolumePhase,
    VolumeRecord,
    VolumeSettings,
)
from .. import encryption, histories
from ..access.verbs import REACH
from ..principals import Principal
from ..signals import Signal
from ..units import SYSTEM, Request, Unit
from ..volumes import Volume, open_volume, why_read_only
from . import copying
from .apply import Base, TooLarge, catch_up, check_quota, cursor_of, own_keys, whole
from .incoming import Counts
from .seam import FORMAT, Described, Pin, Source

if TYPE_CHECKING:
    from ..platform import NewName, Platform

log = logging.getLogger(__name__)

TOKEN_CONTEXT = b"token of a mirror"
"""What the protection of a token is bound to. Stored."""

LISTEN_S = 2.0
"""A continuous mirror waits so long at its source for something new, then asks again."""

ASK_S = 5.0
"""Whoever makes a mirror does not wait longer for its source; a mirror has more patience."""

PAUSED_S = 10.0
"""So often a mirror that is paused is looked at."""

EVERY_MS_MAX = 365 * 24 * 3600 * 1000

CHECKPOINT = "mirror-copy"
"""Of the mirror, from which a catch-up aside is cloned."""

STOPPED_S = 0.5
"""Somebody else needs it for himself: it is looked again after so long."""

RATE_S = 10.0
"""Over which the rate is told."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where a source is, and how it is reached."""

    path: str  # there, from its root
    address: str = ""  # grpc://host:port; empty: that of the cluster
    cluster: str = ""  # the name that it must have; empty: any
    token: str = field(default="", repr=False)
    authority: str = ""  # PEM of whom its certificate must be signed by

    @property
    def words(self) -> str:
        """As people write it."""
        return f"{self.address}{self.path}" if self.address else f"/{self.cluster}{self.path}"


def parse_source(text: str, own_cluster: str) -> Link:
    """What people write: /cluster/path, or an address with a path. INVALID."""
    scheme, is_address, rest = text.partition("://")
    if is_address:
        host, slash, path = rest.partition("/")
        if not slash or not host:
            raise Invalid("a source is an address and a path: grpc://host:port/path", source=text)
        return Link(f"/{path.strip('/')}", f"{scheme}://{host}")
    names = [name for name in text.split("/") if name]
    if not text.startswith("/") or len(names) < 1:
        raise Invalid("a source is /CLUSTER/PATH, or an address with a path", source=text)
    return Link("/" + "/".join(names[1:]), cluster=names[0])


def source_words(settings: VolumeSettings) -> str:
    """What a volume with these settings is a mirror of; empty: of nothing."""
    mirror = settings.mirror
    if not mirror:
        return ""
    return Link(mirror["path"], mirror.get("address", ""), mirror.get("cluster", "")).words


Connect = Callable[[Link], Awaitable[Source]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When and how fast a mirror asks. None: as it is."""

    every_ms: int | None = None  # 0: continuously
    bandwidth: int | None = None  # bytes per second; 0: no limit


@dataclass(slots=True)
class Status:
    """Of one mirror, for people."""

    volume: int
    path: str
    source: str
    cluster: str  # the source's name, as it says
    state: str  # copying, current, behind, paused, failing
    commit: int = 0
    source_commit: int = 0
    lag_s: float | None = None  # None: nobody knows
    copied_ns: int = 0
    every_ms: int = 0
    bandwidth: int = 0
    rate: float = 0.0  # bytes per second, lately
    shipped: Counts = field(default_factory=Counts)  # since the server was started
    error: str = ""
    error_ns: int = 0
    copied_bytes: int = 0  # of a copy aside
    total_bytes: int = 0

    @property
    def lag_commits(self) -> int:
        return max(0, self.source_commit - self.commit)


class _Mirror:
    """What is known in memory of one mirror; it may be lost."""

    def __init__(self, changed: Signal | None = None) -> None:
        self.source: Source | None = None
        self.described: Described | None = None
        self.heard_s = 0.0  # when that was
        self.cursor: MirrorCursor | None = None
        self.copy: CopyCursor | None = None
        self.counts = Counts()
        self.error = ""
        self.error_ns = 0
        self.moved: list[tuple[float, int]] = []
        self.task: asyncio.Task[Any] | None = None
        self.changed = changed or Signal()  # somebody set, paused, resumed or promoted it
        self.stopped = False


class Mirrors:
    """All mirrors of one server."""

    def __init__(self, platform: Platform, connect: Connect | None = None) -> None:
        self._platform = platform
        self.connect = connect
        self._mirrors: dict[int, _Mirror] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self.changed = Signal()  # a mirror came
        platform.masters.rewrapping.append(self._protect_anew)

    # ---- which there are

    async def records(self) -> list[VolumeRecord]:
        found = await self._platform.catalog.readable_records()
        return [r for r in found if r.is_mirror and r.phase == VolumePhase.READY]

    def _of(self, volume_id: int) -> _Mirror:
        known = self._mirrors.get(volume_id)
        if known is None:
            known = self._mirrors[volume_id] = _Mirror()
        return known

    def signal_of(self, volume_id: int) -> Signal:
        """What is set about it has changed: whoever waits for its next turn looks again."""
        return self._of(volume_id).changed

    @contextlib.asynccontextmanager
    async def _volume(self, volume_id: int) -> AsyncIterator[Volume]:
        volume = await self._platform.acquire(volume_id)
        try:
            yield volume
        finally:
            self._platform.release(volume)

    # ---- coming

    async def create(
        self,
        request: Request,
        at: NewName,
        link: Link,
        schedule: Schedule,
        settings: VolumeSettings,
        *,
        encrypt: bool = False,
        discard: bool = False,
    ) -> int:
        """A mirror at a new name, or the volume that is there as the mirror of one with which it
        has a past in common; its number. The source is asked first: nothing is made if it cannot
        be reached, is not what it should be, or holds more than the quota allows.

        CONFLICT for an existing volume with commits of its own after the common past, unless
        `discard`: it says how many. EXISTS for what is no volume, INVALID for one that has nothing
        in common with the source, or is in a circle with it.
        """
        platform = self._platform
        self.check_may(request.principal)
        _check_schedule(schedule)
        described = await self._ask(link)
        check_quota(settings, described)
        settings.mirror = await self._pack(link, schedule, described)
        settings.compression = described.settings.compression
        if at.inode:
            return await self._turn(request, at, described, settings.mirror, discard=discard)
        volume_id = await platform.catalog.create(
            request, at, settings, encrypt=encrypt, is_mirror=True
        )
        await self._came(volume_id)
        return volume_id

    def check_may(self, principal: Principal) -> None:
        """DENIED to whoever is no administrator: a mirror shows all that its source has."""
        self._platform.guard.require_admin(principal, "make or change a mirror")

    async def _came(self, volume_id: int) -> None:
        """It is new, or follows another source than before: nothing that is known holds any more,
        and its turn comes at once."""
        old = self._mirrors.pop(volume_id, None)
        if old is not None:
            await self._hang_up(old)
            self._mirrors[volume_id] = _Mirror(old.changed)
            old.changed.notify()
        self.changed.notify()

    async def _ask(self, link: Link) -> Described:
        source = await self._open(link)
        try:
            async with asyncio.timeout(ASK_S):
                described = await source.describe()
        except TimeoutError:
            raise Unavailable("the source does not answer", source=link.words) from None
        finally:
            await source.close()
        _check_format(described, link)
        if described.path.strip("/") != link.path.strip("/"):
            raise Invalid(
                "the source is no volume: the one that it is in is mounted elsewhere",
                source=link.words,
                volume=described.path,
            )
        return described

    async def _open(self, link: Link) -> Source:
        if self.connect is None:
            raise Unavailable("this server has no way to other clusters")
        return await self.connect(link)

    async def _pack(self, link: Link, schedule: Schedule, described: Described) -> dict[str, Any]:
        token = b""
        if link.token:
            token = await self._platform.masters.protect(link.token.encode(), TOKEN_CONTEXT)
        return {
            "path": link.path,
            "address": link.address,
            "cluster": link.cluster,
            "token": token,
            "authority": link.authority,
            "every_ms": schedule.every_ms or 0,
            "bandwidth": schedule.bandwidth or 0,
            "store": described.store,
            "volume": described.volume,
            "name": described.cluster,
        }

    async def _link(self, mirror: dict[str, Any]) -> Link:
        token = mirror.get("token") or b""
        if token:
            token = await self._platform.masters.reveal(token, TOKEN_CONTEXT)
        return Link(
            mirror["path"],
            mirror.get("address", ""),
            mirror.get("cluster", ""),
            bytes(token).decode(),
            mirror.get("authority", ""),
        )

    async def _protect_anew(self) -> int:
        """The master key was rotated."""
        masters, done = self._platform.masters, 0
        for record in await self.records():
            async with self._volume(record.volume) as volume:
                token = volume.settings.mirror.get("token") or b""
                if token and not masters.is_protected(token):
                    plain = await masters.reveal(token, TOKEN_CONTEXT)
                    await self._change(volume, token=await masters.protect(plain, TOKEN_CONTEXT))
                    done += 1
        return done

    # ---- becoming one again

    async def _turn(
        self,
        request: Request,
        at: NewName,
        described: Described,
        mirror: dict[str, Any],
        *,
        discard: bool,
    ) -> int:
        node_volume = await self._root_at(at)
        async with self.quiet(node_volume), self._volume(node_volume) as volume:
            await volume.writeback.flush_all()
            await self._begin_turn(volume, described, mirror, discard=discard)
        await self._mark(node_volume, is_mirror=True)
        await self._came(node_volume)
        return node_volume

    async def _root_at(self, at: NewName) -> int:
        """The volume whose root has this name."""
        inode = await at.volume.find_inode(at.inode)
        if inode is None or not inode.volume:
            raise Exists(
                "the name exists already, and what exists is no volume: give a new name",
                name=at.name,
            )
        return inode.volume

    async def _begin_turn(
        self, volume: Volume, described: Described, mirror: dict[str, Any], *, discard: bool
    ) -> None:
        """The volume is a mirror from here on: read only, and going to be what the source is."""
        if volume.id == ROOT_VOLUME:
            raise Invalid("the root volume cannot be a mirror")
        if (described.store, described.volume) == (self._platform.identity, volume.id):
            raise Invalid("a volume cannot be the mirror of itself")
        mine = volume.settings
        if not mine.mirror and mine.history and mine.history == described.history:
            raise Invalid(
                "the source is a mirror of this volume, that would be a circle: promote it first"
            )

        async def work(unit: Unit) -> None:
            now = volume.settings
            common = histories.last_common(
                now.history,
                now.lineage,
                volume.state.commit,
                described.history,
                described.lineage,
                described.commit,
            )
            if common is None:
                raise Exists(
                    "the volume has no past in common with the source: remove it, or give a new "
                    "name",
                    source=described.path,
                )
            own = volume.state.commit - common
            for snapshot in self._platform.snapshots.of(volume.id):
                if snapshot.record.commit > common:
                    raise Conflict(
                        "a snapshot is of a commit that the source does not have: clone it if you "
                        "need it, then remove it",
                        snapshot=snapshot.name,
                        commit=snapshot.record.commit,
                    )
            if own and not discard:
                raise Conflict(
                    f"the volume has {own} commit{'s' if own > 1 else ''} that the source does not "
                    f"have, after commit {common}: copy what you need of them, then say --discard",
                    commits=own,
                    common=common,
                )
            settings = replace(now, mirror={**mirror, "since": common})
            unit.put(keys.SETTINGS_KEY, settings.pack())
            unit.delete(keys.MIRROR_CURSOR_KEY)
            unit.on_commit(lambda _: _use(volume, settings))

        await whole(volume.lane.apply(work, durable=True))

    async def _mark(self, volume_id: int, *, is_mirror: bool) -> None:
        def change(record: VolumeRecord) -> None:
            record.is_mirror = is_mirror

        await self._platform.catalog.change_record(volume_id, change)

    # ---- what people do

    def _administered(self, request: Request, volume: Volume) -> None:
        """DENIED to whoever is no administrator; INVALID if it is no mirror."""
        self.check_may(request.principal)
        if not volume.settings.mirror:
            raise Invalid("this volume is no mirror", volume=volume.id)

    async def _change(self, volume: Volume, **changed: Any) -> None:
        async def work(unit: Unit) -> None:
            if not volume.settings.mirror:
                raise Conflict("the mirror was promoted meanwhile", volume=volume.id)
            settings = replace(volume.settings, mirror={**volume.settings.mirror, **changed})
            unit.put(keys.SETTINGS_KEY, settings.pack())
            unit.on_commit(lambda _: _use(volume, settings))

        async with self._lock(volume.id):
            await whole(volume.lane.apply(work, durable=True))
        self._of(volume.id).changed.notify()

    async def set(self, request: Request, volume: Volume, schedule: Schedule) -> None:
        self._administered(request, volume)
        _check_schedule(schedule)
        changed = {
            name: value
            for name, value in (
                ("every_ms", schedule.every_ms),
                ("bandwidth", schedule.bandwidth),
            )
            if value is not None
        }
        await self._change(volume, **changed)

    async def pause(self, request: Request, volume: Volume) -> None:
        """It stays the commit that it is. Pausing twice is fine."""
        self._administered(request, volume)
        await self._change(volume, paused=True)
        await self.quiesce(volume.id)

    async def resume(self, request: Request, volume: Volume, *, discard: bool = False) -> None:
        """Go on. With `discard`, also behind a source that was put back to an earlier commit: what
        is known here of later ones is given up. CONFLICT, INVALID if they have nothing in
        common."""
        self._administered(request, volume)
        if discard:
            await self._follow_back(volume)
        self._of(volume.id).error = ""
        await self._change(volume, paused=False)

    async def _follow_back(self, volume: Volume) -> None:
        await self.quiesce(volume.id)
        described = await self._ask(await self._link(volume.settings.mirror))
        mirror = dict(volume.settings.mirror)
        mirror |= {"store": described.store, "volume": described.volume}
        await self._begin_turn(volume, described, mirror, discard=True)

    async def promote(self, request: Request, volume: Volume) -> int:
        """Let the mirror be written: the commit at which its own line begins. It needs no source.
        UNAVAILABLE while it is no whole commit yet."""
        self._administered(request, volume)
        at = volume.state.commit

        async def work(unit: Unit) -> None:
            if not volume.settings.mirror:
                raise Conflict("the mirror was promoted meanwhile", volume=volume.id)
            if await unit.get(keys.MIRROR_CURSOR_KEY) is None:
                raise Unavailable(
                    "the mirror is not yet a commit of its source: dp mirror status shows how far "
                    "it is",
                    volume=volume.id,
                )
            settings = replace(volume.settings, mirror={})
            histories.cut(settings, volume.state.commit, self._platform.entropy)
            unit.put(keys.SETTINGS_KEY, settings.pack())
            unit.delete(keys.MIRROR_CURSOR_KEY)
            await _keep_reply(unit, request, at)
            unit.on_commit(lambda _: _use(volume, settings))

        async def tell(unit: Unit) -> None:
            unit.quiet = True
            unit.event("promoted", "/", "volume", commit=at)
            unit.put(keys.SETTINGS_KEY, volume.settings.pack())

        async with self._lock(volume.id):
            await whole(volume.lane.apply(work, durable=True))
        await volume.run(request.step, tell, durable=True)
        await self.quiesce(volume.id)
        await self._mark(volume.id, is_mirror=False)
        await self._drop_copy(volume.id)
        self._mirrors.pop(volume.id, None)
        return at

    async def check_removable(self, request: Request, volume: Volume) -> None:
        """DENIED, INVALID."""
        self._administered(request, volume)

    async def remove(self, request: Request, volume_id: int) -> None:
        """The mirror with all that it holds; nobody is in it. UNAVAILABLE if somebody is."""
        self.check_may(request.principal)
        await self._platform.catalog.remove(request, volume_id, recursive=True)

    async def quiesce(self, volume_id: int) -> None:
        """End the round that is under way."""
        task = self._of(volume_id).task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait((task,))

    @contextlib.asynccontextmanager
    async def quiet(self, volume_id: int) -> AsyncIterator[None]:
        """No round goes on meanwhile."""
        known = self._of(volume_id)
        known.stopped = True
        try:
            await self.quiesce(volume_id)
            yield
        finally:
            known.stopped = False

    # ---- one round

    async def step(self, volume_id: int) -> float | None:
        """One round of a mirror's work: seconds until the next one, None if there is none to come
        (it was promoted or removed). Errors are the caller's to wait upon: they are in the status.
        """
        known = self._of(volume_id)
        if known.task is not None:
            raise Conflict("the mirror is at work already", volume=volume_id)
        if known.stopped:
            return STOPPED_S
        round_ = known.task = asyncio.ensure_future(self._step(volume_id, known))
        try:
            await asyncio.wait((round_,))
            return 0.0 if round_.cancelled() else round_.result()
        except asyncio.CancelledError:
            round_.cancel()
            await asyncio.wait((round_,))
            raise
        except PlatformError as error:
            known.error, known.error_ns = str(error), self._platform.clock.now_ns()
            if isinstance(error, (Unavailable, Conflict)):
                await self._hang_up(known)
            raise
        finally:
            known.task = None

    async def _step(self, volume_id: int, known: _Mirror) -> float | None:
        async with self._volume(volume_id) as volume:
            mirror = volume.settings.mirror
            if not mirror:
                await self._mark(volume_id, is_mirror=False)
                return None
            known.cursor = await cursor_of(volume)
            if mirror.get("paused"):
                return PAUSED_S
            copy = await self._follow(volume, known, mirror)
            known.error = ""
        if copy is not None:
            await copy()
            known.error = ""
            return 0.0
        return float(mirror.get("every_ms", 0)) / 1000

    async def _follow(
        self, volume: Volume, known: _Mirror, mirror: dict[str, Any]
    ) -> Callable[[], Awaitable[None]] | None:
        """Ask and catch up. What is returned is to be done once the volume is not in use."""
        if known.source is None:
            known.source = await self._open(await self._link(mirror))
        source = known.source
        source.limit(mirror.get("bandwidth", 0))
        cursor = known.cursor
        try:
            if cursor is not None and not mirror.get("every_ms") and not known.error:
                described = await source.describe(cursor.commit + 1, LISTEN_S)
            else:
                described = await source.describe()
        except NotFound as error:
            raise NotFound(
                "there is no such volume at the source any more", reason=error.message
            ) from error
        self._check(volume, described, cursor)
        self._heard(known, described)
        if cursor is not None and described.commit == cursor.commit:
            return None
        record = await self._platform.catalog.find(volume.id)
        if record is not None and record.copy:
            return lambda: self._copy(volume.id, known)
        base = await self._base(volume, cursor)
        if base is None:
            return lambda: self._copy(volume.id, known)
        async with await source.pin() as pin:
            described = pin.described
            self._check(volume, described, cursor)
            await self._check_past(volume, pin, cursor)
            counts = Counts()
            try:
                await catch_up(volume, pin, base, counts)
            except TooLarge:
                clone = base.since if not base.is_turn else None
                return lambda: self._copy(volume.id, known, clone)
            except Stale:
                return lambda: self._copy(volume.id, known)
        self._shipped(known, counts)
        known.cursor = await cursor_of(volume)
        self._heard(known, described)
        return None

    async def _base(self, volume: Volume, cursor: MirrorCursor | None) -> Base | None:
        """From where a catch-up begins; None: all is to be copied."""
        since = volume.settings.mirror.get("since")
        if cursor is not None:
            return Base(cursor.commit)
        if since is None:
            return None
        try:
            return Base(since, await own_keys(volume, since), is_turn=True)
        except (Stale, TooLarge):
            return None

    def _heard(self, known: _Mirror, described: Described) -> None:
        known.described = described
        known.heard_s = self._platform.clock.monotonic()

    def _shipped(self, known: _Mirror, counts: Counts) -> None:
        known.counts.add(counts)
        now_s = self._platform.clock.monotonic()
        known.moved = [m for m in known.moved if m[0] > now_s - RATE_S]
        known.moved.append((now_s, counts.size_bytes))

    async def _hang_up(self, known: _Mirror) -> None:
        source, known.source = known.source, None
        if source is not None:
            with contextlib.suppress(PlatformError):
                await source.close()

    async def close(self) -> None:
        """End all rounds and let go of all sources."""
        for volume_id, known in list(self._mirrors.items()):
            await self.quiesce(volume_id)
            await self._hang_up(known)

    # ---- is it still the same source?

    def _check(self, volume: Volume, described: Described, cursor: MirrorCursor | None) -> None:
        mirror = volume.settings.mirror
        link = Link(mirror["path"], mirror.get("address", ""), mirror.get("cluster", ""))
        _check_format(described, link)
        if described.store != mirror["store"]:
            raise Conflict(
                "another store is behind the source's address than the one that is mirrored: "
                "nothing is taken from it",
                source=link.words,
            )
        if described.volume != mirror["volume"]:
            raise Conflict(
                "the source volume was removed, and another one is at its path now: nothing is "
                "taken from it. Promote the mirror, or remove it and make a new one",
                source=link.words,
            )
        if cursor is None:
            return
        if described.history != cursor.history:
            cuts = dict(described.lineage)
            if cuts.get(cursor.history, -1) < cursor.commit:
                raise Conflict(
                    "the source was put back to an earlier commit than this mirror has (a snapshot "
                    "was restored?): nothing is taken from it. To follow it and give up what is "
                    "newer here: dp mirror resume --discard",
                    commit=cursor.commit,
                    source_commit=described.commit,
                )
        elif described.commit < cursor.commit:
            raise Conflict(
                "the source has fewer commits than this mirror: an older copy of it was put in its "
                "place. Nothing is taken from it. Promote the mirror, or dp mirror resume "
                "--discard",
                commit=cursor.commit,
                source_commit=described.commit,
            )

    async def _check_past(self, volume: Volume, pin: Pin, cursor: MirrorCursor | None) -> None:
        """An older copy of the source, which went on by itself, has other commits with the same
        numbers."""
        if cursor is None or not cursor.commit:
            return
        key = keys.change(cursor.commit)
        mine = await volume.storage.engine.get(key)
        (theirs,) = await pin.values([key])
        if mine is not None and theirs is not None and mine != theirs:
            raise Conflict(
                "the source has another past than this mirror: an older copy of it was put in its "
                "place and went on by itself. Nothing is taken from it. Promote the mirror, or "
                "remove it and make a new one",
                commit=cursor.commit,
            )

    # ---- copies aside

    async def _copy(self, volume_id: int, known: _Mirror, clone: int | None = None) -> None:
        """Make a copy aside, or go on with the one that there is, and put it in the mirror's place.
        With `clone`, one that is made now begins with what the mirror is, which is that commit."""
        source, platform = known.source, self._platform
        assert source is not None, "it was asked before"
        async with await source.pin() as pin:
            async with self._volume(volume_id) as volume:
                if not volume.settings.mirror:
                    return
                cursor = await cursor_of(volume)
                self._check(volume, pin.described, cursor)
                check_quota(volume.settings, pin.described)
                settings = volume.settings
                segment = max(await volume.storage.segments.sizes(), default=0)
                number = await self._aside(volume, clone)
            storage = await platform.storages.open(number, create=True)
            try:
                aside = await self._open_aside(volume_id, storage, settings, pin.described)
                await aside.storage.segments.skip(segment + copying.SEGMENTS_APART)
                await self._fill(aside, known, pin, cursor)
            except Stale:
                await whole(close_storage(storage))
                await whole(self._drop_copy(volume_id))
                raise
            except BaseException:
                await whole(close_storage(storage))
                raise
        await whole(self._put_in_place(aside, number))
        known.copy = known.cursor = None

    async def _aside(self, volume: Volume, clone: int | None) -> int:
        """The storage of the copy: the one that there is, or a new one. A clone that went on
        reading from what it is going to replace would be none: then all is copied."""
        platform = self._platform
        record = await platform.catalog.find(volume.id)
        if record is None:
            raise NotFound("no such volume", volume=volume.id)
        if record.copy in await platform.storages.volumes():
            return record.copy
        number = await platform.catalog.new_number()

        def change(record: VolumeRecord) -> None:
            record.copy = number

        await platform.catalog.change_record(volume.id, change)
        if clone is not None and not platform.storages.clones_refer:
            engine = volume.storage.engine
            await engine.delete_checkpoint(CHECKPOINT)
            await engine.checkpoint(CHECKPOINT)
            try:
                await platform.storages.clone(volume.id, CHECKPOINT, number)
            finally:
                await engine.delete_checkpoint(CHECKPOINT)
        return number

    async def _open_aside(
        self, volume_id: int, storage: Storage, settings: VolumeSettings, described: Described
    ) -> Volume:
        """The storage of a copy as a volume that nobody else knows."""
        platform = self._platform
        is_new = await storage.engine.get(keys.SETTINGS_KEY) is None
        if not is_new:
            settings = await encryption.stored_settings(storage)
        readable, keyring = await encryption.with_keys(
            storage, settings, platform.masters, platform.entropy
        )
        if is_new:
            await copying.begin(readable, settings, described)
        return await open_volume(
            volume_id, readable, platform.clock, platform.entropy, keyring=keyring
        )

    async def _fill(
        self, aside: Volume, known: _Mirror, pin: Pin, cursor: MirrorCursor | None
    ) -> None:
        copied = await copying.find_cursor(aside.storage)
        reached = await cursor_of(aside)
        if copied is None and cursor is not None and reached == cursor:
            await copying.begin_clone(aside.storage, pin.described, cursor.commit)

        def progress(cursor: CopyCursor, counts: Counts) -> None:
            known.copy = replace(cursor)

        copy = copying.Copy(aside, pin, progress)
        try:
            await copy.run()
        finally:
            self._shipped(known, copy.counts)

    async def _put_in_place(self, aside: Volume, number: int) -> None:
        """The copy is whole: from now on it is the mirror."""
        platform, volume_id = self._platform, aside.id
        async with self._lock(volume_id), platform.still(volume_id) as volume:
            try:
                is_mirror = bool(volume.settings.mirror)
                if is_mirror:
                    await copying.settle(aside, volume)
            finally:
                await close_storage(aside.storage)
            if not is_mirror:
                return  # promoted meanwhile, which drops the copy
            await volume.close()
            platform.unplaced.add(volume_id)  # unless all of the following is done
            await platform.catalog.change_record(volume_id, _placing(number))
            await platform.storages.replace(volume_id, number)
            platform.unplaced.discard(volume_id)
        await platform.catalog.change_record(volume_id, _placing(0))

    async def recover(self, record: VolumeRecord) -> None:
        """Before a volume is opened for the first time: end a replacement that was cut short."""
        if not record.is_placing:
            return
        async with self._lock(record.volume):
            now = await self._platform.catalog.find(record.volume)
            if now is None or not now.is_placing:
                return
            with contextlib.suppress(NotFound):  # it was done
                await self._platform.storages.replace(record.volume, record.copy)
            self._platform.unplaced.discard(record.volume)
            await self._platform.catalog.change_record(record.volume, _placing(0))

    async def _drop_copy(self, volume_id: int) -> None:
        record = await self._platform.catalog.find(volume_id)
        if record is not None and record.copy:
            await self._platform.storages.remove(record.copy)
            await self._platform.catalog.change_record(volume_id, _placing(0))

    def _lock(self, volume_id: int) -> asyncio.Lock:
        """Held while settings of a mirror change, or its storage is replaced."""
        return self._locks.setdefault(volume_id, asyncio.Lock())

    # ---- looking

    async def statuses(self, request: Request = SYSTEM) -> list[Status]:
        """Of all mirrors whose root the request's principal can reach."""
        found = []
        for record in await self.records():
            try:
                async with self._volume(record.volume) as volume:
                    guard, principal = self._platform.guard, request.principal
                    if principal.is_free or await guard.may(principal, volume, ROOT_INODE, REACH):
                        found.append(await self.status(volume))
            except PlatformError as error:
                log.warning("a mirror cannot be looked at: %s", error)
        return found

    async def status(self, volume: Volume) -> Status:
        """INVALID if it is no mirror."""
        mirror = volume.settings.mirror
        if not mirror:
            raise Invalid("this volume is no mirror", volume=volume.id)
        known, cursor = self._of(volume.id), await cursor_of(volume)
        link = Link(mirror["path"], mirror.get("address", ""), mirror.get("cluster", ""))
        described = known.described
        status = Status(
            volume.id,
            await self._platform.catalog.mount_path(volume.id),
            link.words,
            described.cluster if described is not None else mirror.get("name", ""),
            "copying",
            commit=cursor.commit if cursor is not None else 0,
            copied_ns=cursor.copied_ns if cursor is not None else 0,
            every_ms=mirror.get("every_ms", 0),
            bandwidth=mirror.get("bandwidth", 0),
            shipped=known.counts,
            error=known.error,
            error_ns=known.error_ns if known.error else 0,
        )
        status.source_commit = described.commit if described is not None else status.commit
        self._add_rate(status, known)
        if known.copy is not None:
            status.copied_bytes = known.copy.size_bytes
            status.total_bytes = max(known.copy.total_bytes, known.copy.size_bytes)
        if cursor is not None and described is not None:
            # By the source's clock up to when it was last heard, by ours from then on.
            heard_s = self._platform.clock.monotonic() - known.heard_s
            is_all = cursor.commit == described.commit and not known.error
            behind_s = 0 if is_all else max(0, described.time_ns - cursor.asked_ns) / 1e9
            is_listening = is_all and not status.every_ms and heard_s < 2 * LISTEN_S
            status.lag_s = 0.0 if is_listening else behind_s + heard_s
        status.state = _state(mirror, known, cursor, status)
        return status

    def behind(self) -> dict[int, tuple[int, bool]]:
        """For metrics: by volume, how many commits a mirror is behind, and whether it fails."""
        return {
            volume: (
                max(0, known.described.commit - known.cursor.commit),
                bool(known.error),
            )
            for volume, known in self._mirrors.items()
            if known.described is not None and known.cursor is not None
        }

    def _add_rate(self, status: Status, known: _Mirror) -> None:
        now_s = self._platform.clock.monotonic()
        lately = [moved for at_s, moved in known.moved if at_s > now_s - RATE_S]
        status.rate = sum(lately) / RATE_S


def _state(
    mirror: dict[str, Any], known: _Mirror, cursor: MirrorCursor | None, status: Status
) -> str:
    if mirror.get("paused"):
        return "paused"
    if known.error:
        return "failing"
    if cursor is None or known.copy is not None:
        return "copying"
    return "behind" if status.lag_commits else "current"


def _placing(number: int) -> Callable[[VolumeRecord], None]:
    """In a mirror's record: this copy is taking its place; 0: there is no copy any more."""

    def change(record: VolumeRecord) -> None:
        record.copy, record.is_placing = number, bool(number)

    return change


async def _keep_reply(unit: Unit, request: Request, result: int) -> None:
    """So that a retry is answered as the first time, though this is no commit."""
    replies = unit.volume.replies
    await replies.find(request)
    stored = replies.record(request, unit.now_ns, result, unit.writes)
    unit.on_commit(lambda _: replies.remember(request, stored))


def _use(volume: Volume, settings: VolumeSettings) -> None:
    volume.settings = settings
    volume.read_only = why_read_only(settings)


async def close_storage(storage: Storage) -> None:
    for part in (storage.segments, storage.engine):
        with contextlib.suppress(PlatformError):
            await part.close()


def _check_format(described: Described, link: Link) -> None:
    if described.format > FORMAT:
        raise Invalid(
            "the source's server is newer than this one: upgrade this one first",
            format=described.format,
            known=FORMAT,
        )
    if link.cluster and described.cluster != link.cluster:
        raise Invalid(
            "another cluster is behind that address than its name says",
            expected=link.cluster,
            found=described.cluster,
        )


def _check_schedule(schedule: Schedule) -> None:
    if schedule.every_ms is not None and not 0 <= schedule.every_ms <= EVERY_MS_MAX:
        raise Invalid("a mirror asks at least once a year", every_ms=schedule.every_ms)
    if schedule.bandwidth is not None and not 0 <= schedule.bandwidth < 1 << 63:
        raise Invalid("the bandwidth is not possible", bandwidth=schedule.bandwidth)
