"""Streams.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.core import streams
from dataplatform.core.platform import Node
from dataplatform.core.units import Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import Inode, Kind
from dataplatform.transport.errors import to_info

from ..dispatch import Call, rpc
from ..packing import append_parts, node_message, stream_options
from .namespace import done


async def stream_node(call: Call, target: pb.Target) -> Node:
    """What the target names. INVALID if it is no stream."""
    node = await call.node(target)
    if node.inode.kind != Kind.STREAM:
        path = await call.platform.path_of(node.volume, node.inode.number)
        raise Invalid("not a stream", path=path, kind=Kind(node.inode.kind).word)
    return node


async def _topic_created(
    call: Call, message: pb.TopicRequest, volume: Volume, stored: list[Any]
) -> pb.Topic:
    """As it is now; a topic that has gone meanwhile as it was made."""
    number, partitions, stream = stored
    try:
        (topic,) = await streams.topics(volume, stream, [message.topic])
    except NotFound:
        topic = None
    if topic is not None and topic.id == number:
        return _topic(topic)
    return pb.Topic(
        name=message.topic,
        id=number,
        partitions=[pb.Partition(partition=n) for n in range(partitions)],
    )


@rpc("Streams.CreateTopic", answer=_topic_created)
async def create_topic(call: Call, message: pb.TopicRequest, data: Any) -> pb.Topic:
    node = await stream_node(call, message.stream)
    stream = node.inode.number

    async def work(unit: Unit) -> list[int]:
        topic = await streams.create_topic(
            unit, stream, message.topic, message.partitions, exist_ok=message.exist_ok
        )
        return [*topic, stream]

    stored = await node.volume.run(call.request(message), work, durable=True)
    return await _topic_created(call, message, node.volume, stored)


@rpc("Streams.DeleteTopic", answer=done)
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
    found = await streams.topics(node.volume, node.inode.number, message.names, call.ask())
    return pb.TopicsReply(
        topics=[_topic(topic) for topic in found],
        options=stream_options(node.inode),
        node=node_message(node),
        path=await call.platform.path_of(node.volume, node.inode.number),
        history=node.volume.settings.history,
    )


def _topic(topic: streams.TopicEnds) -> pb.Topic:
    return pb.Topic(
        name=topic.name,
        id=topic.id,
        partitions=[pb.Partition(**p._asdict()) for p in topic.partitions],
    )


async def _producer_ready(
    call: Call, message: pb.ProducerRequest, volume: Volume, stored: list[Any]
) -> pb.ProducerReply:
    producer_id, epoch, packed = stored
    options = stream_options(Inode.unpack(packed))
    return pb.ProducerReply(producer_id=producer_id, epoch=epoch, options=options)


@rpc("Streams.InitProducer", answer=_producer_ready)
async def init_producer(call: Call, message: pb.ProducerRequest, data: Any) -> pb.ProducerReply:
    node = await stream_node(call, message.stream)
    stream = node.inode.number

    async def work(unit: Unit) -> list[Any]:
        return [*await streams.init_producer(unit, stream), await call.left(unit, stream)]

    stored = await node.volume.run(call.request(message), work, durable=True)
    return await _producer_ready(call, message, node.volume, stored)


def _appended(
    call: Call, message: pb.AppendRequest, volume: Volume, stored: list[list[int | bool]]
) -> pb.AppendReply:
    return pb.AppendReply(
        parts=[
            pb.AppendReply.Part(base_offset=base, append_time_ms=time_ms, duplicate=bool(duplicate))
            for base, time_ms, duplicate in stored
        ]
    )


@rpc("Streams.Append", answer=_appended)
async def append(call: Call, message: pb.AppendRequest, data: bytes | memoryview) -> pb.AppendReply:
    volume, stream = await call.reference(message.stream)
    parts = append_parts(message, data)
    with volume.holds.append():
        prepared = await streams.prepare(volume, parts, stream=stream, request=call.ask())
        stored = await volume.run(
            call.request(message),
            lambda unit: streams.append(unit, stream, prepared),
            durable=call.durable(message, customary=True),
        )
    return _appended(call, message, volume, stored)


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
        ask=call.ask,
    )
    parts = [
        pb.FetchReply.Part(
            index=part.position,
            length=part.length,
            start_offset=part.start_offset,
            end_offset=part.end_offset,
            error=to_info(await call.named(part.error, message)) if part.error else None,
        )
        for part in fetched
    ]
    buffers = [buffer for part in fetched for buffer in part.buffers]
    return pb.FetchReply(parts=parts, ended=volume.is_snapshot and not buffers), buffers


@rpc("Streams.Offsets")
async def offsets(call: Call, message: pb.OffsetsRequest, data: Any) -> pb.OffsetsReply:
    node = await stream_node(call, message.stream)
    found = await streams.offsets(
        node.volume, node.inode.number, message.topic, message.timestamp_ms, call.ask()
    )
    return pb.OffsetsReply(parts=[pb.OffsetsReply.Part(**part._asdict()) for part in found])
