"""Consumers: records of some partitions, in order within each.

`_opened` are records of one partition that wait to be handed out. Whoever reads takes them from its
iterator itself, so that no step in Python is for one record; how far that got is known from what is
left. What has been handed out counts as read: that is what `commit` and `position` mean. A
partition is taken on or let go of only between two chunks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from types import TracebackType
from typing import Self

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Invalid, NotFound, Stale
from .connection import Channel
from .fetching import WAIT_S_MAX, Fetcher, Place
from .memberships import Membership
from .messages import build, whole_number
from .offsets import Start, check, find_offsets, timestamp_of
from .records import Decoded, decoded, open_batches
from .streams import COUNT_S
from .values import Record

COMMIT = METHODS["Groups.Commit"]
DESCRIBE = METHODS["Groups.Describe"]
COMMIT_ATTEMPTS = 5
"""Restarts of the server in a row that one commit goes along with."""

POLL_RECORDS = 500
"""Of one `poll`, unless told otherwise: Kafka's max.poll.records. It must stay below the 700
objects that start the garbage collector, which finds nothing in nearly the time of all the rest."""

JOIN_WAIT_S = 0.5
"""Between two looks at whether a group has given us something."""


class Consumer:
    """What the methods mean is said at `dataplatform.Consumer`."""

    def __init__(
        self,
        channel: Channel,
        stream: pb.Target,
        topics: list[str],
        start: Start,
        *,
        follow: bool = True,
    ) -> None:
        self._channel = channel
        self._stream = stream
        self._topics = topics
        self._start = check(start)
        self._follow = follow
        self._fetcher = Fetcher(channel, stream)
        self._membership: Membership | None = None
        self._positions: dict[Place, int] = {}  # of the next record to hand out; see _settle
        self._committed: dict[Place, int] = {}
        self._skip_before_ms: dict[Place, int] = {}
        self._opened: Decoded = decoded([])
        self._opened_end: tuple[Place, int] | None = None
        self._is_closed = False
        self._counted_s: float | None = None  # when partitions were looked for; None: never

    # ----------------------------------------------------------------------------- beginning

    async def begin(self, partitions: Iterable[int] | None) -> Self:
        """Without a group: read all partitions, also those to come, or those given."""
        if partitions is None:
            self._counted_s = self._channel.runtime.monotonic()
        wanted = None if partitions is None else sorted(set(partitions))
        places: list[Place] = []
        for topic in self._topics:
            there = await find_offsets(self._channel, self._stream, topic, "earliest")
            for number in sorted(there) if wanted is None else wanted:
                if number not in there:
                    raise NotFound("there is no such partition", topic=topic, partition=number)
                places.append((topic, number))
        await self._take_on(places)
        return self

    async def join(self, group: str, session_timeout_s: float) -> Self:
        """Share the partitions with the other members of a group."""
        self._membership = Membership(
            self._channel, self._stream, group, self._topics, session_timeout_s
        )
        self._fetcher.in_group = True
        await self._membership.join()
        await self._reconcile()
        return self

    async def _take_on_new(self) -> None:
        """Partitions that were added since, from their first record on."""
        now_s = self._channel.runtime.monotonic()
        if self._counted_s is None or now_s < self._counted_s + COUNT_S:
            return
        self._counted_s = now_s
        for topic in self._topics:
            there = await find_offsets(self._channel, self._stream, topic, "earliest")
            for number, offset in there.items():
                if (topic, number) not in self._positions:
                    self._fetcher.set((topic, number), offset)
                    self._positions[topic, number] = offset

    async def _take_on(self, places: Iterable[Place]) -> None:
        for place, offset in (await self._offsets(places)).items():
            self._fetcher.set(place, offset)
            self._positions[place] = offset

    async def _offsets(self, places: Iterable[Place]) -> dict[Place, int]:
        """Where to begin: at the group's offsets, else at `start`."""
        wanted = set(places)
        found = await self._committed_offsets(wanted) if self._membership else {}
        self._committed.update(found)
        for topic in {topic for topic, _ in wanted - set(found)}:
            offsets = await self._offsets_of(topic)
            for number, offset in offsets.items():
                if (topic, number) in wanted and (topic, number) not in found:
                    found[topic, number] = offset
                    if isinstance(self._start, datetime):
                        self._skip_before_ms[topic, number] = timestamp_of(self._start)
        return found

    async def _offsets_of(self, topic: str) -> dict[int, int]:
        if isinstance(self._start, int):
            there = await find_offsets(self._channel, self._stream, topic, "earliest")
            return dict.fromkeys(there, self._start)
        return await find_offsets(self._channel, self._stream, topic, self._start)

    async def _committed_offsets(self, wanted: AbstractSet[Place]) -> dict[Place, int]:
        assert self._membership is not None
        request = build(pb.GroupRequest, stream=self._stream, group=self._membership.group)
        reply: pb.GroupsReply
        try:
            reply, _ = await self._channel.call(DESCRIBE, request)
        except NotFound:
            return {}
        return {
            (offset.topic, offset.partition): offset.offset
            for group in reply.groups
            for offset in group.offsets
            if (offset.topic, offset.partition) in wanted
        }

    async def _reconcile(self) -> AbstractSet[Place]:
        """Let go of and take on what the group says; what is read no more, or from elsewhere."""
        membership = self._membership
        news = None if membership is None else await membership.news()
        if news is None:
            return frozenset()
        moved = await self._moved(news.doubtful) if news.doubtful else set()
        for place in news.let_go | moved:
            self._fetcher.remove(place)
            self._drop_rest(place)
            self._positions.pop(place, None)
            self._committed.pop(place, None)
            self._skip_before_ms.pop(place, None)
        await self._take_on(news.take_on | moved)
        return news.let_go | moved

    async def _moved(self, places: frozenset[Place]) -> set[Place]:
        """Those whose group offset is not the one that this consumer knows: another member was at
        work there. Where it is, going on from the own position repeats and skips nothing."""
        committed = await self._committed_offsets(places)
        return {place for place in places if committed.get(place) != self._committed.get(place)}

    # ------------------------------------------------------------------------------- reading

    def __aiter__(self) -> AsyncIterator[Record]:
        return self.records()

    async def records(self) -> AsyncIterator[Record]:
        """Records as they come."""
        async for chunk in self.chunks():
            for record in chunk:
                yield record

    async def chunks(self) -> AsyncIterator[Iterator[Record]]:
        """What is to be handed out next, again and again. For the iterators of both runtimes."""
        while True:
            self._check_open()
            wait_s = WAIT_S_MAX if self._follow else 0.0
            if self._opened.has_rest() or await self._next_chunk(wait_s):
                yield self._opened.rest
            elif self._is_at_end():
                return

    @property
    def is_ended(self) -> bool:
        """Whether nothing follows, ever: the stream is in a snapshot, and all of it was read."""
        return self._fetcher.is_ended and not self._opened.has_rest()

    def _is_at_end(self) -> bool:
        """Whether an empty fetch ends the iteration."""
        return bool(self._positions) and (not self._follow or self._fetcher.is_ended)

    async def poll(self, timeout_s: float = 1.0, max_records: int | None = None) -> list[Record]:
        self._check_open()
        if max_records is None:
            max_records = POLL_RECORDS
        if whole_number("max_records", max_records) == 0:
            return []
        runtime = self._channel.runtime
        end_s = runtime.monotonic() + timeout_s
        records = self._opened.take(max_records)
        while not records:
            left_s = max(end_s - runtime.monotonic(), 0.0)
            is_there = await self._next_chunk(left_s)
            records = self._opened.take(max_records)
            if not is_there and (self._fetcher.is_ended or runtime.monotonic() >= end_s):
                break
        while self._fetcher.has_more and len(records) < max_records:
            self._settle(is_finished=True)
            await self._open_next(0.0)
            records += self._opened.take(max_records - len(records))
        return records

    async def _next_chunk(self, wait_s: float) -> bool:
        """What the group says, then the next chunk. False when there was none for `wait_s`."""
        self._check_open()
        self._settle(is_finished=True)
        await self._take_on_new()
        await self._reconcile()
        if not self._positions and self._membership is not None:
            await self._membership.wait_for_news(min(max(wait_s, 0.01), JOIN_WAIT_S))
            await self._reconcile()
        return await self._open_next(wait_s)

    async def _open_next(self, wait_s: float) -> bool:
        """Decode the next chunk, all of the last having been handed out."""
        chunk = await self._fetcher.next(wait_s)
        if chunk is None:
            return False
        topic, partition = chunk.place
        opened = open_batches(chunk.data, topic, partition, chunk.from_offset)
        if chunk.place in self._skip_before_ms:
            opened = decoded(self._from_time(chunk.place, opened.take()))
        self._opened, self._opened_end = opened, (chunk.place, chunk.end_offset)
        return True

    def _from_time(self, place: Place, records: list[Record]) -> list[Record]:
        """What a start by time leaves to do: the server names the batch, not the record."""
        begin_ms = self._skip_before_ms[place]
        for index, record in enumerate(records):
            if record.timestamp >= begin_ms:
                del self._skip_before_ms[place]
                return records[index:]
        return []

    def _settle(self, *, is_finished: bool = False) -> None:
        """Bring `_positions` up to what was handed out. `is_finished`: all of `_opened` was (whose
        batches may end behind the last record)."""
        if self._opened_end is None:
            return
        place, end = self._opened_end
        position = end if is_finished else self._opened.next_offset()
        if position is not None and place in self._positions:
            self._positions[place] = position
        if is_finished:
            self._opened, self._opened_end = decoded([]), None

    # ---------------------------------------------------------------------- positions, commits

    def assignment(self) -> list[Place]:
        return sorted(self._positions)

    async def position(self, topic: str, partition: int) -> int:
        self._settle()
        return self._positions[self._own((topic, partition))]

    async def seek(self, topic: str, partition: int, offset: Start) -> None:
        self._settle()
        place = self._own((topic, partition))
        check(offset)
        self._skip_before_ms.pop(place, None)
        if isinstance(offset, datetime):
            self._skip_before_ms[place] = timestamp_of(offset)
        if not isinstance(offset, int):
            offsets = await find_offsets(self._channel, self._stream, topic, offset)
            offset = offsets[partition]
        self._fetcher.set(place, offset)
        self._positions[place] = offset
        self._drop_rest(place)

    def _drop_rest(self, place: Place) -> None:
        """Hand out no more of what was opened, also to an iteration that is under way."""
        if self._opened_end is not None and self._opened_end[0] == place:
            self._opened.drop()
            self._opened, self._opened_end = decoded([]), None

    def _own(self, place: Place) -> Place:
        if place not in self._positions:
            raise Invalid(
                "this consumer does not read that partition", topic=place[0], partition=place[1]
            )
        return place

    async def commit(self, offsets: Mapping[tuple[str, int], int] | None = None) -> None:
        membership = self._membership
        if membership is None:
            raise Invalid("only a consumer of a group commits: pass group=")
        self._settle()
        if offsets is None:
            offsets = {p: o for p, o in self._positions.items() if self._committed.get(p) != o}
        if not offsets:
            return
        for attempt in range(1, COMMIT_ATTEMPTS + 1):
            try:
                await self._commit(membership, offsets)
            except Stale:
                # The server was restarted, or took us for dead: if the partitions are ours again,
                # and nobody else was at work on them, nothing has happened.
                await membership.settled()
                if attempt == COMMIT_ATTEMPTS or offsets.keys() & await self._reconcile():
                    raise
            else:
                return

    async def _commit(self, membership: Membership, offsets: Mapping[Place, int]) -> None:
        request = build(
            pb.CommitOffsetsRequest,
            stream=self._stream,
            group=membership.group,
            member=membership.member,
            epoch=membership.epoch,
        )
        for (topic, partition), offset in offsets.items():
            request.parts.append(
                build(pb.CommitOffsetsRequest.Part, topic=topic, partition=partition, offset=offset)
            )
        await self._channel.call(COMMIT, request)
        self._committed.update(offsets)

    # -------------------------------------------------------------------------------- ending

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("the consumer is closed")

    async def close(self) -> None:
        if self._is_closed:
            return
        self._settle()
        self._is_closed = True
        self._fetcher.close()
        self._positions.clear()
        self._opened.drop()
        if self._membership is not None:
            await self._membership.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
