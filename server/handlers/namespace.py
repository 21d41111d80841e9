"""Namespace.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.core import files, listing, namespace
from dataplatform.core.access.verbs import ALL, Verb
from dataplatform.core.owners import opened_by_maker
from dataplatform.core.platform import NewName
from dataplatform.core.units import Unit
from dataplatform.core.usage import usage_at
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, ROOT_VOLUME, Kind

from ..clusters.listing import with_clusters
from ..dispatch import Call, rpc
from ..packing import attributes_of, node_message, settings_of


def done(call: Call, message: Any, volume: Volume, stored: None) -> pb.Empty:
    """Answers what has nothing to say but that it is done."""
    return pb.Empty()


async def node_left(call: Call, message: Any, volume: Volume, stored: bytes) -> pb.Node:
    """Answers with the node as the request left it."""
    return await call.node_left(volume, stored)


@rpc("Namespace.Stat")
async def stat(call: Call, message: pb.StatRequest, data: Any) -> pb.Node:
    node = await call.node(message.target, follow=message.follow)
    return node_message(node) if call.keeper is None else await call.shown(node)


@rpc("Namespace.Access")
async def access(call: Call, message: pb.AccessRequest, data: Any) -> pb.AccessReply:
    volume, number = await call.reference(message.target)
    guard, session = call.platform.guard, call.session.id
    allowed = Verb(0)
    for verb in Verb(message.verbs & ALL):
        if await guard.may(call.principal, volume, number, verb, session=session):
            allowed |= verb
    return pb.AccessReply(allowed=allowed)


@rpc("Namespace.List")
async def list_(call: Call, message: pb.ListRequest, data: Any) -> pb.ListReply:
    node = await call.node(message.target)
    page = await listing.page(node, message.after, message.limit, call.keeper, call.asker)
    nodes = [await call.shown(n, name=n.inode.name.decode()) for n in page.nodes]
    is_root = node.volume.id == ROOT_VOLUME and node.inode.number == ROOT_INODE
    if is_root and call.platform.clusters and not call.cluster:
        nodes = with_clusters(call, nodes, message.after, is_end=page.end)
    return pb.ListReply(nodes=nodes, end=page.end)


async def _created(call: Call, message: pb.CreateRequest, volume: Volume, stored: bytes) -> pb.Node:
    if not message.open:
        return await call.node_left(volume, stored)
    verbs = opened_by_maker(call.principal, call.inode_left(stored))
    node = await call.node_left(volume, stored)
    call.platform.opens.open(call.session.id, volume, node.inode, verbs)
    return node


@rpc("Namespace.Create", answer=_created)
async def create(call: Call, message: pb.CreateRequest, data: Any) -> pb.Node:
    at = await call.new_name(message.target, parents=message.parents)
    new = attributes_of(message)

    async def work(unit: Unit) -> bytes:
        directory = await namespace.make_parents(unit, at.directory, at.missing, new)
        return await call.left(
            unit,
            await namespace.create(unit, directory, at.name, new, exist_ok=message.exist_ok),
        )

    stored = await at.volume.run(
        call.request(message), work, durable=call.durable(message, customary=_synced(new.kind))
    )
    return await _created(call, message, at.volume, stored)


def _synced(kind: int) -> bool:
    """Tables and streams are there for good when their creation is acknowledged; what POSIX knows
    is durable at fsync (D5)."""
    return kind in (Kind.TABLE, Kind.STREAM)


@rpc("Namespace.Link", answer=node_left)
async def link(call: Call, message: pb.LinkRequest, data: Any) -> pb.Node:
    existing = await call.node(message.existing, follow=False)
    at = await call.new_name(message.target)
    call.same_volume(existing.volume, at.volume)
    await existing.volume.writeback.flush(existing.inode.number)

    async def work(unit: Unit) -> bytes:
        return await call.left(
            unit, await namespace.link(unit, existing.inode.number, at.directory, at.name)
        )

    stored = await at.volume.run(
        call.request(message), work, durable=call.durable(message, customary=False)
    )
    return await call.node_left(at.volume, stored)


def _names_changed(
    call: Call, message: Any, volume: Volume, stored: tuple[int, int, int, int, bool]
) -> pb.NamesReply:
    """Answers what changed names; see `_changed_names` for what is stored."""
    number, time_ns, lost, renamed, is_last = stored
    if number:
        call.platform.opens.ensure(call.session.id, volume, number)
    return pb.NamesReply(
        time_ns=time_ns,
        kept_open=bool(number),
        lost=lost,
        renamed=renamed,
        is_last=is_last,
    )


def _changed_names(call: Call, unit: Unit, number: int) -> tuple[int, int, int, int, bool]:
    """The inode that the session keeps open (0: none), from the moment at which it has no name any
    more; the time; the inodes that lost a name and that have another; whether it was the last."""
    if number:
        opens, session = call.platform.opens, call.session.id
        unit.on_commit(lambda _: opens.ensure(session, unit.volume, number))
    is_last = unit.lost_name in unit.unlinked
    return number, unit.now_ns, unit.lost_name, unit.renamed, is_last


@rpc("Namespace.Remove", answer=_names_changed)
async def remove(call: Call, message: pb.RemoveRequest, data: Any) -> pb.NamesReply:
    at = await call.new_name(message.target, parents=message.missing_ok)
    expect = message.expect

    async def work(unit: Unit) -> tuple[int, int, int, int, bool]:
        if at.missing:
            return 0, 0, 0, 0, False  # missing_ok: not even its directory is there
        number = await namespace.remove(
            unit,
            at.directory,
            at.name.encode(),
            directories=expect != pb.RemoveRequest.NOT_DIRECTORY,
            others=expect != pb.RemoveRequest.EMPTY_DIRECTORY,
            missing_ok=message.missing_ok,
            keep_open=message.keep_open,
        )
        return _changed_names(call, unit, number)

    stored = await at.volume.run(
        call.request(message), work, durable=call.durable(message, customary=False)
    )
    return _names_changed(call, message, at.volume, stored)


@rpc("Namespace.Rename", answer=_names_changed)
async def rename(call: Call, message: pb.RenameRequest, data: Any) -> pb.NamesReply:
    source = await call.new_name(message.source)
    target = await call.new_name(message.target)
    call.same_volume(source.volume, target.volume)
    await _flush(source)

    async def work(unit: Unit) -> tuple[int, int, int, int, bool]:
        number = await namespace.rename(
            unit,
            source.directory,
            source.name.encode(),
            target.directory,
            target.name,
            no_replace=message.no_replace,
            exchange=message.exchange,
            keep_open=message.keep_open,
        )
        return _changed_names(call, unit, number)

    stored = await source.volume.run(
        call.request(message), work, durable=call.durable(message, customary=False)
    )
    return _names_changed(call, message, source.volume, stored)


async def _flush(source: NewName) -> None:
    """A new file's bytes go before its new name: replacing by rename never shows an empty file."""
    writeback = source.volume.writeback
    if writeback:
        entry = await source.volume.find_entry(source.directory, source.name.encode())
        if entry is not None:
            await writeback.flush(entry.inode)


