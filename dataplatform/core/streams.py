"""Streams: append-only logs of records, by topic and partition (D7).

This is what the rest of the platform calls; the parts are in `topics`, `appends`, `sequences`
(idempotence), `fetches`, and `batches` (the format). Consumer groups are in `groups`.

    prepared = await streams.prepare(volume, parts)
    await volume.run(request, lambda unit: streams.append(unit, stream, prepared), durable=True)

Invariants, proved by `check`: the batches of a partition cover [start_offset, next_offset) without
gap or overlap, and their sizes add up to the partition's; a stream's statistics are the sums over
its partitions; a batch's max_timestamp_ms never falls.
"""

from __future__ import annotations

from .access.verbs import Verb
from .appends import Part, PreparedPart, append, prepare
from .fetches import Buffer, Fetched, FoundOffset, Position, fetch, offsets
from .retention import remove_stream_data
from .topics import Ends, TopicEnds, create_topic, delete_topic, topics, writable_stream_of
from .units import Unit

__all__ = [
    "Buffer",
    "Ends",
    "Fetched",
    "FoundOffset",
    "Part",
    "Position",
    "PreparedPart",
    "TopicEnds",
    "append",
    "create_topic",
    "delete_topic",
    "fetch",
    "init_producer",
    "offsets",
    "prepare",
    "remove_stream_data",
    "topics",
]


async def init_producer(unit: Unit, stream: int) -> list[int]:
    """A new idempotent producer: [id, epoch]. Make it durable: an id is given out once."""
    await unit.allow(await writable_stream_of(unit, stream), Verb.PRODUCE)
    return [unit.new_producer_id(), 0]
