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
from dataclasses import replace
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
from ...keyspace import keys
from ...keyspace.records import (
    ROOT_INODE,
    ROOT_VOLUME,
    ClusterRecord,
    MirrorCursor,
    VolumePhase,
    VolumeRecord,
    VolumeSettings,
)
from .. import histories
from ..access.verbs import REACH
from ..principals import Principal
from ..signals import Signal
from ..units import SYSTEM, Request, Unit
from ..volumes import Volume, why_read_only
from . import links
from .apply import Base, TooLarge, catch_up, check_quota, cursor_of, own_keys, whole
from .asides import Asides
from .incoming import Counts
from .links import Connect, Link, Schedule, check_schedule
from .origins import check_format, check_past, check_source
from .seam import Described, Source
from .statuses import LISTEN_S, Known, Status, status_of

if TYPE_CHECKING:
    from ..platform import NewName, Platform

log = logging.getLogger(__name__)

ASK_S = 5.0
"""Whoever makes a mirror does not wait longer for its source; a mirror has more patience."""

PAUSED_S = 10.0
"""So often a mirror that is paused is looked at."""

STOPPED_S = 0.5
"""Somebody else needs it for himself: it is looked again after so long."""


class Mirrors:
    """All mirrors of one server."""

    def __init__(self, platform: Platform, connect: Connect | None = None) -> None:
        self._platform = platform
        self.connect = connect
        self._mirrors: dict[int, Known] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._asides = Asides(platform, self._lock)
        self.changed = Signal()  # a mirror came
        platform.masters.rewrapping.append(self._protect_anew)
        platform.clusters.on_changed.append(self._clusters_changed)

    # ---- which there are

    async def records(self) -> list[VolumeRecord]:
        found = await self._platform.catalog.readable_records()
        return [r for r in found if r.is_mirror and r.phase == VolumePhase.READY]

    def _of(self, volume_id: int) -> Known:
        known = self._mirrors.get(volume_id)
        if known is None:
            known = self._mirrors[volume_id] = Known()
        return known

    def signal_of(self, volume_id: int) -> Signal:
        """What is set about it has changed: whoever waits for its next turn looks again."""
        return self._of(volume_id).changed

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
        in common with the source, or is in a circle with it. What the schedule does not say stays,
        if it is a mirror already.
        """
        platform = self._platform
        self.check_may(request.principal)
        if at.inode and (made := await self._made(request)):
            return made
        check_schedule(schedule)
        described = await self._ask(link)
        check_quota(settings, described)
        settings.mirror = await links.pack(link, schedule, described, self._platform.masters)
        settings.compression = described.settings.compression
        if at.inode:
            mirror = settings.mirror
            return await self._turn(request, at, described, mirror, schedule, discard=discard)
        volume_id = await platform.catalog.create(
            request, at, settings, encrypt=encrypt, is_mirror=True
        )
        await self._came(volume_id)
        return volume_id

    async def _made(self, request: Request) -> int:
        """The number of the volume that this very request made before; 0 if it made none."""
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            known, number = await root.lane.find_reply(request)
        finally:
            self._platform.release(root)
        return int(number) if known else 0

    def check_may(self, principal: Principal) -> None:
        """DENIED to whoever is no administrator: a mirror shows all that its source has."""
        self._platform.guard.require_admin(principal, "make or change a mirror")

    async def _came(self, volume_id: int) -> None:
        """It is new, or follows another source than before: nothing that is known holds any more,
        and its turn comes at once."""
        old = self._mirrors.pop(volume_id, None)
        if old is not None:
            await self._hang_up(old)
            self._mirrors[volume_id] = Known(old.changed)
            old.changed.notify()
        self.changed.notify()

    async def _ask(self, link: Link) -> Described:
        source = await self._open(link)
        away = {"source": link.words, "cluster": link.cluster or link.address}  # nobody repeats it
        try:
            async with asyncio.timeout(ASK_S):
                described = await source.describe()
        except TimeoutError:
            raise Unavailable("the source does not answer", **away) from None
        except Unavailable as error:
            raise Unavailable(f"the source cannot be reached: {error.message}", **away) from error
        except NotFound as error:
            raise NotFound(error.message, path=link.words) from error
        finally:
            await source.close()
        check_format(described, link)
        if described.path.strip("/") != link.path.strip("/"):
            raise Invalid(
                "the source is no volume: the one that it is in is mounted elsewhere",
                source=link.words,
                volume=described.path,
            )
        return described

    async def _link(self, mirror: dict[str, Any]) -> Link:
        return await links.unpack(mirror, self._platform.masters)

    def _clusters_changed(self) -> None:
        """One was removed, or is reached otherwise: whoever follows it asks anew, at once."""
        for known in self._mirrors.values():
            if known.reached is None:
                continue
            name, record = known.reached
            if self._platform.clusters.find(name) != record:
                if known.task is not None:
                    known.task.cancel()
                known.changed.notify()

    def _cluster(self, mirror: dict[str, Any]) -> tuple[str, ClusterRecord] | None:
        """How the source's cluster is reached; None for an address, or for our own. NOT_FOUND if it
        is known no more: then nothing of it is asked for."""
        name = mirror.get("cluster", "")
        if not name or mirror.get("address") or name == self._platform.cluster:
            return None
        return name, self._platform.clusters.get(name)

    async def _open(self, link: Link) -> Source:
        if self.connect is None:
            raise Unavailable("this server has no way to other clusters")
        return await self.connect(link)

    async def _protect_anew(self) -> int:
        """The master key was rotated."""
        masters, done = self._platform.masters, 0
        for record in await self.records():
            async with self._platform.using(record.volume) as volume:
                token = volume.settings.mirror.get("token") or b""
                if token and not masters.is_protected(token):
                    plain = await masters.reveal(token, links.TOKEN_CONTEXT)
                    await self._change(
                        volume, token=await masters.protect(plain, links.TOKEN_CONTEXT)
                    )
                    done += 1
        return done

    # ---- becoming one again

    async def _turn(
        self,
        request: Request,
        at: NewName,
        described: Described,
        mirror: dict[str, Any],
        schedule: Schedule,
        *,
        discard: bool,
    ) -> int:
        node_volume = await self._root_at(at)
        async with self.quiet(node_volume), self._platform.using(node_volume) as volume:
            await volume.writeback.flush_all()
            mirror = {**mirror, **links.kept(volume.settings.mirror, schedule)}
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

    async def _administered(self, request: Request, volume: Volume) -> None:
        """DENIED to whoever is no administrator; INVALID if it is no mirror."""
        self.check_may(request.principal)
        if not volume.settings.mirror:
            raise Invalid(
                "this volume is no mirror, or has been promoted: it can be written",
                path=await self._platform.catalog.mount_path(volume.id),
            )

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
        await self._administered(request, volume)
        check_schedule(schedule)
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
        await self._administered(request, volume)
        await self._change(volume, paused=True)
        await self.quiesce(volume.id)

    async def resume(self, request: Request, volume: Volume, *, discard: bool = False) -> None:
        """Go on. With `discard`, also behind a source that was put back to an earlier commit: what
        is known here of later ones is given up. CONFLICT, INVALID if they have nothing in
        common."""
        await self._administered(request, volume)
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
        await self._administered(request, volume)
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
        await self._asides.drop(volume.id)
        self._mirrors.pop(volume.id, None)
        return at

    async def check_removable(self, request: Request, volume: Volume) -> None:
        """DENIED, INVALID."""
        await self._administered(request, volume)

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
            if isinstance(error, (Unavailable, Conflict, NotFound)):
                await self._hang_up(known)
            raise
        finally:
            known.task = None

    async def _step(self, volume_id: int, known: Known) -> float | None:
        async with self._platform.using(volume_id) as volume:
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
        self, volume: Volume, known: Known, mirror: dict[str, Any]
    ) -> Callable[[], Awaitable[None]] | None:
        """Ask and catch up. What is returned is to be done once the volume is not in use."""
        reached = self._cluster(mirror)
        if known.source is not None and known.reached != reached:
            await self._hang_up(known)
        if known.source is None:
            known.source, known.reached = await self._open(await self._link(mirror)), reached
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
        check_source(mirror, described, cursor)
        known.heard(described, self._platform.clock.monotonic())
        if cursor is not None and described.commit == cursor.commit:
            return None
        record = await self._platform.catalog.find(volume.id)
        if record is not None and record.copy:
            return lambda: self._asides.make(volume.id, known)
        base = await self._base(volume, cursor)
        if base is None:
            return lambda: self._asides.make(volume.id, known)
        async with await source.pin() as pin:
            described = pin.described
            check_source(mirror, described, cursor)
            await check_past(volume, pin, cursor)
            counts = Counts()
            try:
                await catch_up(volume, pin, base, counts)
            except TooLarge:
                clone = base.since if not base.is_turn else None
                return lambda: self._asides.make(volume.id, known, clone)
            except Stale:
                return lambda: self._asides.make(volume.id, known)
        known.shipped(counts, self._platform.clock.monotonic())
        known.cursor = await cursor_of(volume)
        known.heard(described, self._platform.clock.monotonic())
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

    async def _hang_up(self, known: Known) -> None:
        source, known.source = known.source, None
        if source is not None:
            with contextlib.suppress(PlatformError):
                await source.close()

    async def close(self) -> None:
        """End all rounds and let go of all sources."""
        for volume_id, known in list(self._mirrors.items()):
            await self.quiesce(volume_id)
            await self._hang_up(known)

    def _lock(self, volume_id: int) -> asyncio.Lock:
        """Held while settings of a mirror change, or its storage is replaced."""
        return self._locks.setdefault(volume_id, asyncio.Lock())

    async def recover(self, record: VolumeRecord) -> None:
        """Before a volume is opened for the first time: see `Asides`."""
        await self._asides.recover(record)

    # ---- looking

    async def statuses(self, request: Request = SYSTEM) -> list[Status]:
        """Of all mirrors whose root the request's principal can reach."""
        found = []
        for record in await self.records():
            try:
                async with self._platform.using(record.volume) as volume:
                    guard, principal = self._platform.guard, request.principal
                    if principal.is_free or await guard.may(principal, volume, ROOT_INODE, REACH):
                        found.append(await self.status(volume))
            except PlatformError as error:
                log.warning("a mirror cannot be looked at: %s", error)
        return found

    async def status(self, volume: Volume) -> Status:
        """INVALID if it is no mirror."""
        return await status_of(self._platform, volume, self._of(volume.id))

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


async def _keep_reply(unit: Unit, request: Request, result: int) -> None:
    """So that a retry is answered as the first time, though this is no commit."""
    replies = unit.volume.replies
    await replies.find(request)
    stored = replies.record(request, unit.now_ns, result, unit.writes)
    unit.on_commit(lambda _: replies.remember(request, stored))


def _use(volume: Volume, settings: VolumeSettings) -> None:
    volume.settings = settings
    volume.read_only = why_read_only(settings)