@rpc("Namespace.SetAttributes", answer=node_left)
async def set_attributes(call: Call, message: pb.SetAttributesRequest, data: Any) -> pb.Node:
    optional: dict[str, Any] = {
        name: getattr(message, name)
        for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns")
        if message.HasField(name)
    }
    near = None
    if not message.HasField("stream") and not message.HasField("table"):
        near = call.reference_now(message.target)
    if near is None:
        node = await call.node(message.target, follow=message.follow)
        near = node.volume, node.inode.number
        settings = settings_of(node.inode.kind, message)
        if settings is not None:
            optional["settings"] = settings
    if message.now:
        optional["now"] = True
    volume, number = near
    durable = call.durable(message, customary=False)
    if message.accessed:
        return await _accessed(call, message, volume, number)
    if message.HasField("size"):
        if optional:
            raise Invalid("set a size alone: other attributes go in a request of their own")
        stored = await files.truncate(
            volume, call.request(message), number, message.size, durable=durable
        )
        return await call.node_left(volume, stored)
    await volume.writeback.flush(number)

    async def work(unit: Unit) -> bytes:
        await namespace.set_attributes(unit, number, **optional)
        return await call.left(unit, number)

    stored = await volume.run(call.request(message), work, durable=durable)
    return await call.node_left(volume, stored)


async def _accessed(
    call: Call, message: pb.SetAttributesRequest, volume: Volume, number: int
) -> pb.Node:

    if volume.read_only:
        return await call.describe(volume, number)

    async def work(unit: Unit) -> bytes:
        await namespace.accessed(unit, number, message.atime_ns)
        return await call.left(unit, number)

    stored = await volume.run(call.request(message), work, durable=False)
    return await call.node_left(volume, stored)


@rpc("Namespace.GetXattr")
async def get_xattr(call: Call, message: pb.XattrRequest, data: Any) -> pb.XattrReply:
    node = await call.node(message.target, follow=message.follow)
    value = await listing.xattr(node, message.name, call.asker)
    return pb.XattrReply(value=value)


@rpc("Namespace.ListXattrs")
async def list_xattrs(call: Call, message: pb.XattrRequest, data: Any) -> pb.XattrReply:
    node = await call.node(message.target, follow=message.follow)
    return pb.XattrReply(names=await listing.xattr_names(node, call.asker))


@rpc("Namespace.SetXattr", answer=done)
async def set_xattr(call: Call, message: pb.XattrRequest, data: Any) -> pb.Empty:
    node = await call.node(message.target, follow=message.follow)

    async def work(unit: Unit) -> None:
        await namespace.set_xattr(
            unit,
            node.inode.number,
            message.name,
            message.value,
            create_only=message.create,
            replace_only=message.replace,
        )

    await node.volume.run(
        call.request(message), work, durable=call.durable(message, customary=False)
    )
    return pb.Empty()


@rpc("Namespace.RemoveXattr", answer=done)
async def remove_xattr(call: Call, message: pb.XattrRequest, data: Any) -> pb.Empty:
    node = await call.node(message.target, follow=message.follow)

    async def work(unit: Unit) -> None:
        await namespace.remove_xattr(unit, node.inode.number, message.name)

    await node.volume.run(
        call.request(message), work, durable=call.durable(message, customary=False)
    )
    return pb.Empty()


@rpc("Namespace.Usage")
async def usage(call: Call, message: pb.StatRequest, data: Any) -> pb.UsageReply:
    node = await call.node(message.target)
    found = await usage_at(node, call.platform.storages.room())
    return pb.UsageReply(
        used_bytes=found.used,
        entries=found.entries,
        quota_bytes=found.quota,
        available_bytes=found.available,
        capacity_bytes=found.capacity,
        quota_entries=found.quota_entries,
        available_entries=found.available_entries,
    )


@rpc("Namespace.Path")
async def path(call: Call, message: pb.StatRequest, data: Any) -> pb.PathReply:
    node = await call.node(message.target)
    return pb.PathReply(path=await call.platform.path_of(node.volume, node.inode.number))
