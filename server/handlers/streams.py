"""Streams.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.core import streams
from dataplatform.core.platform import Node
from dataplatform.keyspace.records import Kind
from dataplatform.transport.errors import to_info

from ..dispatch import Call, rpc
from ..packing import append_parts, node_message, stream_options


async def stream_node(call: Call, target: pb.Target) -> Node:
    """What the target names. INVALID if it is no stream."""
    node = await call.node(target)
    if node.inode.kind != Kind.STREAM:
        path = await call.platform.path_of(node.volume, node.inode.number)
        raise Invalid("not a stream", path=path, kind=Kind(node.inode.kind).word)
    return node


@rpc("Streams.CreateTopic")
async def create_topic(call: Call, message: pb.TopicRequest, data: Any) -> pb.Topic:
    node = await stream_node(call, message.stream)
    stream = node.inode.number
    await node.volume.run(
        call.request(message),
        lambda unit: streams.create_topic(
            unit, stream, message.topic, message.partitions, exist_ok=message.exist_ok
        ),
        durable=True,
    )
    (topic,) = await streams.topics(node.volume, stream, [message.topic])
    return _topic(topic)


@rpc("Streams.DeleteTopic")
async def delete_topic(call: Call, message: pb.TopicRequest, data: Any) -> pb.Empty:
    node = await stream_node(call, message.stream)
    await node.volume.run(
        call.request(message),
        lambda unit: streams.delete_topic(unit, node.inode.number, message.topic),
        durable=True,
    )
    return pb.Empty()


@rpc("Streams.Topics")
async def topics(call: Call, message: pb.TopicsRequest, data: Any) -> pb.TopicsReply:
    node = await stream_node(call, message.stream)
    found = await streams.topics(node.volume, node.inode.number, message.names)
    return pb.TopicsReply(
        topics=[_topic(topic) for topic in found],
        options=stream_options(node.inode),
        node=node_message(node),
        path=await call.platform.path_of(node.volume, node.inode.number),
    )


def _topic(topic: streams.TopicEnds) -> pb.Topic:
    return pb.Topic(
        name=topic.name,
        id=topic.id,
        partitions=[pb.Partition(**p._asdict()) for p in topic.partitions],
    )


@rpc("Streams.InitProducer")
async def init_producer(call: Call, message: pb.ProducerRequest, data: Any) -> pb.ProducerReply:
    node = await stream_node(call, message.stream)
    producer_id, epoch = await node.volume.run(
        call.request(message),
        lambda unit: streams.init_producer(unit, node.inode.number),
        durable=True,
    )
    return pb.ProducerReply(
        producer_id=producer_id, epoch=epoch, options=stream_options(node.inode)
    )


@rpc("Streams.Append")
async def append(call: Call, message: pb.AppendRequest, data: bytes | memoryview) -> pb.AppendReply:
    volume, inode = await stream_node(call, message.stream)
    parts = append_parts(message, data)
    with volume.holds.append():
        prepared = await streams.prepare(volume, parts)
        results = await volume.run(
            call.request(message),
            lambda unit: streams.append(unit, inode.number, prepared),
            durable=call.durable(message, customary=True),
        )
    return pb.AppendReply(
        parts=[
            pb.AppendReply.Part(base_offset=base, append_time_ms=time_ms, duplicate=bool(duplicate))
            for base, time_ms, duplicate in results
        ]
    )


@rpc("Streams.Fetch")
async def fetch(
    call: Call, message: pb.FetchRequest, data: Any
) -> tuple[pb.FetchReply, list[streams.Buffer]]:
    volume, inode = await stream_node(call, message.stream)
    fetched = await streams.fetch(
        volume,
        inode.number,
        [streams.Position(p.topic, p.partition, p.offset) for p in message.parts],
        size_bytes=message.size_bytes,
        wait_s=message.wait_ms / 1000,
    )
    parts = [
        pb.FetchReply.Part(
            index=part.position,
            length=part.length,
            start_offset=part.start_offset,
            end_offset=part.end_offset,
            error=to_info(part.error) if part.error is not None else None,
        )
        for part in fetched
    ]
    return pb.FetchReply(parts=parts), [buffer for part in fetched for buffer in part.buffers]


@rpc("Streams.Offsets")
async def offsets(call: Call, message: pb.OffsetsRequest, data: Any) -> pb.OffsetsReply:
    node = await stream_node(call, message.stream)
    found = await streams.offsets(
        node.volume, node.inode.number, message.topic, message.timestamp_ms
    )
    return pb.OffsetsReply(parts=[pb.OffsetsReply.Part(**part._asdict()) for part in found])
