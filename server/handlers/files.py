"""Files.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.core import files, namespace
from dataplatform.core.platform import Node
from dataplatform.core.units import Unit

from ..dispatch import Call, rpc
from ..packing import attributes_of, node_message


@rpc("Files.Open")
async def open_(call: Call, message: pb.OpenRequest, data: Any) -> pb.Node:
    node = await call.node(message.target)
    await files.file_inode(node.volume, node.inode.number)
    call.platform.opens.open(call.session.id, node.volume, node.inode.number)
    if message.truncate:
        await files.truncate(
            node.volume, call.request(message), node.inode.number, 0, durable=False
        )
        return await call.describe(node.volume, node.inode.number)
    return node_message(node)


@rpc("Files.Close")
async def close(call: Call, message: pb.StatRequest, data: Any) -> pb.Empty:
    volume, number = await call.reference(message.target)
    call.platform.opens.close(call.session.id, volume, number)
    return pb.Empty()


@rpc("Files.Read")
async def read(call: Call, message: pb.ReadRequest, data: Any) -> tuple[pb.ReadReply, bytes]:
    volume, number = await call.reference(message.target)
    read_bytes, size = await files.read(volume, number, message.offset, message.length)
    return pb.ReadReply(size=size), read_bytes


@rpc("Files.Write")
async def write(call: Call, message: pb.WriteRequest, data: Any) -> pb.WriteReply:
    volume, number = await call.reference(message.target)
    durable = call.durable(message, customary=False)
    request = call.request(message)
    if message.append:
        offset, size = await files.append(volume, request, number, data, durable=durable)
        return pb.WriteReply(offset=offset, size=size, verifier=call.server.instance)
    size = await files.write(volume, request, number, message.offset, data, durable=durable)
    return pb.WriteReply(offset=message.offset, size=size, verifier=call.server.instance)


@rpc("Files.Sync")
async def sync(call: Call, message: pb.SyncRequest, data: Any) -> pb.SyncReply:
    if message.HasField("target"):
        volume, number = await call.reference(message.target)
        await files.sync(volume, number)
    else:
        for volume in call.platform.volumes:
            await volume.sync()
    return pb.SyncReply(verifier=call.server.instance)


@rpc("Files.Allocate")
async def allocate(call: Call, message: pb.AllocateRequest, data: Any) -> pb.Node:
    node = await call.node(message.target)
    volume, number, request = node.volume, node.inode.number, call.request(message)
    durable = call.durable(message, customary=False)
    if message.mode == pb.AllocateRequest.RESERVE:
        if not message.keep_size:
            await files.reserve(
                volume, request, number, message.offset, message.length, durable=durable
            )
    else:
        await files.punch(volume, request, number, message.offset, message.length, durable=durable)
    return await call.describe(volume, number)


@rpc("Files.Map")
async def map_(call: Call, message: pb.MapRequest, data: Any) -> pb.MapReply:
    volume, number = await call.reference(message.target)
    ranges, end = await files.data_ranges(
        volume, number, message.offset, min(message.limit or 1000, 10_000)
    )
    inode = await call.platform.describe(volume, number)
    return pb.MapReply(
        ranges=[pb.MapReply.Range(offset=o, length=n) for o, n in ranges], end=end, size=inode.size
    )


@rpc("Files.WriteFile")
async def write_file(call: Call, message: pb.WriteFileRequest, data: Any) -> pb.Node:
    at = await call.new_name(message.target, parents=message.parents)
    new = attributes_of(message)
    volume = at.volume
    with volume.holds.append():
        content = await files.prepare(volume, data)

        async def work(unit: Unit) -> int:
            directory = await namespace.make_parents(unit, at.directory, at.missing, new)
            return await files.put(
                unit, directory, at.name, content, len(data), new, no_replace=message.no_replace
            )

        number = await volume.run(
            call.request(message), work, durable=call.durable(message, customary=False)
        )
    return await call.describe(volume, number)


@rpc("Files.CopyRange")
async def copy_range(call: Call, message: pb.CopyRangeRequest, data: Any) -> pb.CopyRangeReply:
    source: Node = await call.node(message.source)
    target: Node = await call.node(message.target)
    call.same_volume(source.volume, target.volume)
    length = await files.copy_range(
        source.volume,
        call.request(message),
        source.inode.number,
        target.inode.number,
        message.source_offset,
        message.target_offset,
        message.length,
        durable=call.durable(message, customary=False),
    )
    return pb.CopyRangeReply(length=length)
