"""Places in a stream: "earliest", "latest", an offset, or a time."""

from __future__ import annotations

from datetime import UTC, datetime

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Invalid
from .connection import Channel
from .messages import build, whole_number

OFFSETS = METHODS["Streams.Offsets"]
END = -1
START = -2
NAMES = {"earliest": START, "latest": END}

Start = int | str | datetime


def timestamp_of(place: str | datetime) -> int:
    """What `OffsetsRequest.timestamp_ms` says for a place."""
    if isinstance(place, datetime):
        try:
            return int(place.astimezone(UTC).timestamp() * 1000)
        except (ValueError, OverflowError):
            raise Invalid("a time is out of range", start=place) from None
    if not isinstance(place, str) or place not in NAMES:
        raise Invalid("a place is earliest, latest, an offset or a datetime", start=place)
    return NAMES[place]


def check(start: Start) -> Start:
    """`start`, if it is a place at all."""
    if isinstance(start, int):
        whole_number("offset", start)
    else:
        timestamp_of(start)
    return start


async def find_offsets(
    channel: Channel, stream: pb.Target, topic: str, place: str | datetime
) -> dict[int, int]:
    """The offset of a place in every partition of a topic."""
    request = build(pb.OffsetsRequest, stream=stream, topic=topic, timestamp_ms=timestamp_of(place))
    reply: pb.OffsetsReply
    reply, _ = await channel.call(OFFSETS, request)
    return {part.partition: part.offset for part in reply.parts}
