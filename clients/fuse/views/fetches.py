"""Records of a topic as the lines of a text: the value of each, and a line end.

A record without a value is an empty line, one whose value has line ends is several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import PlatformError
from dataplatform.client.connection import Channel
from dataplatform.client.records import batches, next_offset, open_values
from dataplatform.transport.errors import from_info

FETCH = METHODS["Streams.Fetch"]


class Lines(NamedTuple):
    """A run of records, mostly one batch."""

    first: int  # offset
    end: int
    text: bytes
    stored_bytes: int


class Fetched(NamedTuple):
    """Batches of one partition, not decoded yet; or why there are none."""

    topic: str
    partition: int
    offset: int  # that was asked for
    data: memoryview
    start_offset: int
    error: PlatformError | None

    def lines(self) -> Iterator[Lines]:
        """Batch by batch, from the offset that was asked for. Corrupt."""
        for batch in batches(self.data):
            found = open_values(batch, self.topic, self.partition)
            first, values = found.offsets.start, list(found.values)
            if first < self.offset:
                del values[: self.offset - first]
                first = self.offset
            yield Lines(first, next_offset(batch), _text(values), len(batch))


def _text(values: list[bytes | None]) -> bytes:
    values.append(b"")  # a line end behind the last one, too
    try:
        return b"\n".join(values)  # type: ignore[arg-type]
    except TypeError:
        return b"\n".join([value or b"" for value in values])


class Source:
    """Where the records of one topic come from."""

    def __init__(self, channel: Channel, stream: pb.Target, topic: str) -> None:
        self._channel = channel
        self._stream = stream
        self._topic = topic

    async def fetch(self, offsets: Mapping[int, int], size_bytes: int) -> list[Fetched]:
        """What there is from these offsets on, by partition: some, and nothing of a partition that
        has nothing more, or comes behind those that filled the reply."""
        request = pb.FetchRequest(stream=self._stream, size_bytes=size_bytes)
        for partition, offset in offsets.items():
            request.parts.add(topic=self._topic, partition=partition, offset=offset)
        reply: pb.FetchReply
        reply, data = await self._channel.call(FETCH, request)
        view = memoryview(data)
        found = []
        at = 0
        for part in reply.parts:
            asked = request.parts[part.index]
            error = from_info(part.error) if part.HasField("error") else None
            found.append(
                Fetched(
                    self._topic,
                    asked.partition,
                    asked.offset,
                    view[at : at + part.length],
                    part.start_offset,
                    error,
                )
            )
            at += part.length
        return found
