"""A task for each source of each gathering: ask, fetch, append, from where the cursor is.

What a source answers is looked at after every fetch: records of a stream or topic that is not the
one whose offsets are known are not taken. A cluster that is away is asked again after a pause that
grows. What lies in memory is bounded, however many sources there are.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import (
    Conflict,
    Corrupt,
    ErrorKind,
    Invalid,
    NotFound,
    PlatformError,
    Stale,
)
from dataplatform.base.limits import MIB
from dataplatform.client.connection import Channel
from dataplatform.core.gathering.gathers import Fetched, Flow, Identity
from dataplatform.core.platform import Platform
from dataplatform.keyspace.records import GatherCursor

logger = logging.getLogger(__name__)

WAIT_S = 5.0
"""Of one fetch for a source that has nothing new."""

FETCHED_BYTES = 64 * MIB
"""Asked for by all sources together."""

FETCH_BYTES_MAX, FETCH_BYTES_MIN = 1 * MIB, 64 * 1024

APPENDS = 4
"""Under way at a time: while one waits for the disk, others are made ready."""

FLOWS_OF_LINK = 32
"""Sources that share a connection."""

PAUSE_S, PAUSE_S_MAX = 0.2, 30.0

_TOPICS = METHODS["Streams.Topics"]
_FETCH = METHODS["Streams.Fetch"]

Links = Callable[[str, bytes], Awaitable[Channel]]
"""(cluster, session) to a way there. UNAVAILABLE, DENIED."""


class Stopped(Exception):
    """Why a source is not followed any more."""


class Collector:
    """All gatherings of a server."""

    def __init__(self, platform: Platform, links: Links) -> None:
        self._platform = platform
        self._gathers = platform.gathers
        self._links = links
        self._flows: dict[str, list[Flow]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._restarting: set[str] = set()
        self._known: dict[str, object] = {}
        self._appends = asyncio.Semaphore(APPENDS)
        self._sessions: dict[tuple[str, int], bytes] = {}

    def start(self) -> None:
        self._gathers.changed.append(self._changed)
        self._changed()

    async def stop(self) -> None:
        if self._changed in self._gathers.changed:
            self._gathers.changed.remove(self._changed)
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def flows(self, name: str) -> list[Flow]:
        """How far each source is; none while that is not known."""
        return self._flows.get(name, [])

    def _changed(self) -> None:
        for name in {*self._tasks, *self._gathers.names}:
            record = self._gathers.find(name)
            if record is self._known.get(name) and name in self._tasks:
                continue
            task = self._tasks.pop(name, None)
            if task is not None:
                task.cancel()
            self._known[name] = record
            if record is None:
                self._flows.pop(name, None)
                del self._known[name]
            else:
                run = self._run(name, task, is_paused=record.is_paused)
                self._tasks[name] = asyncio.create_task(run, name=f"gathering {name}")

    async def _run(self, name: str, before: asyncio.Task[None] | None, *, is_paused: bool) -> None:
        """Follow all sources of one gathering, when the tasks of before have ended."""
        if before is not None:
            await asyncio.wait((before,))
        pause_s = PAUSE_S
        while True:
            try:
                flows = self._flows[name] = await self._gathers.flows(name)
                break
            except PlatformError as error:
                logger.warning("a gathering has to wait. reason=`%s`", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
        if is_paused:
            for flow in flows:
                flow.waiting = "paused"
            return
        async with asyncio.TaskGroup() as group:
            for number, flow in enumerate(flows):
                group.create_task(self._follow(flow, number // FLOWS_OF_LINK, len(flows)))

    async def _follow(self, flow: Flow, group: int, count: int) -> None:
        pause_s = PAUSE_S
        while not flow.cursor.stopped:
            try:
                await self._step(flow, group, count)
                flow.waiting, pause_s = "", PAUSE_S
                continue
            except Stopped as stopped:
                await self._stop(flow, str(stopped))
                continue
            except Conflict:
                if not await self._look_again(flow):
                    return
            except NotFound as error:
                if self._gathers.find(flow.gather) is None:
                    return
                flow.waiting = str(error)
            except PlatformError as error:
                flow.waiting = str(error)
            except Exception as error:
                logger.exception("a source cannot be gathered. source=`%s`", flow.source)
                flow.waiting = f"the server failed: {type(error).__name__}"
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _look_again(self, flow: Flow) -> bool:
        """Take the cursor as it is stored; False if the gathering has ended."""
        if self._gathers.find(flow.gather) is None:
            return False
        for stored in await self._gathers.flows(flow.gather):
            if stored.source == flow.source:
                flow.cursor = stored.cursor
                return True
        return False

    async def _stop(self, flow: Flow, why: str) -> None:
        logger.warning("a source is not gathered any more. source=`%s`, why=`%s`", flow.source, why)
        try:
            await self._gathers.move(flow, replace(flow.cursor, stopped=why), ())
        except PlatformError as error:
            flow.waiting = f"{why} (that could not be stored: {error})"
            await asyncio.sleep(PAUSE_S_MAX)

    # ---- one step

    async def _step(self, flow: Flow, group: int, count: int) -> None:
        """Fetch once, and take in what came. `Stopped`, or whatever keeps us from it."""
        link = await self._link(flow, group)
        cursor = await self._look(flow, link)
        request = pb.FetchRequest(
            stream=pb.Target(volume=cursor.volume, inode=cursor.inode),
            parts=[
                pb.FetchRequest.Part(topic=flow.source.topic, partition=number, offset=offset)
                for number, offset in enumerate(cursor.offsets)
            ],
            size_bytes=max(FETCH_BYTES_MIN, min(FETCH_BYTES_MAX, FETCHED_BYTES // count)),
            wait_ms=0 if flow.behind else int(WAIT_S * 1000),
        )
        reply, bulk = await link.call(_FETCH, request, patience_s=0, timeout_s=WAIT_S + 20)
        if not reply.parts:
            return
        fetched, moved = _fetched(flow, cursor, reply, bulk)
        if await self._look(flow, link) != cursor:
            return  # partitions came meanwhile
        async with self._appends:
            partitions = await self._gathers.partitions(flow.gather)
            try:
                taken, parts = await asyncio.to_thread(
                    self._gathers.take, flow, moved, fetched, partitions
                )
            except (Corrupt, Invalid) as error:
                raise Stopped(str(error)) from error
            if taken.offsets != flow.cursor.offsets or taken.lost != flow.cursor.lost:
                await self._gathers.move(flow, taken, parts)

    async def _link(self, flow: Flow, group: int) -> Channel:
        key = flow.source.cluster, group
        session = self._sessions.setdefault(key, os.urandom(16))
        return await self._links(flow.source.cluster, session)

    async def _look(self, flow: Flow, link: Channel) -> GatherCursor:
        """The cursor, for the partitions that the source has now. `Stopped` if it is not the one
        that it was."""
        source = flow.source
        request = pb.TopicsRequest(stream=pb.Target(path=source.path), names=[source.topic])
        reply, _ = await link.call(_TOPICS, request, patience_s=0, timeout_s=WAIT_S)
        if not reply.topics:
            raise NotFound("there is no such topic", source=str(source))
        topic = reply.topics[0]
        found = Identity(reply.node.volume, reply.node.inode, topic.id, reply.history)
        try:
            cursor = self._gathers.check_identity(flow, found)
        except Invalid as error:
            raise Stopped(str(error)) from error
        flow.ends = [partition.end_offset for partition in topic.partitions]
        missing = len(flow.ends) - len(cursor.offsets)
        return replace(cursor, offsets=cursor.offsets + [0] * missing) if missing > 0 else cursor


def _fetched(
    flow: Flow, cursor: GatherCursor, reply: pb.FetchReply, bulk: bytes | memoryview
) -> tuple[list[Fetched], GatherCursor]:
    """What came, by partition; and the cursor behind what was trimmed before it came. `Stopped` if
    the source has fewer records than were gathered."""
    view, at, fetched = memoryview(bulk), 0, []
    offsets, lost = list(cursor.offsets), cursor.lost
    for part in reply.parts:
        number = part.index
        if part.HasField("error"):
            kind = ErrorKind(part.error.kind)
            if kind is ErrorKind.STALE and part.start_offset > offsets[number]:
                lost += part.start_offset - offsets[number]
                offsets[number] = part.start_offset
                continue
            if kind is ErrorKind.INVALID:
                raise Stopped(
                    f"partition {number} of {flow.source} has fewer records than were gathered: "
                    "it was restored to an earlier state"
                )
            raise Stale(part.error.message, source=str(flow.source), partition=number)
        if part.length:
            fetched.append(Fetched(number, view[at : at + part.length]))
            at += part.length
    return fetched, replace(cursor, offsets=offsets, lost=lost)
