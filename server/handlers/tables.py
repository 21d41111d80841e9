"""Tables.*: unpack, one core call, pack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.core import tables
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import Kind

from ..dispatch import Call, gathered, rpc
from ..packing import node_message


def _version(call: Call, message: Any, volume: Volume, stored: int) -> pb.VersionReply:
    return pb.VersionReply(version=stored)


def _deleted(call: Call, message: Any, volume: Volume, stored: bool) -> pb.DeleteReply:
    return pb.DeleteReply(existed=stored)


def _incremented(
    call: Call, message: Any, volume: Volume, stored: tuple[int, int | float]
) -> pb.IncrementReply:
    version, value = stored
    if isinstance(value, int):
        return pb.IncrementReply(version=version, integer=value)
    return pb.IncrementReply(version=version, real=value)


@rpc("Tables.Put", answer=_version)
async def put(call: Call, message: pb.PutRequest, data: Any) -> pb.VersionReply:
    volume, table = await call.reference(message.table)
    if_version = message.if_version if message.HasField("if_version") else None
    version = await volume.run(
        call.request(message),
        lambda unit: tables.put(
            unit, table, message.key, bytes(data), if_version=if_version, replace=message.replace
        ),
        durable=call.durable(message, customary=True),
    )
    return pb.VersionReply(version=version)


@gathered("Tables.Put")
def put_gathered(
    call: Call, message: pb.PutRequest, data: bytes
) -> tuple[asyncio.Future[int], Callable[[int], pb.VersionReply]] | None:
    if message.replace or message.HasField("if_version"):
        return None
    if message.durability not in (pb.CUSTOMARY, pb.DURABLE):
        return None
    found = call.reference_now(message.table)
    if found is None:
        return None
    volume, table = found
    return volume.puts.put(call.request(message), table, message.key, data), _put_reply


def _put_reply(version: int) -> pb.VersionReply:
    return pb.VersionReply(version=version)


@rpc("Tables.PutMany", answer=_version)
async def put_many(call: Call, message: pb.PutManyRequest, data: Any) -> pb.VersionReply:
    volume, table = await call.reference(message.table)
    version = await volume.run(
        call.request(message),
        lambda unit: tables.put_many(
            unit, table, bytes(data), replace=message.replace, separate=message.separate
        ),
        durable=call.durable(message, customary=True),
    )
    return pb.VersionReply(version=version)


@rpc("Tables.Get")
async def get(call: Call, message: pb.GetRequest, data: Any) -> tuple[pb.RowsReply, bytes]:
    volume, table = await call.reference(message.table)
    page = await tables.get_many(volume, table, message.keys, message.columns, call.ask())
    return pb.RowsReply(end=True), page


@rpc("Tables.Delete", answer=_deleted)
async def delete(call: Call, message: pb.DeleteRequest, data: Any) -> pb.DeleteReply:
    volume, table = await call.reference(message.table)
    if_version = message.if_version if message.HasField("if_version") else None
    existed = await volume.run(
        call.request(message),
        lambda unit: tables.delete(
            unit, table, message.key, message.columns, if_version=if_version
        ),
        durable=call.durable(message, customary=True),
    )
    return pb.DeleteReply(existed=existed)


@rpc("Tables.Increment", answer=_incremented)
async def increment(call: Call, message: pb.IncrementRequest, data: Any) -> pb.IncrementReply:
    amount = message.WhichOneof("amount")
    if amount is None:
        raise Invalid("an increment needs an amount", column=message.column)
    volume, table = await call.reference(message.table)
    stored = await volume.run(
        call.request(message),
        lambda unit: tables.increment(
            unit, table, message.key, message.column, getattr(message, amount)
        ),
        durable=call.durable(message, customary=True),
    )
    return _incremented(call, message, volume, stored)


@rpc("Tables.Scan")
async def scan(call: Call, message: pb.ScanRequest, data: Any) -> tuple[pb.RowsReply, bytes]:
    volume, table = await call.reference(message.table)
    page = await tables.scan(
        volume,
        table,
        start=message.start,
        end=message.end if message.HasField("end") else None,
        columns=message.columns,
        where=message.where,
        limit=message.limit,
        reverse=message.reverse,
        request=call.ask(),
    )
    return pb.RowsReply(end=page.end, next=page.next), page.data


@rpc("Tables.Info")
async def info(call: Call, message: pb.StatRequest, data: Any) -> pb.TableInfoReply:
    node = await call.node(message.target)
    volume, inode = node
    path = await call.platform.path_of(volume, inode.number)
    if inode.kind != Kind.TABLE:
        raise Invalid("not a table", path=path)
    statistics = await tables.statistics(volume, inode.number)
    return pb.TableInfoReply(
        node=node_message(node),
        rows=statistics.count,
        size_bytes=statistics.size_bytes,
        options=pb.TableOptions(ttl_ms=inode.settings.get("ttl_ms", 0)),
        path=path,
    )
