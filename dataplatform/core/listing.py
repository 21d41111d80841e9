"""Reading directories and extended attributes: pages, as readers should see them."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import NamedTuple

from ..base.errors import Corrupt, Invalid, NotFound
from ..base.limits import PAGE_ENTRIES_MAX
from ..engine.base import Pair, scan_all
from ..keyspace import keys
from ..keyspace.records import Entry, Inode, Kind
from .access.verbs import Verb
from .platform import Node
from .promises import Keeper
from .snapshot_names import directory_of_snapshots
from .units import SYSTEM, Request
from .volumes import Volume

PAGE_ENTRIES = 1000
"""Entries of a page when the caller names no number."""

TURN_ENTRIES = 500
"""Inodes read in one turn of the event loop: some 3 ms."""


class Page(NamedTuple):
    nodes: list[Node]  # their inodes' `name` is the entry's
    end: bool


async def page(
    directory: Node,
    after: str,
    limit: int,
    keeper: Keeper | None = None,
    request: Request = SYSTEM,
) -> Page:
    """Entries in order of their names' bytes, from the first one after `after`.

    What is created or removed meanwhile is seen or not; everything else is seen exactly once
    (POSIX readdir). What is answered is promised to the keeper; the directory was promised when it
    was located. Who may read a directory, but not search it, is told names and kinds alone.
    INVALID (ENOTDIR), DENIED.
    """
    volume, inode = directory.volume, directory.inode
    if inode.kind != Kind.DIRECTORY:
        raise Invalid("not a directory", name=inode.name, errno=errno.ENOTDIR)
    names_only = not await _searchable(directory, request)
    limit = min(limit or PAGE_ENTRIES, PAGE_ENTRIES_MAX)
    if directory_of_snapshots(inode.number):
        return _snapshots(volume, inode, after, limit)
    start, end = keys.prefix_range(keys.entries(inode.number))
    if after:
        start = keys.entry(inode.number, after.encode("utf-8", "surrogateescape")) + b"\x00"
    while True:
        pairs = await volume.storage.engine.scan(start, end, limit=limit + 1)
        goes_on = len(pairs) > limit  # a page of the engine may also end at its size
        del pairs[limit:]
        if names_only:
            nodes = [_name_only(volume, key, value) for key, value in pairs]
        else:
            nodes = await _nodes(volume, pairs, keeper)
        if not goes_on and not (
            pairs and await volume.storage.engine.scan(pairs[-1][0] + b"\x00", end, limit=1)
        ):
            return Page(nodes, True)
        if nodes:
            return Page(nodes, False)
        start = pairs[-1][0] + b"\x00"  # all were removed meanwhile: the page needs a last name


def _snapshots(volume: Volume, inode: Inode, after: str, limit: int) -> Page:
    """Those in which the directory is. Like places where volumes are mounted, they have to be
    looked at one by one to see what is there."""
    names = [
        pin for pin in volume.snapshot_pins.seen_from(inode.parent) if not after or pin.name > after
    ]
    nodes = []
    for pin in names[:limit]:
        shown = replace(inode, name=pin.name.encode(), volume=pin.number)
        nodes.append(Node(volume, shown))
    return Page(nodes, len(names) <= limit)


async def _searchable(directory: Node, request: Request) -> bool:
    """Whether names in the directory may be looked up, by whom may list them. DENIED."""
    principal = request.principal
    if principal.is_free:
        return True
    volume, inode = directory
    session, origin = request.caller, request.origin
    await volume.allow(principal, inode, Verb.LIST, session=session, origin=origin)
    return await volume.guard.may(principal, volume, inode, Verb.EXECUTE)


def _name_only(volume: Volume, key: bytes, value: bytes) -> Node:
    entry = Entry.unpack(value)
    return Node(volume, Inode(entry.inode, entry.kind, 0, 0, 0, name=keys.name_of(key)))


async def _nodes(volume: Volume, pairs: list[Pair], keeper: Keeper | None) -> list[Node]:
    nodes = await _some_nodes(volume, pairs[:TURN_ENTRIES], keeper)
    for start in range(TURN_ENTRIES, len(pairs), TURN_ENTRIES):
        await asyncio.sleep(0)  # others have their turn
        nodes += await _some_nodes(volume, pairs[start : start + TURN_ENTRIES], keeper)
    return nodes


async def _some_nodes(volume: Volume, pairs: list[Pair], keeper: Keeper | None) -> list[Node]:
    entries = [Entry.unpack(value) for _, value in pairs]
    numbers = [entry.inode for entry in entries]
    if keeper is not None:
        await keeper.keep(volume, *numbers)
    writeback = volume.writeback
    layers = {n: found for n in numbers if (found := writeback.layers(n))} if writeback else {}
    values = await _inodes(volume, numbers)
    nodes = []
    for (key, _), entry, value in zip(pairs, entries, values, strict=True):
        if value is None:
            continue  # removed between the two reads
        number = entry.inode
        child: Inode | None
        try:
            stored = Inode.unpack(value)
            if stored.kind == Kind.FILE and not layers and not writeback:
                child = stored  # nothing is buffered: nearly always
            elif writeback.still(number, layers.get(number, [])):
                child = await volume.complete(stored)
            else:
                child = await volume.find(number)
        except Corrupt:
            # Its directory can be read all the same; who asks for it hears what is wrong.
            child = Inode(number, entry.kind, 0, 0, 0)
        if child is not None:
            child.name = keys.name_of(key)
            nodes.append(Node(volume, child))
    return nodes


async def _inodes(volume: Volume, numbers: list[int]) -> list[bytes | None]:
    """As stored; b"" for one in a damaged place of the database."""
    engine = volume.storage.engine
    try:
        return await engine.get_many([keys.inode(number) for number in numbers])
    except Corrupt:
        values: list[bytes | None] = []
        for number in numbers:
            try:
                values.append(await engine.get(keys.inode(number)))
            except Corrupt:
                values.append(b"")
        return values


async def xattr(node: Node, name: str, request: Request = SYSTEM) -> bytes:
    """getxattr(2): `user.` attributes are for who may read, `trusted.` ones for administrators
    (xattr(7)). NOT_FOUND (ENODATA), DENIED."""
    principal = request.principal
    if not principal.is_free:
        if name.startswith("user."):
            session, origin = request.caller, request.origin
            await node.volume.allow(
                principal, node.inode, Verb.READ, session=session, origin=origin
            )
        elif name.startswith("trusted.") and not principal.is_trusted:
            raise NotFound("no such attribute", name=name, errno=errno.ENODATA)
    key = keys.xattr(node.inode.number, name.encode("utf-8", "surrogateescape"))
    value = await node.volume.storage.engine.get(key)
    if value is None:
        raise NotFound("no such attribute", name=name, errno=errno.ENODATA)
    return value


async def xattr_names(node: Node, request: Request = SYSTEM) -> list[str]:
    """listxattr(2), sorted; those of administrators are shown to administrators."""
    start, end = keys.prefix_range(keys.xattrs(node.inode.number))
    names = [
        keys.name_of(key).decode("utf-8", "surrogateescape")
        async for key, _ in scan_all(node.volume.storage.engine, start, end)
    ]
    if request.principal.is_trusted:
        return names
    return [name for name in names if not name.startswith("trusted.")]
