"""A stream as a directory of topics; a topic as a directory of partitions, and `all` of them.

    stream/topic/0      the records of a partition, a line each
    stream/topic/all    those of all partitions

`mkdir` creates a topic, with the stream's number of partitions; `rmdir` deletes one that holds no
records. The files are `partitions`.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.client.clients import Client
from dataplatform.client.streams import CREATE_TOPIC, DELETE_TOPIC, TOPICS

from .base import ViewAttributes, ViewNode, view_attributes
from .fetches import Source
from .lines import LineWriter
from .partitions import ALL, PartitionFile


class StreamView(ViewNode):
    is_directory = True

    def __init__(self, client: Client, node: pb.Node) -> None:
        self.node = node
        self.channel = client.channel
        self.target = pb.Target(volume=node.volume, inode=node.inode)
        self.compression = "lz4"
        self._topics: dict[str, TopicView] = {}  # kept: their files' positions must not move

    async def attributes(self) -> ViewAttributes:
        await self.ask()
        return view_attributes(self.node, directory=True)

    async def xattrs(self) -> dict[str, bytes]:
        reply = await self.ask()
        partitions = [part for topic in reply.topics for part in topic.partitions]
        return {
            "user.dp.kind": b"stream",
            "user.dp.topics": b"%d" % len(reply.topics),
            "user.dp.records": b"%d" % sum(p.end_offset - p.start_offset for p in partitions),
            "user.dp.size_bytes": b"%d" % sum(p.size_bytes for p in partitions),
        }

    async def ask(self, *names: str) -> pb.TopicsReply:
        """What the server says of these topics, or all."""
        reply: pb.TopicsReply
        request = pb.TopicsRequest(stream=self.target, names=names)
        reply, _ = await self.channel.call(TOPICS, request)
        self.node = reply.node
        self.compression = reply.options.compression or "lz4"
        return reply

    async def lookup(self, name: str) -> ViewNode:
        topic = self._topic(name)
        await topic.describe()
        return topic

    async def entries(self, after: str = "") -> AsyncIterator[tuple[str, ViewNode]]:
        reply = await self.ask()
        for name in sorted(topic.name for topic in reply.topics):
            if name > after:
                yield name, self._topic(name)

    async def mkdir(self, name: str) -> ViewNode:
        request = pb.TopicRequest(stream=self.target, topic=_checked(name, errno.EINVAL))
        await self.channel.call(CREATE_TOPIC, request)
        return self._topic(name)

    async def rmdir(self, name: str) -> None:
        found = await self._topic(name).describe()
        if any(part.end_offset > part.start_offset for part in found.partitions):
            raise OSError(errno.ENOTEMPTY, "the topic holds records")
        request = pb.TopicRequest(stream=self.target, topic=name)
        await self.channel.call(DELETE_TOPIC, request)
        self._topics.pop(name, None)

    async def rename(self, name: str, directory: ViewNode, new_name: str) -> None:
        raise OSError(errno.EPERM, "a topic cannot be renamed")

    def _topic(self, name: str) -> TopicView:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = TopicView(self, _checked(name, errno.ENOENT))
        return topic

    def forget(self, topic: TopicView) -> None:
        """It does not exist."""
        if self._topics.get(topic.name) is topic:
            del self._topics[topic.name]


class TopicView(ViewNode):
    is_directory = True

    def __init__(self, stream: StreamView, name: str) -> None:
        self.stream = stream
        self.name = name
        self.source = Source(stream.channel, stream.target, name)
        self._files: dict[str, PartitionFile] = {}
        self._turn = 0

    async def describe(self) -> pb.Topic:
        """What the server says of it. NOT_FOUND."""
        try:
            reply = await self.stream.ask(self.name)
        except (NotFound, Invalid) as error:
            self.stream.forget(self)
            raise FileNotFoundError(errno.ENOENT, "there is no such topic") from error
        return reply.topics[0]

    async def attributes(self) -> ViewAttributes:
        await self.describe()
        return view_attributes(self.stream.node, directory=True)

    async def xattrs(self) -> dict[str, bytes]:
        topic = await self.describe()
        records = sum(p.end_offset - p.start_offset for p in topic.partitions)
        return {
            "user.dp.kind": b"topic",
            "user.dp.partitions": b"%d" % len(topic.partitions),
            "user.dp.records": b"%d" % records,
            "user.dp.size_bytes": b"%d" % sum(p.size_bytes for p in topic.partitions),
        }

    async def lookup(self, name: str) -> ViewNode:
        topic = await self.describe()
        if name != ALL and name not in map(str, range(len(topic.partitions))):
            raise FileNotFoundError(errno.ENOENT, "there is no such partition")
        return self._file(name)

    async def entries(self, after: str = "") -> AsyncIterator[tuple[str, ViewNode]]:
        """The partitions by number, then all."""
        if after == ALL:
            return
        topic = await self.describe()
        first = int(after) + 1 if after.isdecimal() else 0
        for number in range(first, len(topic.partitions)):
            yield str(number), self._file(str(number))
        yield ALL, self._file(ALL)

    async def create(self, name: str) -> ViewNode:
        raise OSError(errno.EPERM, "a topic has partitions only: create a topic with more of them")

    def _file(self, name: str) -> PartitionFile:
        file = self._files.get(name)
        if file is None:
            number = None if name == ALL else int(name)
            file = self._files[name] = PartitionFile(self, number)
        return file

    # ---- for its files

    def next_turn(self) -> int:
        """Of the partition that the next writer of `all` gets."""
        self._turn += 1
        return self._turn

    def writer(self, partition: int) -> LineWriter:
        stream = self.stream
        return LineWriter(stream.channel, stream.target, self.name, partition, stream.compression)


def _checked(name: str, number: int) -> str:
    """A name that a message can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise OSError(number, "no name of a topic") from None
    return name
