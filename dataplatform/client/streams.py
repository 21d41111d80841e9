"""Streams: topics, groups, and where producers and consumers come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..api import platform_pb2 as pb
from ..api.methods import METHODS, Method
from ..base.errors import Invalid, NotFound
from ..base.limits import PARTITIONS_MAX
from ..transport.connections import Data, Reply
from .connection import Channel
from .messages import build, whole_number
from .namespace import CREATE, NamespaceOperations, create_request
from .nodes import KINDS, durability, stat_of
from .offsets import find_offsets
from .paths import Path, text
from .tables import milliseconds
from .values import (
    GroupInfo,
    GroupOffset,
    MemberInfo,
    PartitionInfo,
    Position,
    StreamInfo,
    TopicInfo,
)

if TYPE_CHECKING:  # aiokafka takes a tenth of a second to import: only for those who need it
    from .consumers import Consumer
    from .producers import Producer

CREATE_TOPIC = METHODS["Streams.CreateTopic"]
DELETE_TOPIC = METHODS["Streams.DeleteTopic"]
TOPICS = METHODS["Streams.Topics"]
APPEND = METHODS["Streams.Append"]
DESCRIBE = METHODS["Groups.Describe"]
COMMIT = METHODS["Groups.Commit"]
DELETE_GROUP = METHODS["Groups.Delete"]

BATCH_BYTES = 512 * 1024
LINGER_S = 0.005
COUNT_S = 10.0
"""How soon producers and consumers notice that a topic got more partitions."""

COMPRESSIONS = ("lz4", "none")

Bytes = bytes | bytearray | memoryview | str
Headers = Mapping[str, bytes | None]


def topic_of(topic: pb.Topic) -> TopicInfo:
    return TopicInfo(
        topic.name,
        tuple(
            PartitionInfo(p.partition, p.start_offset, p.end_offset, p.size_bytes)
            for p in topic.partitions
        ),
    )


def group_of(group: pb.GroupsReply.Group) -> GroupInfo:
    return GroupInfo(
        group.name,
        group.epoch,
        tuple(
            MemberInfo(
                m.member, m.program, tuple((owned.topic, owned.partition) for owned in m.assigned)
            )
            for m in group.members
        ),
        tuple(
            GroupOffset(o.topic, o.partition, o.offset, o.lag, o.metadata) for o in group.offsets
        ),
    )


class Stream:
    """An open stream. What the methods mean is said at `dataplatform.Stream`."""

    def __init__(self, channel: Channel, path: str, node: pb.Node) -> None:
        self.path = path
        self._channel = channel
        self._target = pb.Target(volume=node.volume, inode=node.inode)
        self._partitions: dict[str, tuple[int, float]] = {}  # how many, and when that was counted
        self._turn = 0

    def __repr__(self) -> str:
        return f"<dataplatform.aio.Stream {self.path!r}>"

    async def _call(self, method: Method, message: Any, data: Data = b"") -> Reply:
        try:
            return await self._channel.call(method, message, data)
        except NotFound as error:
            raise NotFound(error.message, **{**error.facts, "path": self.path}) from error

    # -------------------------------------------------------------------------------- topics

    async def topics(self) -> list[TopicInfo]:
        reply, _ = await self._call(TOPICS, build(pb.TopicsRequest, stream=self._target))
        return [topic_of(topic) for topic in reply.topics]

    async def topic(self, name: str) -> TopicInfo:
        reply, _ = await self._call(
            TOPICS, build(pb.TopicsRequest, stream=self._target, names=(name,))
        )
        for topic in reply.topics:
            if topic.name == name:
                return topic_of(topic)
        raise NotFound("there is no such topic", path=self.path, topic=name)

    async def create_topic(
        self, name: str, partitions: int | None = None, *, exist_ok: bool = False
    ) -> TopicInfo:
        count = 0 if partitions is None else check_partitions(partitions)
        request = build(
            pb.TopicRequest, stream=self._target, topic=name, partitions=count, exist_ok=exist_ok
        )
        self._partitions.pop(name, None)
        return topic_of((await self._call(CREATE_TOPIC, request))[0])

    async def delete_topic(self, name: str) -> None:
        self._partitions.pop(name, None)
        await self._call(DELETE_TOPIC, build(pb.TopicRequest, stream=self._target, topic=name))

    async def info(self) -> StreamInfo:
        reply: pb.TopicsReply
        reply, _ = await self._call(TOPICS, build(pb.TopicsRequest, stream=self._target))
        options = reply.options
        return StreamInfo(
            path=reply.path or self.path,
            partitions=options.partitions or 1,
            ttl=timedelta(milliseconds=options.ttl_ms) if options.ttl_ms else None,
            compression=options.compression or "lz4",
            bytes_max=options.bytes_max or None,
            topics=tuple(topic_of(topic) for topic in reply.topics),
            stat=stat_of(reply.node),
        )

    async def offsets(self, topic: str, at: str | datetime = "latest") -> dict[int, int]:
        return await find_offsets(self._channel, self._target, topic, at)

    # ------------------------------------------------------------------------------- records

    async def append(
        self,
        topic: str,
        value: Bytes | None,
        key: Bytes | None = None,
        headers: Headers | None = None,
        timestamp: int | datetime | None = None,
        partition: int | None = None,
        *,
        durable: bool | None = None,
    ) -> Position:
        from .records import as_bytes, as_headers, as_timestamp, encode_one

        stored_key = as_bytes(key)
        when = as_timestamp(timestamp, self._channel.runtime.now_ms())
        batch = encode_one(when, stored_key, as_bytes(value), as_headers(headers))
        if partition is None:
            partition = await self._partition(topic, stored_key)
        request = build(pb.AppendRequest, stream=self._target, durability=durability(durable))
        request.parts.append(
            build(pb.AppendRequest.Part, topic=topic, partition=partition, length=len(batch))
        )
        reply, _ = await self._call(APPEND, request, batch)
        return Position(topic, partition, reply.parts[0].base_offset, when)

    async def _partition(self, topic: str, key: bytes | None) -> int:
        """By the key, or in turn."""
        from ..base.partitioner import partition_of

        now_s = self._channel.runtime.monotonic()
        count, counted_s = self._partitions.get(topic, (0, 0.0))
        if not count or now_s >= counted_s + COUNT_S:
            count = await count_partitions(self._channel, self._target, topic)
            self._partitions[topic] = count, now_s
        if key is not None:
            return partition_of(key, count)
        self._turn += 1
        return self._turn % count

    async def producer(
        self,
        *,
        linger_s: float = LINGER_S,
        batch_bytes: int = BATCH_BYTES,
        durable: bool | None = None,
        compression: str | None = None,
    ) -> Producer:
        from .producers import Producer

        if compression is not None:
            check_compression(compression)
        producer = Producer(
            self._channel,
            self._target,
            self.path,
            linger_s=linger_s,
            batch_bytes=batch_bytes,
            durable=durable,
            compression=compression,
        )
        return await producer.begin()

    async def consumer(
        self,
        topics: str | Iterable[str],
        group: str | None = None,
        start: str | int | datetime = "earliest",
        *,
        partitions: Iterable[int] | None = None,
        follow: bool = True,
        session_timeout_s: float = 30.0,
    ) -> Consumer:
        from .consumers import Consumer

        names = [topics] if isinstance(topics, str) else list(topics)
        if not names:
            raise Invalid("a consumer needs a topic", path=self.path)
        consumer = Consumer(self._channel, self._target, names, start, follow=follow)
        if group is None:
            return await consumer.begin(partitions)
        if partitions is not None:
            raise Invalid("in a group the server assigns the partitions", group=group)
        return await consumer.join(group, session_timeout_s)

    # -------------------------------------------------------------------------------- groups

    async def groups(self) -> list[GroupInfo]:
        reply, _ = await self._call(DESCRIBE, build(pb.GroupRequest, stream=self._target))
        return [group_of(group) for group in reply.groups]

    async def group(self, name: str) -> GroupInfo:
        reply, _ = await self._call(
            DESCRIBE, build(pb.GroupRequest, stream=self._target, group=name)
        )
        for group in reply.groups:
            if group.name == name:
                return group_of(group)
        raise NotFound("there is no such group", path=self.path, group=name)

    async def commit_offsets(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        request = build(pb.CommitOffsetsRequest, stream=self._target, group=group)
        for partition, offset in offsets.items():
            request.parts.append(
                build(pb.CommitOffsetsRequest.Part, topic=topic, partition=partition, offset=offset)
            )
        await self._call(COMMIT, request)

    async def delete_group(self, name: str) -> None:
        await self._call(
            DELETE_GROUP, build(pb.DeleteGroupRequest, stream=self._target, group=name)
        )


async def count_partitions(
    channel: Channel, stream: pb.Target, topic: str, *, patience_s: float | None = None
) -> int:
    """Of a topic; of one that does not exist, as many as an append would give it."""
    found: pb.TopicsReply
    try:
        found, _ = await channel.call(
            TOPICS,
            build(pb.TopicsRequest, stream=stream, names=(topic,)),
            patience_s=patience_s,
        )
        return len(found.topics[0].partitions)
    except NotFound:
        found, _ = await channel.call(
            TOPICS, build(pb.TopicsRequest, stream=stream), patience_s=patience_s
        )
        for created_meanwhile in found.topics:
            if created_meanwhile.name == topic:
                return len(created_meanwhile.partitions)
        return found.options.partitions or 1


def check_partitions(partitions: int) -> int:
    return whole_number("partitions", partitions, 1, PARTITIONS_MAX)


def check_compression(compression: str) -> str:
    if compression not in COMPRESSIONS:
        raise Invalid("compression is lz4 or none", compression=compression)
    return compression


class StreamOperations(NamespaceOperations):
    async def create_stream(
        self,
        path: Path,
        *,
        partitions: int = 1,
        ttl: timedelta | None = None,
        compression: str = "lz4",
        bytes_max: int | None = None,
        mode: int = 0o644,
        parents: bool = False,
        exist_ok: bool = False,
    ) -> Stream:
        check_partitions(partitions)
        request = create_request(path, pb.STREAM, mode, parents=parents, exist_ok=exist_ok)
        request.stream.partitions = partitions
        request.stream.ttl_ms = milliseconds(ttl)
        request.stream.compression = check_compression(compression)
        request.stream.bytes_max = whole_number("bytes_max", bytes_max or 0)
        node, _ = await self._channel.call(CREATE, request)
        return Stream(self._channel, text(path), node)

    async def stream(self, path: Path) -> Stream:
        node = await self._node(path)
        if node.kind != pb.STREAM:
            raise Invalid("not a stream", path=text(path), kind=KINDS.get(node.kind))
        return Stream(self._channel, text(path), node)
