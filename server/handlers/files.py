"""Files.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import PlatformError
from dataplatform.core import files, namespace
from dataplatform.core.access.verbs import Verb
from dataplatform.core.platform import Node
from dataplatform.core.units import Unit
from dataplatform.core.volumes import Volume

from ..areas import area_of, open_area
from ..dispatch import Call, rpc
from ..packing import attributes_of, located, shared_bytes, write_parts
from .namespace import node_left


async def _opened(call: Call, message: pb.OpenRequest, volume: Volume, stored: bytes) -> pb.Node:
    node = await call.node_left(volume, stored)
    call.platform.opens.open(call.session.id, volume, node.inode)
    return node


@rpc("Files.Open", answer=_opened)
async def open_(call: Call, message: pb.OpenRequest, data: Any) -> pb.Node:
    node = await call.node(message.target)
    volume, opens = node.volume, call.platform.opens
    inode = await files.open_file(
        opens, call.session.id, volume, node.inode.number, Verb(message.access), call.asker
    )
    if message.truncate:
        stored = await files.truncate(volume, call.request(message), inode.number, 0, durable=False)
        return await call.node_left(volume, stored)
    return await call.shown(Node(volume, inode))


@rpc("Files.Close")
async def close(call: Call, message: pb.StatRequest, data: Any) -> pb.Empty:
    if message.target.volume in call.platform.withdrawn:
        return pb.Empty()  # locking it closed all of it
    volume, number = await call.reference(message.target)
    call.platform.opens.close(call.session.id, volume, number)
    return pb.Empty()


@rpc("Files.Read")
async def read(call: Call, message: pb.ReadRequest, data: Any) -> tuple[pb.ReadReply, files.Parts]:
    volume, number = await call.reference(message.target)
    found = await files.read(volume, number, message.offset, message.length, call.asker)
    reply = pb.ReadReply(size=found.size, version=found.version, mtime_ns=found.mtime_ns)
    return reply, found.parts


@rpc("Files.Locate")
async def locate(
    call: Call, message: pb.ReadRequest, data: Any
) -> tuple[pb.LocateReply, files.Parts]:
    volume, number = await call.reference(message.target)
    if volume.home.settings.bandwidth:
        return pb.LocateReply(elsewhere=True), []  # what is read past the server is not counted
    found = await files.locate(volume, number, message.offset, message.length, call.asker)
    return located(found.pieces, found.size, volume.storage.segments.directory)


def _appended(
    call: Call, message: pb.WriteRequest, volume: Volume, stored: tuple[int, int]
) -> pb.WriteReply:
    offset, size = stored
    return pb.WriteReply(offset=offset, size=size, verifier=call.server.instance)


@rpc("Files.Write", answer=_appended)
async def write(call: Call, message: pb.WriteRequest, data: Any) -> pb.WriteReply:
    volume, number = await call.reference(message.target)
    if call.keeper is not None:
        await files.check_writable(volume, call.asker, number)
        # Until it is durable it is kept, to be sent again: not over what others wrote since.
        await call.keeper.keep(volume, number)
    durable = call.durable(message, customary=False)
    request = call.request(message)
    expected_size = message.expected_size if message.HasField("expected_size") else None
    area = area_of(call.session.area, message.area) if message.area else None
    if area is not None and not message.parts:
        data = shared_bytes(area, message, data)
    if message.append:
        stored = await files.append(
            volume, request, number, data, durable=durable, expected_size=expected_size
        )
        return _appended(call, message, volume, stored)
    if message.parts:
        size = await files.write_parts(
            volume,
            request,
            number,
            write_parts(message, data, area),
            durable=durable,
            mtime_ns=message.mtime_ns,
        )
        return _written(call, volume, number, 0, size)
    # At an offset it is not in any commit yet: nothing is kept of it, and repeating it is harmless.
    size = await files.write(
        volume,
        request,
        number,
        message.offset,
        data,
        durable=durable,
        expected_size=expected_size,
        mtime_ns=message.mtime_ns,
    )
    return _written(call, volume, number, message.offset, size)


def _written(call: Call, volume: Volume, number: int, offset: int, size: int) -> pb.WriteReply:
    reply = pb.WriteReply(offset=offset, size=size, verifier=call.server.instance)
    if volume.quotas.has_limits and volume.quotas.is_nearly_full(number):
        reply.nearly_full = True
    return reply


@rpc("Files.Sync")
async def sync(call: Call, message: pb.SyncRequest, data: Any) -> pb.SyncReply:
    if message.HasField("target"):
        volume, number = await call.reference(message.target)
        await files.sync(volume, number, call.asker)
    else:
        failed: PlatformError | None = None
        changed = call.session.changed
        for volume in call.platform.volumes:
            if volume.id not in changed and not call.principal.is_free:
                continue  # what others wrote is none of his
            try:
                await volume.sync()
            except PlatformError as error:
                failed = failed or error  # the other volumes first
        if failed is not None:
            raise failed
    return pb.SyncReply(verifier=call.server.instance)


@rpc("Files.Share")
async def share(call: Call, message: pb.ShareRequest, data: Any) -> pb.Empty:
    call.session.area = open_area(call.session.pid, call.session.uid, message)
    return pb.Empty()


@rpc("Files.Allocate", answer=node_left)
async def allocate(call: Call, message: pb.AllocateRequest, data: Any) -> pb.Node:
    node = await call.node(message.target)
    volume, number, request = node.volume, node.inode.number, call.request(message)
    durable = call.durable(message, customary=False)
    if message.mode != pb.AllocateRequest.RESERVE:
        change = files.punch
    elif not message.keep_size:
        change = files.reserve
    else:
        await files.check_writable(volume, request, number)
        return await call.describe(volume, number)
    stored = await change(volume, request, number, message.offset, message.length, durable=durable)
    return await call.node_left(volume, stored)


@rpc("Files.Map")
async def map_(call: Call, message: pb.MapRequest, data: Any) -> pb.MapReply:
    volume, number = await call.reference(message.target)
    ranges, end = await files.data_ranges(
        volume, number, message.offset, min(message.limit or 1000, 10_000), call.asker
    )
    inode = await call.platform.describe(volume, number)
    return pb.MapReply(
        ranges=[pb.MapReply.Range(offset=o, length=n) for o, n in ranges], end=end, size=inode.size
    )


@rpc("Files.WriteFile", answer=node_left)
async def write_file(call: Call, message: pb.WriteFileRequest, data: Any) -> pb.Node:
    at = await call.new_name(message.target, parents=message.parents)
    new = attributes_of(message)
    volume = at.volume
    await files.look_ahead(volume, call.asker, at.directory, at.name, len(data))
    with volume.holds.append():
        content = await files.prepare(volume, data)

        async def work(unit: Unit) -> bytes:
            directory = await namespace.make_parents(unit, at.directory, at.missing, new)
            number = await files.put(
                unit, directory, at.name, content, len(data), new, no_replace=message.no_replace
            )
            return await call.left(unit, number)

        stored = await volume.run(
            call.request(message), work, durable=call.durable(message, customary=False)
        )
    return await call.node_left(volume, stored)


def _copied(
    call: Call, message: pb.CopyRangeRequest, volume: Volume, stored: int
) -> pb.CopyRangeReply:
    return pb.CopyRangeReply(length=stored)


@rpc("Files.CopyRange", answer=_copied)
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
