"""One publication under way: from its cursor on, step by step."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...base.errors import Conflict, Corrupt, Denied, NotFound, PlatformError, Stale
from ...keyspace import keys
from ...keyspace.records import Publication
from .. import appends, change_log, change_texts
from ..access.events import Sight
from ..access.verbs import REACH
from ..change_words import Wanted
from ..changes import Change, Reading
from ..encoding import KeyedLine, batches_of
from ..topics import default_partitions, find_topics
from ..units import SYSTEM, Request, Unit
from . import records

if TYPE_CHECKING:
    from ..platform import Platform
    from ..volumes import Volume

log = logging.getLogger(__name__)

ORIGIN = "publication"
"""Of its commits. What others do comes from a `unix`, `tcp` or `grpc` place."""

LAG_ROWS = 10_000
"""Commits with nothing to tell, behind which the stored cursor may stay: they are read again after
a restart. (Writing it each time would never end where the stream is in the same volume.)"""

SLICE_ROWS = 50
"""So many are looked at, or spelled, at once: others have their turn within some milliseconds."""

STEPS = 4
"""Steps in a run, before other publications have their turn."""

RETRY_S = 1.0
RETRY_S_MAX = 30.0


@dataclass(eq=False, slots=True)
class Job:
    """A publication: as it is stored, and how far it was read meanwhile."""

    home: int  # the stream's volume, where the record stands
    name: str
    record: Publication
    at: int
    place: str
    is_behind: bool = True  # there may be commits to read in a volume that is not open
    waiting: str = ""  # why it cannot go on right now
    retry_s: float = 0.0
    retry_at_s: float = 0.0

    @property
    def key(self) -> bytes:
        return keys.publication(self.name)

    def moved(self, record: Publication) -> None:
        """That is stored now."""
        self.record, self.at, self.place = record, record.commit, record.place

    @property
    def state(self) -> str:
        if self.record.stopped:
            return "stopped"
        return "waiting" if self.waiting else "running"


def job_of(home: int, name: str, record: Publication) -> Job:
    return Job(home, name, record, record.commit, record.place)


class Gone(Exception):
    """There is no stream any more to publish to."""


class Step:
    """Copies for one publication. Raises PlatformError for what keeps it from that, CONFLICT if
    somebody else changed the stored record, and `Gone`."""

    def __init__(self, platform: Platform, job: Job) -> None:
        self._platform = platform
        self._job = job

    async def run(self, source: Volume) -> bool:
        """A bounded piece of work; whether more is left."""
        job = self._job
        try:
            principal = self._platform.identities.stand_in(job.record.by, job.record.grant)
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt("whose publication it is cannot be read: run dp check") from error
        request = Request(principal, origin=ORIGIN)
        inode = await source.find_inode(job.record.inode)
        is_there = inode is not None and inode.links > 0
        if is_there:
            await source.allow(principal, job.record.inode, REACH, origin=ORIGIN)
        last = source.lane.durable_commit
        if job.at >= last and not job.record.lost:
            if not is_there and last == source.state.commit:
                raise NotFound("what was published was removed")
            job.is_behind = False
            return False
        reading = await self._read(source, request, last)
        lines = await self._lines(source, reading)
        if lines or reading.at - job.record.commit >= LAG_ROWS:
            await self._write(request, reading, lines)
        job.at, job.place = reading.at, reading.place
        source.change_holds[job.home, job.name] = job.at
        return job.at < source.lane.durable_commit

    async def _read(self, source: Volume, request: Request, last: int) -> Reading:
        job = self._job
        wanted = Wanted(frozenset(job.record.kinds), frozenset(job.record.events))
        reading = Reading(source, job.at, job.place, Sight(source, request), wanted, ORIGIN)
        rows = await change_log.page(source, job.at, last)
        try:
            for start in range(0, len(rows), SLICE_ROWS):
                await reading.take(rows[start : start + SLICE_ROWS])
                await asyncio.sleep(0)
        except Corrupt:
            if reading.at == job.at:
                raise
        return reading

    async def _lines(self, source: Volume, reading: Reading) -> list[KeyedLine]:
        above = await self._platform.catalog.mount_path(source.id)
        lines: list[KeyedLine] = []
        for number, change in enumerate(reading.found):
            if change.event.verb != "records expired" or not await self._is_own(source, change):
                lines.append(records.line(change, above))
            if number % SLICE_ROWS == SLICE_ROWS - 1:
                await asyncio.sleep(0)
        if self._job.record.lost:
            path = change_texts.path_of(self._job.place, above.rstrip("/"))
            first, last = self._job.record.lost
            lines.insert(0, records.lost_line(first, last, path, source.clock.now_ns()))
        return lines

    async def _is_own(self, source: Volume, change: Change) -> bool:
        """Whether that is the stream's retention, which what is published would set off anew."""
        job = self._job
        if source.id != job.home:
            return False
        return change.event.path == await source.path_of(job.record.stream)

    async def _write(self, request: Request, reading: Reading, lines: list[KeyedLine]) -> None:
        """The records and the cursor that stands for them: one unit."""
        job, record = self._job, self._job.record
        home = await self._platform.acquire(job.home)
        try:
            with home.holds.append():
                parts = await self._parts(home, lines)
                prepared = await appends.prepare(home, parts, stream=record.stream, request=request)
                fresh = replace(
                    record,
                    commit=reading.at,
                    place=reading.place,
                    records=record.records + len(lines),
                    lost=[],
                )

                async def work(unit: Unit) -> None:
                    await check_unchanged(unit, job)
                    if prepared:
                        await appends.append(unit, record.stream, prepared)
                    unit.put(job.key, fresh.pack())
                    unit.on_commit(lambda _: job.moved(fresh))

                try:
                    await home.run(request, work, durable=True)
                except NotFound as error:  # the stream or a partition went just now
                    raise Conflict(error.message, **error.facts) from error
        finally:
            self._platform.release(home)

    async def _parts(self, home: Volume, lines: list[KeyedLine]) -> list[appends.Part]:
        record = self._job.record
        inode = await home.find_inode(record.stream)
        if inode is None or not inode.links:
            raise Gone
        name = record.topic.encode()
        topic = (await find_topics(home.storage.engine, record.stream, [name])).get(name)
        partitions = topic.partitions if topic is not None else default_partitions(inode)
        return [
            appends.Part(record.topic, partition, b"".join(batches_of(some)))
            for partition, some in records.spread(lines, partitions).items()
        ]


