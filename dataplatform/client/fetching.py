"""Fetches for a consumer: which offsets to ask for, the next request under way ahead of its need.

As soon as a reply is there, the next request is out, so the server works on it while the records of
this one are decoded and worked on. It does not wait for records (so that it cannot delay a `poll`);
one that waits is sent only when nothing was there.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import ErrorKind
from ..base.limits import KIB, MIB
from ..transport.errors import from_info
from .connection import Channel, Pending
from .records import batches, next_offset

FETCH = METHODS["Streams.Fetch"]
FETCH_BYTES = 2 * MIB
CHUNK_BYTES = 64 * KIB
"""Decoded at a time, at least: few enough that records stay in the CPU's cache until they are
handed out, enough that batches of one record each cost little."""

WAIT_S_MAX = 2.0
"""Of one long poll: how late a consumer notices that it shall give up a partition, or close."""

log = logging.getLogger(__name__)

Place = tuple[str, int]
"""(topic, partition)"""


class Chunk(NamedTuple):
    """Some batches of one partition, not decoded yet."""

    place: Place
    from_offset: int
    end_offset: int  # behind the last record
    data: memoryview


class Fetcher:
    """Fetches from a set of partitions, each at its offset."""

    def __init__(self, channel: Channel, stream: pb.Target) -> None:
        self._channel = channel
        self._stream = stream
        self._offsets: dict[Place, int] = {}  # of the next record to fetch
        self._chunks: deque[Chunk] = deque()
        self._ahead: Pending | None = None
        self._ahead_request = pb.FetchRequest()
        self.is_ended = False  # nothing follows, ever: the stream is in a snapshot
        self.in_group = False  # offsets are a group's: one beyond the end is no error of the caller

    def places(self) -> list[Place]:
        return list(self._offsets)

    def set(self, place: Place, offset: int) -> None:
        """Fetch from `offset` on; what was fetched for that partition is dropped."""
        self._offsets[place] = offset
        self._drop_chunks(place)

    def remove(self, place: Place) -> None:
        self._offsets.pop(place, None)
        self._drop_chunks(place)

    def _drop_chunks(self, place: Place) -> None:
        self._chunks = deque(chunk for chunk in self._chunks if chunk.place != place)

    @property
    def has_more(self) -> bool:
        """Whether `next` would not have to wait."""
        return bool(self._chunks)

    async def next(self, wait_s: float) -> Chunk | None:
        """The next chunk; None when there was none for `wait_s` (at most `WAIT_S_MAX`)."""
        if not self._chunks and self._ahead is not None:
            await self._receive()
        while not self._chunks and self._offsets:
            await self._send(min(wait_s, WAIT_S_MAX))
            if not await self._receive():
                break
        if not self._chunks:
            return None
        if self._ahead is None:
            await self._send(0.0)
        return self._chunks.popleft() if self._chunks else None  # dropped meanwhile by a `seek`

    async def _send(self, wait_s: float) -> None:
        request = pb.FetchRequest(
            stream=self._stream, size_bytes=FETCH_BYTES, wait_ms=int(wait_s * 1000)
        )
        for (topic, partition), offset in self._offsets.items():
            request.parts.add(topic=topic, partition=partition, offset=offset)
        # Those that came last in this reply come first in the next.
        self._ahead_request = request
        self._ahead = await self._channel.start(FETCH, request)

    async def _receive(self) -> bool:
        """Take the reply. Whether it is worth asking again: an offset was corrected."""
        pending, self._ahead = self._ahead, None
        assert pending is not None
        reply: pb.FetchReply
        reply, data = await pending
        self.is_ended = reply.ended
        view = memoryview(data)
        at = 0
        was_corrected = False
        for part in reply.parts:
            asked = self._ahead_request.parts[part.index]
            place = asked.topic, asked.partition
            part_data, at = view[at : at + part.length], at + part.length
            if self._offsets.get(place) != asked.offset:
                continue  # let go of or moved since
            if part.HasField("error"):
                self._on_error(place, part)
                was_corrected = True
            elif part.length:
                self._add(place, asked.offset, part_data)
        return was_corrected

    def _add(self, place: Place, from_offset: int, data: memoryview) -> None:
        end, begin, length = from_offset, 0, 0
        for batch in batches(data):
            end = next_offset(batch)
            length += len(batch)
            if length >= CHUNK_BYTES or begin + length == len(data):
                self._chunks.append(Chunk(place, from_offset, end, data[begin : begin + length]))
                begin, length = begin + length, 0
        # To the end of the order, so that a full reply does not starve the partitions behind.
        del self._offsets[place]
        self._offsets[place] = end

    def _on_error(self, place: Place, part: pb.FetchReply.Part) -> None:
        topic, partition = place
        if part.error.kind == ErrorKind.INVALID.value and self.in_group:
            log.warning(
                "the group's offset lies beyond the end, going on at the end. "
                "topic=`%s`, partition=`%d`, offset=`%d`, end=`%d`",
                topic,
                partition,
                self._offsets[place],
                part.end_offset,
            )
            self._offsets[place] = part.end_offset
            return
        if part.error.kind != ErrorKind.STALE.value:
            raise from_info(part.error)
        log.warning(
            "records were dropped before they were read, going on at the oldest. "
            "topic=`%s`, partition=`%d`, offset=`%d`, oldest=`%d`",
            topic,
            partition,
            self._offsets[place],
            part.start_offset,
        )
        self._offsets[place] = part.start_offset

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.abandon()
            self._ahead = None
        self._offsets.clear()
        self._chunks.clear()
