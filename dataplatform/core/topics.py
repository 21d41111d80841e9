"""Topics of a stream: their names, numbers and partitions.

A topic's id stands in the keys of its data and is never used again within the stream, so a topic
that is deleted and created again under the same name shares nothing with the old one. The data of
a deleted topic goes in bounded steps (see `retention`); its id is kept in the stream's settings
until nothing is left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Exhausted, Exists, Invalid, NotFound
from ..base.limits import PARTITIONS_MAX, TOPIC_NAME_BYTES_MAX
from ..engine.base import Reader, scan_all
from ..keyspace import keys
from ..keyspace.records import Inode, Kind, Partition, Topic
from .access.verbs import Verb
from .audit import protection
from .units import SYSTEM, Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume

NEXT_TOPIC = "next_topic"
"""In a stream's settings: the id of the next topic. Stored."""

DROPPED = "dropped_topics"
"""In a stream's settings: ids of deleted topics whose data is not gone yet. Stored."""

_NAME = re.compile(r"[a-zA-Z0-9._-]+\Z")


# ---------------------------------------------------------------- names


def check_topic_name(name: str) -> bytes:
    """The name in bytes. INVALID if Kafka would not take it (`Topic.validate`)."""
    if not name:
        raise Invalid("a topic's name is empty")
    if len(name) > TOPIC_NAME_BYTES_MAX:
        raise Invalid("a topic's name is too long", bytes_max=TOPIC_NAME_BYTES_MAX, topic=name)
    if name in (".", "..") or not _NAME.match(name):
        raise Invalid(
            "a topic's name is made of letters, digits, `.`, `_` and `-`, and is not `.` or `..`",
            topic=name,
        )
    return name.encode()


def label(path: str, topic: str, partition: int | None = None) -> str:
    """How a topic or partition is called in messages: `/path/stream:topic/0`."""
    return f"{path}:{topic}" if partition is None else f"{path}:{topic}/{partition}"


# ---------------------------------------------------------------- looking


async def stream_of(unit: Unit, stream: int) -> Inode:
    """The stream's inode. NOT_FOUND if it is gone, INVALID if it is something else."""
    inode = await unit.find_inode(stream)
    if inode is None or inode.links == 0:
        raise NotFound("the stream is gone", inode=stream)
    if inode.kind != Kind.STREAM:
        raise Invalid("not a stream", path=await unit.path_of(stream), kind=Kind(inode.kind).word)
    return inode


async def writable_stream_of(unit: Unit, stream: int) -> Inode:
    """The same, for who changes what it holds. DENIED for the audit's."""
    inode = await stream_of(unit, stream)
    protection.check_inode(unit, inode)
    return inode


async def find_topics(
    reader: Reader | Unit, stream: int, names: Sequence[bytes]
) -> dict[bytes, Topic]:
    """Those of the names that exist."""
    values = await reader.get_many([keys.topic(stream, name) for name in names])
    return {
        name: Topic.unpack(value)
        for name, value in zip(names, values, strict=True)
        if value is not None
    }


class Ends(NamedTuple):
    """What is known of a partition from outside."""

    partition: int
    start_offset: int
    end_offset: int  # readers see up to here
    size_bytes: int


class TopicEnds(NamedTuple):
    name: str
    id: int
    partitions: list[Ends]


async def topics(
    volume: Volume,
    stream: int,
    names: Sequence[str] | None = None,
    request: Request = SYSTEM,
) -> list[TopicEnds]:
    """Topics with the ends of their partitions; all in order of name, or those named.

    NOT_FOUND if a topic that is named does not exist. DENIED to whoever may neither consume, nor
    produce, nor make topics.
    """
    await _check_any(volume, stream, request)
    engine = volume.storage.engine
    if names:
        wanted = [check_topic_name(name) for name in names]
        found = await find_topics(engine, stream, wanted)
        for name in wanted:
            if name not in found:
                raise await no_topic(volume, stream, name.decode())
    else:
        found = await all_topics(engine, stream)
    return [
        TopicEnds(name.decode(), topic.id, await partition_ends(volume, stream, topic))
        for name, topic in found.items()
    ]


async def _check_any(volume: Volume, stream: int, request: Request) -> None:
    principal = request.principal
    if principal.is_free:
        return
    for verb in (Verb.PRODUCE, Verb.TOPICS):
        if await volume.guard.may(principal, volume, stream, verb):
            return
    await volume.allow(principal, stream, Verb.CONSUME, origin=request.origin)


async def check_consume(volume: Volume, stream: int, request: Request) -> None:
    """DENIED to whoever may not read the stream."""
    if not request.principal.is_free:
        await volume.allow(request.principal, stream, Verb.CONSUME, origin=request.origin)


async def all_topics(reader: Reader, stream: int) -> dict[bytes, Topic]:
    """In order of name."""
    start, end = keys.prefix_range(keys.topics(stream))
    return {
        keys.name_of(key): Topic.unpack(value) async for key, value in scan_all(reader, start, end)
    }


