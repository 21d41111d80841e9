"""All gatherings of a platform, in memory as they are stored in the root volume; and their steps.

Only administrators begin and end them: a gathering comes to the other clusters by their tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ...base.errors import Conflict, Corrupt, Exhausted, Exists, Invalid, NotFound, PlatformError
from ...engine.base import scan_all
from ...keyspace import keys
from ...keyspace.records import ROOT_VOLUME, GatherCursor, GatherRecord
from .. import appends
from ..clusters import Clusters
from ..principals import Principal
from ..topics import (
    add_topic,
    check_topic_name,
    default_partitions,
    find_topics,
    label,
    writable_stream_of,
)
from ..units import SYSTEM, Request, Unit
from .origins import partition_for, with_origins

if TYPE_CHECKING:
    from ..platform import Node, Platform
    from ..volumes import Volume

T = TypeVar("T")

log = logging.getLogger(__name__)

NAME_BYTES = 8

SOURCES_MAX = 1000
"""Of one gathering: each is asked all the time."""

GATHERS_MAX = 1000


class Source(NamedTuple):
    """A topic of another cluster."""

    cluster: str
    path: str
    topic: str

    def __str__(self) -> str:
        return f"/{self.cluster}{self.path}:{self.topic}"


class Identity(NamedTuple):
    """What a source's name led to, at its cluster."""

    volume: int
    inode: int
    topic: int
    history: bytes = b""


@dataclass(eq=False, slots=True)
class Flow:
    """One source of a gathering: how far it has come."""

    gather: str
    source: Source
    cursor: GatherCursor
    ends: list[int] = field(default_factory=list)
    """Of the source's partitions, when it was asked last."""
    waiting: str = ""
    """Why nothing comes right now."""

    @property
    def behind(self) -> int:
        offsets = self.cursor.offsets
        return sum(
            max(0, end - (offsets[n] if n < len(offsets) else 0)) for n, end in enumerate(self.ends)
        )

    @property
    def state(self) -> str:
        if self.cursor.stopped:
            return "stopped"
        return "waiting" if self.waiting else "following"


class Fetched(NamedTuple):
    """Record batches of one partition of a source, as they are stored there."""

    partition: int
    data: bytes | memoryview


