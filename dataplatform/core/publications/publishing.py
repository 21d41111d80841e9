"""All publications of a platform: begun, ended, listed, and run in the background.

They are in memory, as stored. `opened` has those of a volume read again whenever it is opened: it
may come from a copy. A volume that may hold some is marked in the root volume's list, and is opened
at the start for that.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from ...base.errors import (
    Conflict,
    Corrupt,
    Exhausted,
    Exists,
    Invalid,
    NotFound,
    PlatformError,
    Stale,
    Unavailable,
)
from ...engine.base import scan_all
from ...keyspace import keys
from ...keyspace.records import ROOT_VOLUME, Kind, Publication, VolumePhase, VolumeRecord
from .. import appends, change_log, change_texts
from ..access.verbs import REACH, Verb
from ..change_words import Wanted
from ..check.picture import read_record
from ..places import is_at_or_below
from ..topics import (
    add_topic,
    check_topic_name,
    default_partitions,
    find_topics,
    label,
    writable_stream_of,
)
from ..units import SYSTEM, Request, Unit
from .jobs import RETRY_S, RETRY_S_MAX, STEPS, Gone, Job, Step, job_of, reason, stop

if TYPE_CHECKING:
    from ..platform import Node, Platform
    from ..volumes import Volume

log = logging.getLogger(__name__)

PUBLICATIONS_MAX = 100
"""Of one volume: each of them reads all that is committed in what it publishes."""

Names = tuple[int, str]
"""The stream's volume, and the name in the record's key."""


class Listed(NamedTuple):
    """A publication as its users see it."""

    path: str
    stream: str
    topic: str
    commit: int
    behind: int
    by: str
    created_ns: int
    state: str
    reason: str
    kinds: list[str]
    events: list[str]
    records: int


class Publications:
    """See the module's text."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._jobs: dict[Names, Job] = {}
        self._unread: set[int] = set()
        self._watched: set[int] = set()
        self._running = asyncio.Lock()
        self.woken = asyncio.Event()
        """Set when there may be something to do."""

    # ---- which there are

    async def load(self) -> None:
        """At the start."""
        root = await self._platform.acquire(ROOT_VOLUME)
        marked = []
        try:
            start, end = keys.prefix_range(keys.VOLUME)
            async for _, value in scan_all(root.storage.engine, start, end):
                try:
                    record = VolumeRecord.unpack(value)
                except Corrupt:
                    continue  # the check says so
                if record.publishes and record.phase == VolumePhase.READY:
                    marked.append(record.volume)
        finally:
            self._platform.release(root)
        for volume_id in (ROOT_VOLUME, *marked):
            if volume_id in self._platform.withdrawn:
                continue  # it is read when it is opened again
            try:
                volume = await self._platform.acquire(volume_id)
            except PlatformError as error:
                log.error("publications in volume %d do not run: %s", volume_id, error)
                continue
            try:
                await self._read(volume)
            finally:
                self._platform.release(volume)

    def opened(self, volume: Volume) -> None:
        """A volume was opened: it may hold publications, and others may read its change rows."""
        if not volume.read_only:
            self._unread.add(volume.id)
            self.woken.set()
        for name, job in self._jobs.items():
            if job.record.volume == volume.id and not job.record.stopped:
                volume.change_holds[name] = job.at

    def closed(self, volume: Volume) -> None:
        """A volume was closed: if there is something left to copy, it is opened again for that."""
        self._watched.discard(volume.id)
        for job in self._jobs.values():
            if job.record.volume == volume.id and job.at < volume.state.commit:
                job.is_behind = True
                self.woken.set()

    def forget(self, volume_id: int) -> None:
        """A volume is going to be removed, with the publications that stand in it."""
        for name in [name for name in self._jobs if name[0] == volume_id]:
            self._drop(name)

    def _home(self, volume_id: int) -> bytes:
        return self._platform.identity + volume_id.to_bytes(8, "big")

    async def _read_in(self) -> None:
        """Those of volumes that were opened or changed: what was closed again is read next time."""
        while self._unread:
            volume = self._platform.peek(self._unread.pop())
            if volume is not None:
                try:
                    await self._read(volume)
                finally:
                    self._platform.release(volume)

    async def _read(self, volume: Volume) -> None:
        """As it is stored at a moment at which nobody changes it."""
        async with volume.lane.between():
            found: dict[Names, Publication] = {}
            start, end = keys.prefix_range(keys.PUBLICATION)
            async for key, value in scan_all(volume.storage.engine, start, end):
                try:
                    record = read_record(Publication, value)
                except Corrupt as error:
                    log.error(
                        "a publication in volume %d is damaged: run dp check: %s", volume.id, error
                    )
                    continue
                if record.home == self._home(volume.id):
                    found[volume.id, key[1:].decode("utf-8", "replace")] = record
            for name in [n for n in self._jobs if n[0] == volume.id and n not in found]:
                self._drop(name)
            for name, record in found.items():
                known = self._jobs.get(name)
                if known is None or known.record != record:
                    self._put(name, record)

    def _put(self, name: Names, record: Publication) -> None:
        self._jobs[name] = job_of(*name, record)
        self._hold(name, record)
        self.woken.set()

    def _drop(self, name: Names) -> None:
        record = self._jobs.pop(name).record
        self._let_go(name, record)

    def _hold(self, name: Names, record: Publication) -> None:
        """Change rows that are not copied yet stay, as long as somebody is going to copy them."""
        for volume in self._platform.volumes:
            if volume.id == record.volume:
                volume.change_holds[name] = record.commit
        if record.stopped:
            self._let_go(name, record)

    def _let_go(self, name: Names, record: Publication) -> None:
        for volume in self._platform.volumes:
            if volume.id == record.volume:
                volume.change_holds.pop(name, None)

    # ---- begun and ended

    async def publish(
        self,
        request: Request,
        source: Node,
        stream: Node,
        topic: str,
        wanted: Wanted,
        since: int | None = None,
        *,
        restart: bool = False,
    ) -> Listed:
        """Copy what is committed after `since` (None: from now on) at or below `source` to a topic,
        which is made if it is not there; the publication as it begins.

        EXISTS if it is there already; with `restart` it goes on, by the right of who asks now,
        where it stopped, or behind what was trimmed meanwhile. STALE for a `since` that is.
        """
        check_topic_name(topic)
        volume, home = source.volume, stream.volume
        identities = self._platform.identities
        grant = identities.grant_of(request.principal)
        stand_in = identities.stand_in(request.principal.name, grant)
        await volume.allow(stand_in, source.inode, REACH, origin=request.origin)
        await home.allow(stand_in, stream.inode.number, Verb.PRODUCE, origin=request.origin)
        of = await self._platform.path_of(volume, source.inode.number)
        to = await self._platform.path_of(home, stream.inode.number)
        place, commit = await _begin(volume, source.inode.number, since)
        name = f"{stream.inode.number}:{topic}:{volume.id}:{source.inode.number}"
        known = self._jobs.get((home.id, name))
        at = await _resumed(volume, known.record) if known is not None and since is None else None
        await self._mark(home.id)

        async def work(unit: Unit) -> Listed:
            inode = await writable_stream_of(unit, stream.inode.number)
            await unit.allow(inode, Verb.PRODUCE)
            stored = await unit.get(keys.publication(name))
            old = Publication.unpack(stored) if stored is not None else None
            if old is not None and old.home != self._home(home.id):
                old = None
            begin = place, commit
            if since is None and volume is home:  # behind what the unit itself says
                begin = await unit.path_of(source.inode.number), unit.commit
            record = Publication(
                *(volume.id, source.inode.number, inode.number, topic, begin[1]),
                by=request.principal.name,
                created_ns=unit.now_ns,
                place=begin[0],
                home=self._home(home.id),
                grant=grant,
                kinds=sorted(wanted.kinds),
                events=sorted(wanted.events),
            )
            if old is None:
                await _check_room(unit)
            elif not restart:
                raise Exists("that is published there already", path=of, topic=label(to, topic))
            else:
                record.created_ns, record.records = old.created_ns, old.records
                if since is None:
                    if known is None or known.record != old or at is None:
                        raise Conflict("the publication was changed meanwhile: try again")
                    record.commit, record.place, record.lost = at
            encoded = topic.encode()
            if encoded not in await find_topics(unit, inode.number, [encoded]):
                await appends.check_new_topic(unit, inode)
                await add_topic(unit, inode, encoded, default_partitions(inode))
            unit.put(keys.publication(name), record.pack())
            stream_path = await unit.path_of(inode.number)
            unit.event("changes published", stream_path, Kind.STREAM, topic=topic, of=of)
            unit.on_commit(lambda _: self._put((home.id, name), record))
            return Listed(
                *(of, to, topic, record.commit, 0, record.by, record.created_ns, "running", ""),
                *(record.kinds, record.events, record.records),
            )

        return Listed(*await home.run(request, work, durable=True))

    async def _mark(self, volume_id: int) -> None:
        """The volume may hold publications: it is opened at the start."""
        if volume_id == ROOT_VOLUME:
            return
        record = await self._platform.catalog.find(volume_id)
        if record is None or record.publishes:
            return

        async def work(unit: Unit) -> None:
            value = await unit.get(keys.volume(volume_id))
            if value is not None:
                record = VolumeRecord.unpack(value)
                record.publishes = True
                unit.put(keys.volume(volume_id), record.pack())

        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            await root.run(SYSTEM, work, durable=True)
        finally:
            self._platform.release(root)

    async def unpublish(self, request: Request, stream: Node, topic: str, path: str = "") -> None:
        """End what is published to a topic: of `path`, or whatever is. What was written stays.

        For whoever began it, and for whoever has `admin` of the stream (else DENIED). NOT_FOUND if
        there is none, INVALID if there are several and no path.
        """
        home, number = stream.volume, stream.inode.number
        known, _ = await home.lane.find_reply(request)
        if known:
            return  # it was done
        found = [
            job
            for job in self._jobs.values()
            if (job.home, job.record.stream, job.record.topic) == (home.id, number, topic)
            and (not path or await self._path(job) == (path.rstrip("/") or "/"))
        ]
        is_own = found and all(job.record.by == request.principal.name for job in found)
        if not is_own:
            await home.allow(request.principal, number, Verb.ADMIN, origin=request.origin)
        if not found:
            raise NotFound("nothing is published there", topic=topic, path=path or None)
        if len(found) > 1:
            several = ", ".join([await self._path(job) for job in found])
            raise Invalid("several are published there: say which", topic=topic, paths=several)
        (job,) = found

        async def work(unit: Unit) -> None:
            unit.delete(job.key)
            stream_path, of = await unit.path_of(number), await self._path(job)
            unit.event("changes unpublished", stream_path, Kind.STREAM, topic=topic, of=of)
            unit.on_commit(lambda _: self._drop((job.home, job.name)))

        await home.run(request, work, durable=True)

    # ---- looked at

    async def listed(self, request: Request, below: str = "/") -> list[Listed]:
        """Those of what is at or below a path, or to streams there, that the principal began or
        whose stream it has `admin` of."""
        found = []
        for job in list(self._jobs.values()):
            listed = await self._listed(request, job)
            if listed is not None and (
                is_at_or_below(listed.path, below) or is_at_or_below(listed.stream, below)
            ):
                found.append(listed)
        return sorted(found)

    async def _listed(self, request: Request, job: Job) -> Listed | None:
        record, principal = job.record, request.principal
        is_own = record.by == principal.name and not principal.roots
        try:
            home = await self._platform.acquire(job.home)
        except PlatformError:
            return None
        try:
            if not is_own and not await home.guard.may(principal, home, record.stream, Verb.ADMIN):
                return None
            stream = await self._platform.path_of(home, record.stream)
        except NotFound:
            return None
        finally:
            self._platform.release(home)
        return Listed(
            await self._path(job),
            stream,
            record.topic,
            job.at,
            self._behind(job),
            record.by,
            record.created_ns,
            job.state,
            record.stopped or job.waiting,
            record.kinds,
            record.events,
            record.records,
        )

    async def _path(self, job: Job) -> str:
        """Where what is published stood when the last of it was read."""
        try:
            above = await self._platform.catalog.mount_path(job.record.volume)
        except NotFound:
            above = ""
        return change_texts.path_of(job.place, above.rstrip("/"))

    def _behind(self, job: Job) -> int:
        for volume in self._platform.volumes:
            if volume.id == job.record.volume:
                return max(0, volume.lane.durable_commit - job.at)
        return 0

    # ---- run

    async def run_once(self) -> None:
        """Copy what there is, a bounded piece of each; `woken` is set again if more is left."""
        async with self._running:
            if self._unread:
                await self._read_in()
            jobs = [job for job in self._jobs.values() if not job.record.stopped]
            for volume in self._platform.volumes:
                if volume.id not in self._watched and any(
                    job.record.volume == volume.id for job in jobs
                ):
                    self._watch(volume)
            now_s = self._platform.clock.monotonic()
            due = [job for job in jobs if not job.waiting or now_s >= job.retry_at_s]
            left = await asyncio.gather(*(self._run(job) for job in due))
            if any(left):
                self.woken.set()

    def _watch(self, volume: Volume) -> None:
        def changed() -> None:
            self._watched.discard(volume.id)
            self.woken.set()

        self._watched.add(volume.id)
        volume.changed.call_once(changed)

    async def _run(self, job: Job) -> bool:
        """Whether more is left. An error is this publication's alone."""
        try:
            source = await self._source(job)
            if source is None:
                return False
            try:
                step = Step(self._platform, job)
                for _ in range(STEPS):
                    if not await step.run(source):
                        break
                else:
                    return True
            finally:
                self._platform.release(source)
        except Gone:
            await self._end(job)
        except Conflict:
            self._unread.add(job.home)
            return True
        except PlatformError as error:
            await self._failed(job, error)
        else:
            job.waiting, job.retry_s = "", 0.0
        return False

    async def _source(self, job: Job) -> Volume | None:
        """The volume of what is published, in use until `release`, if there may be something to
        read."""
        volume = self._platform.peek(job.record.volume)
        if volume is not None or not job.is_behind:
            return volume
        if job.record.volume in self._platform.withdrawn:
            raise Unavailable("the volume is locked", volume=job.record.volume)
        return await self._platform.acquire(job.record.volume)

    async def _failed(self, job: Job, error: PlatformError) -> None:
        is_locked = {job.home, job.record.volume} & self._platform.withdrawn
        why = "" if is_locked else reason(job, error)
        if why:
            try:
                await stop(self._platform, job, why)
            except Conflict:
                self._unread.add(job.home)
            self._let_go((job.home, job.name), job.record)
            return
        if not job.waiting:
            log.warning("publication to topic %s has to wait: %s", job.record.topic, error)
        job.waiting = str(error)
        job.retry_s = min(max(RETRY_S, job.retry_s * 2), RETRY_S_MAX)
        job.retry_at_s = self._platform.clock.monotonic() + job.retry_s

    async def _end(self, job: Job) -> None:
        """The stream was removed, and so is the publication."""

        async def work(unit: Unit) -> None:
            unit.delete(job.key)
            unit.on_commit(lambda _: self._drop((job.home, job.name)))

        try:
            home = await self._platform.acquire(job.home)
            try:
                await home.run(SYSTEM, work, durable=True)
            finally:
                self._platform.release(home)
        except PlatformError as error:
            await self._failed(job, error)


