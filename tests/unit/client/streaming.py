"""A stream in memory that is as strict about producers and groups as the server."""

from __future__ import annotations

import struct
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Conflict, Invalid, NotFound, Stale
from dataplatform.client.records import batches, decode
from dataplatform.client.values import Record
from dataplatform.transport.errors import to_info

from .fakes import FakeServer

Place = tuple[str, int]


class Batch:
    """A stored batch."""

    def __init__(self, data: memoryview, base_offset: int) -> None:
        self.data = base_offset.to_bytes(8, "big") + bytes(data)[8:]
        self.base_offset = base_offset
        self.count: int = struct.unpack_from(">i", data, 57)[0]
        self.producer = struct.unpack_from(">q", data, 43)[0]
        self.sequence = struct.unpack_from(">i", data, 53)[0]

    @property
    def end(self) -> int:
        return self.base_offset + self.count


class Streaming(FakeServer):
    def __init__(self, **topics: int) -> None:
        super().__init__()
        self.topics = topics
        self.logs: dict[Place, list[Batch]] = {}
        self.starts: dict[Place, int] = {}
        self.next_producer = 1
        self.committed: dict[Place, int] = {}
        self.assigned: list[Place] = []
        self.owned: list[list[Place]] = []
        self.epoch = 1
        self.heartbeat_ms = 60_000
        self.answer("Namespace.Stat", pb.Node(volume=1, inode=5, kind=pb.STREAM))
        self.handlers |= {
            "Streams.Topics": self.topics_of,
            "Streams.InitProducer": self.init_producer,
            "Streams.Append": self.append,
            "Streams.Fetch": self.fetch,
            "Streams.Offsets": self.offsets,
            "Groups.Join": self.join,
            "Groups.Heartbeat": self.heartbeat,
            "Groups.Commit": self.commit,
            "Groups.Describe": self.describe,
        }

    # ---- what a test looks at

    def records(self, topic: str, partition: int = 0) -> list[Record]:
        log = self.logs.get((topic, partition), [])
        return [r for batch in log for r in decode(batch.data, topic, partition)]

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        return [record.value for record in self.records(topic, partition)]

    # ---- topics and appends

    def topics_of(self, message: pb.TopicsRequest, data: bytes) -> pb.TopicsReply:
        if any(name not in self.topics for name in message.names):
            raise NotFound("no such topic")
        names = message.names or self.topics
        return pb.TopicsReply(
            options=pb.StreamOptions(partitions=2, compression="lz4"),
            topics=[
                pb.Topic(
                    name=name,
                    partitions=[pb.Partition(partition=n) for n in range(self.topics[name])],
                )
                for name in names
            ],
        )

    def init_producer(self, message: pb.ProducerRequest, data: bytes) -> pb.ProducerReply:
        self.next_producer += 1
        return pb.ProducerReply(
            producer_id=self.next_producer, options=pb.StreamOptions(compression="lz4")
        )

    def append(self, message: pb.AppendRequest, data: bytes) -> pb.AppendReply:
        view, at = memoryview(data), 0
        reply = pb.AppendReply()
        for part in message.parts:
            self.topics.setdefault(part.topic, 2)
            base = self._append((part.topic, part.partition), view[at : at + part.length])
            reply.parts.add(base_offset=base)
            at += part.length
        return reply

    def _append(self, place: Place, data: memoryview) -> int:
        log = self.logs.setdefault(place, [])
        first: int | None = None
        for view in batches(data):
            batch = Batch(view, log[-1].end if log else 0)
            known = [old for old in log if old.producer == batch.producer]
            stored = [old for old in known if old.sequence == batch.sequence]
            if batch.producer >= 0 and stored:
                base = stored[0].base_offset
            else:
                expected = known[-1].sequence + known[-1].count if known else 0
                if batch.producer >= 0 and batch.sequence != expected:
                    raise Conflict("a producer's sequences have a gap")
                log.append(batch)
                base = batch.base_offset
            first = base if first is None else first
        assert first is not None
        return first

    # ---- reading

    def end(self, place: Place) -> int:
        log = self.logs.get(place)
        return log[-1].end if log else 0

    def fetch(self, message: pb.FetchRequest, data: bytes) -> tuple[pb.FetchReply, bytes]:
        reply, found = pb.FetchReply(), b""
        for index, part in enumerate(message.parts):
            place = part.topic, part.partition
            start = self.starts.get(place, 0)
            if part.offset < start or part.offset > self.end(place):
                error = (Stale if part.offset < start else Invalid)("there is no such offset")
                reply.parts.add(index=index, start_offset=start, error=to_info(error))
                continue
            for batch in self.logs.get(place, []):
                if batch.end > part.offset and len(found) < message.size_bytes:
                    reply.parts.add(index=index, length=len(batch.data), start_offset=start)
                    found += batch.data
                    break
        return reply, found

    def offsets(self, message: pb.OffsetsRequest, data: bytes) -> pb.OffsetsReply:
        if message.topic not in self.topics:
            raise NotFound("no such topic")
        reply = pb.OffsetsReply()
        for number in range(self.topics[message.topic]):
            place = message.topic, number
            if message.timestamp_ms == -2:
                offset = self.starts.get(place, 0)
            elif message.timestamp_ms == -1:
                offset = self.end(place)
            else:
                late = [
                    r.offset for r in self.records(*place) if r.timestamp >= message.timestamp_ms
                ]
                offset = self.end(place)
                for batch in self.logs.get(place, []):
                    if late and batch.base_offset <= late[0] < batch.end:
                        offset = batch.base_offset
            reply.parts.add(partition=number, offset=offset)
        return reply

    # ---- a group of one group name; a test says what is assigned

    def membership(self, member: str) -> pb.MembershipReply:
        return pb.MembershipReply(
            member=member,
            epoch=self.epoch,
            assigned=[pb.Owned(topic=topic, partition=number) for topic, number in self.assigned],
            heartbeat_ms=self.heartbeat_ms,
        )

    def join(self, message: pb.JoinGroupRequest, data: bytes) -> pb.MembershipReply:
        return self.membership(message.member)

    def heartbeat(self, message: pb.HeartbeatRequest, data: bytes) -> pb.MembershipReply:
        self.owned.append([(o.topic, o.partition) for o in message.owned])
        return self.membership(message.member)

    def commit(self, message: pb.CommitOffsetsRequest, data: bytes) -> pb.Empty:
        for part in message.parts:
            self.committed[part.topic, part.partition] = part.offset
        return pb.Empty()

    def describe(self, message: pb.GroupRequest, data: bytes) -> pb.GroupsReply:
        group: Any = pb.GroupsReply.Group(name=message.group)
        for (topic, partition), offset in self.committed.items():
            group.offsets.add(topic=topic, partition=partition, offset=offset)
        return pb.GroupsReply(groups=[group])