async def partition_ends(volume: Volume, stream: int, topic: Topic) -> list[Ends]:
    numbers = range(topic.partitions)
    values = await volume.storage.engine.get_many(
        [keys.partition(stream, topic.id, number) for number in numbers]
    )
    ends = []
    for number, value in zip(numbers, values, strict=True):
        row = Partition.unpack(value) if value is not None else Partition()
        ends.append(
            Ends(
                number,
                row.start_offset,
                watermark(volume, stream, topic.id, number, row),
                row.size_bytes,
            )
        )
    return ends


def watermark(volume: Volume, stream: int, topic: int, number: int, row: Partition) -> int:
    """Up to where the partition is durable. `row` must have been read before this call."""
    end = volume.partitions.find_end((stream, topic, number))
    return row.next_offset if end is None else end


async def no_topic(volume: Volume, stream: int, topic: str) -> NotFound:
    return NotFound("no such topic", topic=label(await volume.path_of(stream), topic))


def offset_key_parts(key: bytes) -> tuple[bytes, int, int]:
    """(group, topic id, partition) of a committed offset's key."""
    return (
        key[9:-9],
        int.from_bytes(key[-8:-4], "big"),
        int.from_bytes(key[-4:], "big"),
    )


# ---------------------------------------------------------------- creating


async def create_topic(
    unit: Unit, stream: int, name: str, partitions: int = 0, *, exist_ok: bool = False
) -> list[int]:
    """A new topic, or more partitions for one that has fewer: [id, partitions it has now].

    `partitions` 0 means the stream's default. EXISTS if there is nothing to do, unless `exist_ok`.
    """
    encoded = check_topic_name(name)
    inode = await writable_stream_of(unit, stream)
    await unit.allow(inode, Verb.TOPICS)
    wanted = partitions or default_partitions(inode)
    if not 0 < wanted <= PARTITIONS_MAX:
        raise Invalid(
            "a topic has 1 or more partitions, up to the limit",
            partitions=wanted,
            partitions_max=PARTITIONS_MAX,
        )
    topic = (await find_topics(unit, stream, [encoded])).get(encoded)
    if topic is None:
        topic = await add_topic(unit, inode, encoded, wanted)
    elif partitions > topic.partitions:
        await _add_partitions(unit, inode, encoded, topic, partitions)
    elif not exist_ok:
        raise Exists("the topic exists already", topic=label(await unit.path_of(stream), name))
    return [topic.id, topic.partitions]


def default_partitions(inode: Inode) -> int:
    return int(inode.settings.get("partitions") or 1)


async def add_topic(unit: Unit, inode: Inode, name: bytes, partitions: int) -> Topic:
    """A topic that does not exist yet."""
    topic_id = int(inode.settings.get(NEXT_TOPIC, 1))
    if topic_id >= 1 << 32:
        raise Exhausted("the stream has used up its topic ids", inode=inode.number)
    inode.settings[NEXT_TOPIC] = topic_id + 1
    unit.save(inode)
    topic = Topic(topic_id, partitions, unit.now_ns)
    _put_partitions(unit, inode.number, topic, 0)
    unit.put(keys.topic(inode.number, name), topic.pack())
    unit.event(
        "topic created",
        await unit.path_of(inode.number),
        Kind.STREAM,
        topic=name.decode(),
        partitions=partitions,
    )
    _tell_groups(unit, inode.number)
    return topic


async def _add_partitions(
    unit: Unit, inode: Inode, name: bytes, topic: Topic, partitions: int
) -> None:
    old, topic.partitions = topic.partitions, partitions
    _put_partitions(unit, inode.number, topic, old)
    unit.put(keys.topic(inode.number, name), topic.pack())
    unit.save(inode)
    unit.event(
        "partitions added",
        await unit.path_of(inode.number),
        Kind.STREAM,
        topic=name.decode(),
        partitions=partitions,
    )
    _tell_groups(unit, inode.number)


def _put_partitions(unit: Unit, stream: int, topic: Topic, first: int) -> None:
    empty = Partition().pack()
    for number in range(first, topic.partitions):
        unit.put(keys.partition(stream, topic.id, number), empty)


def _tell_groups(unit: Unit, stream: int) -> None:
    groups = unit.volume.groups
    unit.on_commit(lambda _: groups.topics_changed(stream))


# ---------------------------------------------------------------- deleting


async def delete_topic(unit: Unit, stream: int, name: str, *, missing_ok: bool = False) -> None:
    """Gone at once for everybody; its bytes are counted until `retention` has removed them."""
    encoded = check_topic_name(name)
    inode = await writable_stream_of(unit, stream)
    await unit.allow(inode, Verb.TOPICS)
    topic = (await find_topics(unit, stream, [encoded])).get(encoded)
    if topic is None:
        if missing_ok:
            return
        raise NotFound("no such topic", topic=label(await unit.path_of(stream), name))
    unit.delete(keys.topic(stream, encoded))
    inode.settings[DROPPED] = [*inode.settings.get(DROPPED, []), topic.id]
    unit.save(inode)
    await unit.account(stream)  # retention finds streams by their statistics
    unit.event("topic deleted", await unit.path_of(stream), Kind.STREAM, topic=name)
    gone = [(stream, topic.id, number) for number in range(topic.partitions)]
    unit.on_commit(lambda _: unit.volume.partitions.forget(gone))
    _tell_groups(unit, stream)