class Gathers:
    """See the module's text."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._records: dict[str, GatherRecord] = {}
        self.changed: list[Callable[[], None]] = []

    async def load(self, root: Volume) -> None:
        start, end = keys.prefix_range(keys.GATHER)
        try:
            async for key, value in scan_all(root.storage.engine, start, end):
                name = key[1:].decode("utf-8", "replace")
                if "\0" in name:
                    continue  # a cursor: the stream is in the root volume
                try:
                    self._records[name] = GatherRecord.unpack(value)
                except Corrupt as error:
                    log.error("a gathering cannot be read: run dp check: %s", error)
        except Corrupt as error:
            log.error("gatherings cannot be read to their end: run dp check: %s", error)

    # ---- looking

    @property
    def names(self) -> list[str]:
        return list(self._records)

    def find(self, name: str) -> GatherRecord | None:
        return self._records.get(name)

    def find_for(self, volume: int, stream: int, topic: str) -> str | None:
        """The name of what flows into a topic."""
        for name, record in self._records.items():
            if (record.volume, record.stream, record.topic) == (volume, stream, topic):
                return name
        return None

    def all(self, principal: Principal) -> list[tuple[str, GatherRecord]]:
        """DENIED to whoever is no administrator."""
        Clusters.check_may_look(principal)
        return list(self._records.items())

    async def flows(self, name: str) -> list[Flow]:
        """Each source, as far as it has come. NOT_FOUND, UNAVAILABLE."""
        record = self._records[name]
        volume = await self._platform.acquire(record.volume)
        try:
            sources = [Source(*source) for source in record.sources]
            wanted = [keys.gather_cursor(name, str(source)) for source in sources]
            values = await volume.storage.engine.get_many(wanted)
        finally:
            self._platform.release(volume)
        return [
            Flow(name, source, GatherCursor.unpack(value) if value is not None else GatherCursor())
            for source, value in zip(sources, values, strict=True)
        ]

    # ---- changing

    async def begin(
        self, request: Request, node: Node, topic: str, sources: Sequence[Source]
    ) -> str:
        """Gather sources into a topic, which is made if need be; into one that is gathered already
        these are put, too. The gathering's name. INVALID, EXISTS, NOT_FOUND (a cluster), DENIED.
        """
        Clusters.check_may_change(request.principal)
        for source in sources:
            self._platform.clusters.get(source.cluster)
            check_topic_name(source.topic)
            if not source.path.startswith("/") or "\0" in source.path:
                raise Invalid("a source is /cluster/path:topic", source=str(source))
        if not sources or len(set(sources)) < len(sources):
            raise Invalid("say which sources, each once")
        stream, encoded = node.inode.number, check_topic_name(topic)

        async def make_topic(unit: Unit) -> None:
            inode = await writable_stream_of(unit, stream)
            if not await find_topics(unit, stream, [encoded]):
                await add_topic(unit, inode, encoded, default_partitions(inode))

        await node.volume.run(request.step, make_topic, durable=True)

        async def work(unit: Unit) -> str:
            known = self.find_for(node.volume.id, stream, topic)
            old = self._records[known] if known is not None else None
            if old is None and len(self._records) >= GATHERS_MAX:
                raise Exhausted("too many gatherings", limit=GATHERS_MAX)
            had = [Source(*source) for source in old.sources] if old is not None else []
            for source in sources:
                if source in had:
                    raise Exists("this source is gathered there already", source=str(source))
            together = [*had, *sources]
            if len(together) > SOURCES_MAX:
                raise Exhausted("too many sources", limit_sources=SOURCES_MAX)
            name = known or self._platform.entropy.token(NAME_BYTES).hex()
            record = GatherRecord(
                stream,
                topic,
                [list(source) for source in together],
                request.principal.name,
                old.created_ns if old is not None else unit.now_ns,
                False,
                node.volume.id,
            )
            self._put(unit, name, record)
            self._tell(unit, "gathering changed" if old is not None else "gathering began", record)
            return name

        return await self._in_root(request, work)

    async def pause(self, request: Request, name: str, *, is_paused: bool) -> None:
        """Go no further, or go on; from what was stopped, too, once its reason is gone."""
        Clusters.check_may_change(request.principal)

        async def work(unit: Unit) -> None:
            record = replace(self._get(name), is_paused=is_paused)
            self._put(unit, name, record)
            self._tell(unit, "gathering changed", record)

        await self._in_root(request, work)
        if not is_paused:
            await self._restart(name)

    async def _restart(self, name: str) -> None:
        for flow in await self.flows(name):
            if flow.cursor.stopped:
                await self.move(flow, replace(flow.cursor, stopped="", history=b""), ())

    async def end(self, request: Request, name: str, sources: Sequence[Source] = ()) -> None:
        """Gather from these sources no more; from none, if none is named. What has come stays."""
        Clusters.check_may_change(request.principal)
        record = self._get(name)
        for source in sources:
            if list(source) not in record.sources:
                raise NotFound("this source is not gathered there", source=str(source))

        async def work(unit: Unit) -> None:
            record = self._get(name)
            left = [one for one in record.sources if sources and Source(*one) not in sources]
            if left:
                self._put(unit, name, replace(record, sources=left))
                self._tell(unit, "gathering changed", record)
                return
            unit.delete(keys.gather(name))
            unit.on_commit(lambda _: self._forget(name))
            self._tell(unit, "gathering ended", record)

        await self._in_root(request, work)
        await self._forget_cursors(record, name, sources)

    async def _forget_cursors(
        self, record: GatherRecord, name: str, sources: Sequence[Source]
    ) -> None:
        async def work(unit: Unit) -> None:
            unit.quiet = True
            for source in sources or [Source(*one) for one in record.sources]:
                key = keys.gather_cursor(name, str(source))
                if await unit.get(key) is not None:
                    unit.delete(key)

        try:
            volume = await self._platform.acquire(record.volume)
        except PlatformError as error:
            log.info("cursors of a gathering stay: %s", error)
            return
        try:
            await volume.run(SYSTEM, work, durable=True)
        finally:
            self._platform.release(volume)

    # ---- following

    async def move(self, flow: Flow, cursor: GatherCursor, parts: Sequence[appends.Part]) -> None:
        """Append, and move the cursor that stands for it: one unit. CONFLICT if it is not where it
        was, or the gathering has ended; NOT_FOUND if the stream has."""
        record = self._get(flow.gather)
        key, before = keys.gather_cursor(flow.gather, str(flow.source)), flow.cursor
        volume = await self._platform.acquire(record.volume)
        try:
            with volume.holds.append():
                prepared = await appends.prepare(volume, parts) if parts else []

                async def work(unit: Unit) -> None:
                    stored = await unit.get(key)
                    known = GatherCursor.unpack(stored) if stored is not None else GatherCursor()
                    if known != before or self._records.get(flow.gather) is None:
                        raise Conflict("the gathering was changed meanwhile")
                    unit.quiet = not prepared
                    if prepared:
                        await appends.append(unit, record.stream, prepared)
                    unit.put(key, cursor.pack())

                await volume.run(SYSTEM, work, durable=True)
        finally:
            self._platform.release(volume)
        flow.cursor = cursor

    def check_identity(self, flow: Flow, found: Identity) -> GatherCursor:
        """The cursor, which knows now what it follows. INVALID if that is another thing than it
        was: it is not followed into."""
        cursor = flow.cursor
        if not cursor.volume:
            return replace(cursor, **found._asdict(), offsets=[])
        if (cursor.volume, cursor.inode, cursor.topic) != found[:3]:
            raise Invalid("another stream or topic has this name now", source=str(flow.source))
        if cursor.history and cursor.history != found.history:
            raise Invalid(
                "the source was restored or promoted: its records may not be those that were "
                "gathered. --resume goes on where it was",
                source=str(flow.source),
            )
        return cursor if cursor.history else replace(cursor, history=found.history)

    def take(
        self, flow: Flow, cursor: GatherCursor, fetched: Sequence[Fetched], partitions: int
    ) -> tuple[GatherCursor, list[appends.Part]]:
        """What to append for what was fetched, and where the cursor is then. CORRUPT."""
        source, offsets, count = flow.source, list(cursor.offsets), 0
        parts: dict[int, list[bytes]] = {}
        for part in fetched:
            origin = f"{source}/{part.partition}"
            made, offsets[part.partition], records = with_origins(
                part.data, origin, offsets[part.partition]
            )
            where = (source.cluster, source.path, source.topic, part.partition)
            parts.setdefault(partition_for(*where, partitions), []).extend(made)
            count += records
        topic = self._get(flow.gather).topic
        appended = [
            appends.Part(topic, number, b"".join(made)) for number, made in parts.items() if made
        ]
        now_ns = self._platform.clock.now_ns()
        moved = replace(cursor, offsets=offsets, records=cursor.records + count, time_ns=now_ns)
        return moved, appended

    async def partitions(self, name: str) -> int:
        """Of the topic into which it is gathered. NOT_FOUND."""
        record = self._get(name)
        volume = await self._platform.acquire(record.volume)
        try:
            encoded = record.topic.encode()
            topics = await find_topics(volume.storage.engine, record.stream, [encoded])
            if encoded not in topics:
                raise NotFound("the topic is gone", topic=record.topic)
            return topics[encoded].partitions
        finally:
            self._platform.release(volume)

    async def path_of(self, record: GatherRecord) -> str:
        """Where it flows, as people write it."""
        try:
            volume = await self._platform.acquire(record.volume)
        except PlatformError:
            return f"(volume {record.volume}):{record.topic}"
        try:
            path = await self._platform.path_of(volume, record.stream)
        except PlatformError:
            path = "(removed)"
        finally:
            self._platform.release(volume)
        return label(path, record.topic)

    # ---- inside

    def _get(self, name: str) -> GatherRecord:
        record = self._records.get(name)
        if record is None:
            raise NotFound("the gathering has ended")
        return record

    def _put(self, unit: Unit, name: str, record: GatherRecord) -> None:
        unit.put(keys.gather(name), record.pack())

        def committed(_: int) -> None:
            self._records[name] = record
            self._told()

        unit.on_commit(committed)

    def _forget(self, name: str) -> None:
        self._records.pop(name, None)
        self._told()

    def _told(self) -> None:
        for changed in self.changed:
            changed()

    def _tell(self, unit: Unit, verb: str, record: GatherRecord) -> None:
        unit.event(verb, "/", "stream", topic=record.topic, sources=len(record.sources))

    async def _in_root(self, request: Request, work: Callable[[Unit], Awaitable[T]]) -> T:
        root = await self._platform.acquire(ROOT_VOLUME)
        try:
            return await root.run(request, work, durable=True)
        finally:
            self._platform.release(root)