async def check_unchanged(unit: Unit, job: Job) -> None:
    """CONFLICT if somebody else has changed the stored record."""
    if await unit.get(job.key) != job.record.pack():
        raise Conflict("the publication was changed meanwhile")


def reason(job: Job, error: PlatformError) -> str:
    """Why a publication stops for good; empty: it is tried again."""
    if isinstance(error, Denied):
        return f"{job.record.by} may not do this any more: {error}"
    if isinstance(error, Stale):
        oldest = error.facts.get("oldest")
        return (
            f"commits {job.at + 1} to {int(oldest or 1) - 1} were trimmed before they were "
            "published: --restart goes on behind them, and says in the topic what is missing"
        )
    if isinstance(error, Corrupt) and "first" in error.facts:
        return (
            f"commits {error.facts['first']} to {error.facts['last']} cannot be read: --restart "
            "goes on behind them, and says in the topic what is missing"
        )
    return str(error) if isinstance(error, NotFound) else ""


async def stop(platform: Platform, job: Job, why: str) -> None:
    """It goes no further, also after a restart of the server, if that can be stored. CONFLICT if
    somebody else has changed the stored record."""
    log.warning("publication to topic %s of volume %d stopped: %s", job.record.topic, job.home, why)
    stopped = replace(job.record, commit=job.at, place=job.place, stopped=why)

    async def work(unit: Unit) -> None:
        await check_unchanged(unit, job)
        unit.put(job.key, stopped.pack())
        unit.on_commit(lambda _: setattr(job, "record", stopped))

    try:
        home = await platform.acquire(job.home)
        try:
            await home.run(SYSTEM, work, durable=True)
        finally:
            platform.release(home)
    except Conflict:
        raise
    except PlatformError as error:
        log.warning("that could not be stored: %s", error)
        job.record = stopped