async def _begin(volume: Volume, number: int, since: int | None) -> tuple[str, int]:
    """Where a thing stands, and the commit to begin from."""
    if since is None:
        path, commit = await volume.places.now(number)
        if path is None:
            raise NotFound("it was removed just now", inode=number)
        return path, commit
    if since > volume.state.commit:
        raise Invalid("there is no such commit yet", since=since, last=volume.state.commit)
    oldest = volume.state.oldest_change
    if since and since + 1 < oldest:
        raise change_log.stale(volume, since)
    commit = max(since, oldest - 1)
    place = await volume.places.find(number, commit)
    if place is None:
        raise NotFound("it was removed just now", inode=number)
    return place.path, commit


async def _resumed(volume: Volume, record: Publication) -> tuple[int, str, list[int]]:
    """Where a publication can go on: commit, place, and which commits nobody can read any more."""
    try:
        end = volume.lane.durable_commit
        for _, value in await change_log.page(volume, record.commit, end, limit=1):
            change_log.unpacked(value, record.commit + 1, volume)
        return record.commit, record.place, record.lost
    except Corrupt as error:
        if "last" not in error.facts:
            raise
        last = int(error.facts["last"])
    except Stale:
        last = volume.state.oldest_change - 1
    place = await volume.places.find(record.inode, last)
    lost = [record.commit + 1, last]
    return last, place.path if place is not None else record.place, lost


async def _check_room(unit: Unit) -> None:
    start, end = keys.prefix_range(keys.PUBLICATION)
    if len(await unit.scan(start, end, limit=PUBLICATIONS_MAX)) >= PUBLICATIONS_MAX:
        raise Exhausted(
            "too many publications to streams of one volume", publications_max=PUBLICATIONS_MAX
        )
