"""Transactions.*: each operation becomes one core call on the transaction's unit."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.base.limits import EXTENT_BYTES_MIN
from dataplatform.core import files, group_offsets, namespace, streams, tables, transactions
from dataplatform.core.access.verbs import Verb
from dataplatform.core.group_offsets import Commit
from dataplatform.core.transactions import Operation, resolve, resolve_name
from dataplatform.core.units import Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import Inode, Kind

from ..dispatch import Call, rpc
from ..packing import append_parts, attributes_of, settings_of


def _committed(
    call: Call, message: pb.TransactionRequest, volume: Volume, stored: int
) -> pb.TransactionReply:
    return pb.TransactionReply(commit=stored)


@rpc("Transactions.Commit", answer=_committed)
async def commit(call: Call, message: pb.TransactionRequest, data: Any) -> pb.TransactionReply:
    node = await call.node(message.base)
    volume, base = node.volume, node.inode.number
    with volume.holds.append():
        if not call.principal.is_free and _stores_bulk(message):
            rehearsed = [_rehearsed(base, operation) for operation in message.operations]
            await transactions.rehearse(volume, call.request(message), rehearsed)
        operations = [await _operation(volume, base, o) for o in message.operations]
        number = await transactions.run(
            volume, call.request(message), operations, durable=call.durable(message, customary=True)
        )
    return pb.TransactionReply(commit=number)


def _stores_bulk(message: pb.TransactionRequest) -> bool:
    return any(
        len(getattr(operation, which).data) >= EXTENT_BYTES_MIN
        for operation in message.operations
        if (which := operation.WhichOneof("operation")) in ("write_file", "append")
    )


def _rehearsed(base: int, message: pb.TransactionRequest.Operation) -> Operation:
    """The operation, as far as it needs no bulk bytes."""
    which = message.WhichOneof("operation")
    if which is None:
        raise Invalid("an operation of the transaction is empty or unknown to this server")
    inner = getattr(message, which)
    if which == "write_file":
        return _put_file(base, inner, [])
    if which == "append":
        return _may_append(base, inner)
    return _OPERATIONS[which](base, inner)


async def _operation(
    volume: Volume, base: int, message: pb.TransactionRequest.Operation
) -> Operation:
    which = message.WhichOneof("operation")
    if which is None:
        raise Invalid("an operation of the transaction is empty or unknown to this server")
    inner = getattr(message, which)
    if which == "write_file":
        return await _write_file(volume, base, inner)
    if which == "append":
        return await _append(volume, base, inner)
    return _OPERATIONS[which](base, inner)


async def _node(
    unit: Unit, base: int, target: pb.Target, kind: Kind | None = None, *, follow: bool = True
) -> Inode:
    """What a target names in the transaction. INVALID if it lies elsewhere or is another kind."""
    _same_volume(unit, target)
    base = target.inode or base
    inode = (
        await resolve(unit, base, target.path, follow=follow)
        if target.path
        else (await unit.inode(base))
    )
    if kind is not None and inode.kind != kind:
        raise Invalid(f"not a {kind.word}", path=await unit.path_of(inode.number))
    return inode


def _same_volume(unit: Unit, target: pb.Target) -> None:
    if target.inode and target.volume != unit.volume.id:
        raise Invalid("a transaction stays within one volume", errno=errno.EXDEV)


async def _name(unit: Unit, base: int, target: pb.Target) -> tuple[int, str, tuple[str, ...]]:
    _same_volume(unit, target)
    return await resolve_name(unit, target.inode or base, target.path)


async def _place(unit: Unit, base: int, target: pb.Target) -> tuple[int, str]:
    """(directory, name) of something whose directory exists."""
    directory, name, missing = await _name(unit, base, target)
    if missing:
        raise NotFound("no such directory", path=target.path)
    return directory, name


def _create(base: int, message: pb.CreateRequest) -> Operation:
    new = attributes_of(message)

    async def run(unit: Unit) -> None:
        directory, name, missing = await _name(unit, base, message.target)
        if missing and not message.parents:
            await _place(unit, base, message.target)
        directory = await namespace.make_parents(unit, directory, missing, new)
        await namespace.create(unit, directory, name, new, exist_ok=message.exist_ok)

    return run


def _refuse_keep_open(message: pb.RemoveRequest | pb.RenameRequest) -> None:
    if message.keep_open:
        raise Invalid("a transaction opens nothing: open the file before")


def _remove(base: int, message: pb.RemoveRequest) -> Operation:
    _refuse_keep_open(message)

    async def run(unit: Unit) -> None:
        directory, name, missing = await _name(unit, base, message.target)
        if missing and message.missing_ok:
            return
        await namespace.remove(
            unit,
            directory,
            name.encode(),
            directories=message.expect != pb.RemoveRequest.NOT_DIRECTORY,
            others=message.expect != pb.RemoveRequest.EMPTY_DIRECTORY,
            missing_ok=message.missing_ok,
        )

    return run


def _rename(base: int, message: pb.RenameRequest) -> Operation:
    _refuse_keep_open(message)

    async def run(unit: Unit) -> None:
        old_directory, old_name = await _place(unit, base, message.source)
        new_directory, new_name = await _place(unit, base, message.target)
        await namespace.rename(
            unit,
            old_directory,
            old_name.encode(),
            new_directory,
            new_name,
            no_replace=message.no_replace,
            exchange=message.exchange,
        )

    return run


def _link(base: int, message: pb.LinkRequest) -> Operation:
    async def run(unit: Unit) -> None:
        inode = await _node(unit, base, message.existing, follow=False)
        directory, name = await _place(unit, base, message.target)
        await namespace.link(unit, inode.number, directory, name)

    return run


def _set_attributes(base: int, message: pb.SetAttributesRequest) -> Operation:
    async def run(unit: Unit) -> None:
        inode = await _node(unit, base, message.target, follow=message.follow)
        optional = {
            name: getattr(message, name)
            for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns")
            if message.HasField(name)
        }
        if message.HasField("size"):
            await files.resize(unit, inode.number, message.size)
        settings = settings_of(inode.kind, message)
        if optional or settings:
            await namespace.set_attributes(unit, inode.number, settings=settings, **optional)

    return run


async def _write_file(volume: Volume, base: int, message: pb.WriteFileRequest) -> Operation:
    return _put_file(base, message, await files.prepare(volume, message.data))


def _put_file(base: int, message: pb.WriteFileRequest, content: files.Content) -> Operation:
    new = attributes_of(message)

    async def run(unit: Unit) -> None:
        directory, name, missing = await _name(unit, base, message.target)
        if missing and not message.parents:
            await _place(unit, base, message.target)
        directory = await namespace.make_parents(unit, directory, missing, new)
        await files.put(
            unit,
            directory,
            name,
            content,
            len(message.data),
            new,
            no_replace=message.no_replace,
        )

    return run


def _put(base: int, message: pb.PutRequest) -> Operation:
    async def run(unit: Unit) -> None:
        table = await _node(unit, base, message.table, Kind.TABLE)
        await tables.put(
            unit,
            table.number,
            message.key,
            message.data,
            if_version=message.if_version if message.HasField("if_version") else None,
            replace=message.replace,
        )

    return run


def _delete(base: int, message: pb.DeleteRequest) -> Operation:
    async def run(unit: Unit) -> None:
        table = await _node(unit, base, message.table, Kind.TABLE)
        await tables.delete(
            unit,
            table.number,
            message.key,
            columns=list(message.columns),
            if_version=message.if_version if message.HasField("if_version") else None,
        )

    return run


def _increment(base: int, message: pb.IncrementRequest) -> Operation:
    amount = message.real if message.WhichOneof("amount") == "real" else message.integer

    async def run(unit: Unit) -> None:
        table = await _node(unit, base, message.table, Kind.TABLE)
        await tables.increment(unit, table.number, message.key, message.column, amount)

    return run


async def _append(volume: Volume, base: int, message: pb.AppendRequest) -> Operation:
    prepared = await streams.prepare(volume, append_parts(message, message.data))

    async def run(unit: Unit) -> None:
        stream = await _node(unit, base, message.stream, Kind.STREAM)
        await streams.append(unit, stream.number, prepared)

    return run


def _may_append(base: int, message: pb.AppendRequest) -> Operation:
    async def run(unit: Unit) -> None:
        await unit.allow(await _node(unit, base, message.stream, Kind.STREAM), Verb.PRODUCE)

    return run


def _commit_offsets(base: int, message: pb.CommitOffsetsRequest) -> Operation:
    commits = [Commit(p.topic, p.partition, p.offset, p.metadata) for p in message.parts]

    async def run(unit: Unit) -> None:
        stream = await _node(unit, base, message.stream, Kind.STREAM)
        await group_offsets.commit_offsets(
            unit,
            stream.number,
            message.group,
            commits,
            member=message.member,
            epoch=message.epoch,
        )

    return run


def _expect(base: int, message: pb.TransactionRequest.Expect) -> Operation:
    async def run(unit: Unit) -> None:
        if message.row:
            table = await _node(unit, base, message.target, Kind.TABLE)
            await tables.expect_version(unit, table.number, message.key, message.version)
            return
        directory, name, missing = await _name(unit, base, message.target)
        found = None if missing else await namespace.find_entry(unit, directory, name.encode())
        await namespace.expect_version(
            unit, found.inode if found else None, message.version, message.target.path
        )

    return run


_OPERATIONS: dict[str, Callable[[int, Any], Operation]] = {
    "create": _create,
    "remove": _remove,
    "rename": _rename,
    "link": _link,
    "set_attributes": _set_attributes,
    "put": _put,
    "delete": _delete,
    "increment": _increment,
    "commit_offsets": _commit_offsets,
    "expect": _expect,
}
