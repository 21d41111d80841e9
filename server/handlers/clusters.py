"""Clusters.*: unpack, ask the other server, one core call, pack."""

from __future__ import annotations

import asyncio
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import PlatformError, Unavailable
from dataplatform.core.clusters import Access, Asked
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ClusterRecord

from ..clusters.asking import Answer, ask, check_address
from ..dispatch import Call, rpc
from .namespace import done


def _message(name: str, record: ClusterRecord) -> pb.Cluster:
    return pb.Cluster(
        name=name,
        address=record.address,
        store=record.identity,
        slot=record.slot,
        added_ns=record.added_ns,
        token=bool(record.token),
        authority=bool(record.authority),
        access=record.access,
    )


def _known(call: Call, message: Any, volume: Volume | None, stored: str) -> pb.Cluster:
    return _message(stored, call.platform.clusters.get(stored))


async def _ask(call: Call, access: Access, *, unchecked: bool) -> Asked | None:
    """Who answers there; None if nobody does and that was allowed."""
    try:
        return (await ask(access, call.platform.cluster)).asked
    except Unavailable as error:
        if unchecked:
            return None
        facts = {**error.facts, "cluster": access.name}  # so that nobody repeats it
        raise Unavailable(
            f"{error.message}; to add it all the same, say --unchecked", **facts
        ) from error


@rpc("Clusters.Add", answer=_known)
async def add(call: Call, message: pb.AddClusterRequest, data: Any) -> pb.Cluster:
    clusters = call.platform.clusters
    clusters.check_may_change(call.principal)
    place = check_address(message.address, has_token=bool(message.token), insecure=message.insecure)
    access = Access(message.name, str(place), message.token, message.authority, b"", 0)
    stored = await clusters.add(
        call.request(message),
        message.name,
        str(place),
        token=message.token,
        authority=message.authority,
        access=message.access if message.HasField("access") else None,
        is_secure=place.is_tls,
        asked=await _ask(call, access, unchecked=message.unchecked),
    )
    return _known(call, message, None, stored)


@rpc("Clusters.Set", answer=_known)
async def set_(call: Call, message: pb.SetClusterRequest, data: Any) -> pb.Cluster:
    clusters = call.platform.clusters
    clusters.check_may_change(call.principal)
    given = {
        name: getattr(message, name)
        for name in ("address", "token", "authority", "access")
        if message.HasField(name)
    }
    asked = None
    if given.keys() - {"access"}:
        new = (await clusters.access(message.name))._replace(
            **{name: value for name, value in given.items() if name != "access"}
        )
        place = check_address(new.address, has_token=bool(new.token), insecure=message.insecure)
        asked = await _ask(call, new, unchecked=message.unchecked)
        if "address" in given:
            given |= {"address": str(place), "is_secure": place.is_tls}
    stored = await clusters.set(call.request(message), message.name, asked=asked, **given)
    return _known(call, message, None, stored)


@rpc("Clusters.Remove", answer=done)
async def remove(call: Call, message: pb.ClusterRequest, data: Any) -> pb.Empty:
    await call.platform.clusters.remove(call.request(message), message.name)
    return pb.Empty()


@rpc("Clusters.List")
async def list_(call: Call, message: pb.ClustersRequest, data: Any) -> pb.ClustersReply:
    clusters = call.platform.clusters
    found = clusters.all(call.principal)
    if message.name:
        clusters.get(message.name)
        found = [(name, record) for name, record in found if name == message.name]
    messages = [_message(name, record) for name, record in found]
    if message.ask:
        await asyncio.gather(*(_show(call, shown) for shown in messages))
    return pb.ClustersReply(clusters=messages)


async def _show(call: Call, shown: pb.Cluster) -> None:
    """Ask the cluster, and write down what it says, or why it does not."""
    clusters = call.platform.clusters
    shown.asked = True
    try:
        answer: Answer = await ask(await clusters.access(shown.name), call.platform.cluster)
        await clusters.learn(shown.name, answer.asked)
    except PlatformError as error:
        shown.error = str(error)
        return
    shown.version = answer.asked.program
    shown.store = answer.asked.identity
    shown.user = answer.asked.user
    shown.speak = answer.asked.may_speak
    shown.latency_us = int(answer.latency_s * 1e6)
    shown.clock_ns = answer.clock_ns
