"""Gathers.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import NotFound
from dataplatform.core.gathering.gathers import Flow, Source
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import GatherRecord

from ..dispatch import Call, rpc
from .namespace import done
from .streams import stream_node


async def _message(call: Call, name: str, record: GatherRecord) -> pb.Gather:
    flows = {flow.source: flow for flow in call.server.flows(name)}
    sources = [Source(*source) for source in record.sources]
    return pb.Gather(
        path=await call.platform.gathers.path_of(record),
        by=record.by,
        created_ns=record.created_ns,
        paused=record.is_paused,
        sources=[_source(source, flows.get(source)) for source in sources],
    )


def _source(source: Source, flow: Flow | None) -> pb.GatherSource:
    if flow is None:
        return pb.GatherSource(source=str(source), state="waiting", reason="it begins")
    cursor = flow.cursor
    return pb.GatherSource(
        source=str(source),
        state=flow.state,
        reason=cursor.stopped or flow.waiting,
        records=cursor.records,
        behind=flow.behind,
        lost=cursor.lost,
        time_ns=cursor.time_ns,
        offsets=cursor.offsets,
    )


async def _begun(call: Call, message: Any, volume: Volume | None, stored: str) -> pb.Gather:
    record = call.platform.gathers.find(stored)
    if record is None:
        raise NotFound("the gathering has ended")
    return await _message(call, stored, record)


def _sources(message: Any) -> list[Source]:
    return [Source(source.cluster, source.path, source.topic) for source in message.sources]


async def _name(call: Call, message: Any) -> str:
    call.platform.clusters.check_may_look(call.principal)
    node = await stream_node(call, message.stream)
    name = call.platform.gathers.find_for(node.volume.id, node.inode.number, message.topic)
    if name is None:
        raise NotFound("nothing is gathered into this topic", topic=message.topic)
    return name


@rpc("Gathers.Begin", answer=_begun)
async def begin(call: Call, message: pb.GatherRequest, data: Any) -> pb.Gather:
    call.platform.clusters.check_may_change(call.principal)
    node = await stream_node(call, message.stream)
    stored = await call.platform.gathers.begin(
        call.request(message), node, message.topic, _sources(message)
    )
    return await _begun(call, message, None, stored)


@rpc("Gathers.List")
async def list_(call: Call, message: pb.Empty, data: Any) -> pb.GathersReply:
    found = call.platform.gathers.all(call.principal)
    return pb.GathersReply(gathers=[await _message(call, *pair) for pair in found])


@rpc("Gathers.Pause", answer=done)
async def pause(call: Call, message: pb.GatherRequest, data: Any) -> pb.Empty:
    name = await _name(call, message)
    await call.platform.gathers.pause(call.request(message), name, is_paused=message.paused)
    return pb.Empty()


@rpc("Gathers.End", answer=done)
async def end(call: Call, message: pb.GatherRequest, data: Any) -> pb.Empty:
    name = await _name(call, message)
    await call.platform.gathers.end(call.request(message), name, _sources(message))
    return pb.Empty()
