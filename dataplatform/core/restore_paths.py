"""Restoring one path: what a snapshot has there takes the place of what is there now (see grafts).

Promoting is the same the other way round: a part of a clone takes its place in the source that the
clone was made of, if nothing there has changed since.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..base.errors import Conflict, Invalid, NotFound
from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import (
    ROOT_INODE,
    ChangeRow,
    Entry,
    Inode,
    Kind,
    Statistics,
    VolumeRecord,
)
from . import grafts, namespace, paths
from .grafts import Growing, Sharing
from .namespace import Attributes
from .snapshots import check_admin
from .units import SYSTEM, Request, Unit
from .volumes import Volume

if TYPE_CHECKING:
    from .platform import NewName, Platform

_OF_INODES = frozenset(
    (
        *(keys.INODE, keys.ENTRY, keys.XATTR, keys.PIECE, keys.STATISTICS, keys.ROW, keys.TOPIC),
        *(keys.PARTITION, keys.BATCH, keys.PRODUCER, keys.GROUP_OFFSET),
    )
)
"""Keys that begin with the inode which they are of."""


# ---------------------------------------------------------------- from a snapshot


async def restore(platform: Platform, request: Request, at: NewName, name: str) -> int:
    """Put what a snapshot has at a path in place of what is there now, in one commit; its inode.

    Directories above it that are gone are made. NOT_FOUND; INVALID where a volume is mounted at or
    below the path; EXHAUSTED if there is no room for both; DENIED to whoever has no `admin` of the
    volume.
    """
    volume = at.volume
    await check_admin(request, volume)
    if volume.read_only:
        raise volume.refusal()
    known, result = await volume.lane.find_reply(request)
    if known:
        return int(result)
    snapshot = platform.snapshots.get(volume.id, name)
    limits = grafts.limits_of(volume, at.inode)
    above = await volume.path_of(at.directory)
    path = "/".join((above.rstrip("/"), *at.missing, at.name))
    then = await platform.acquire(snapshot.number)
    try:
        number = await _find(then, path)
        if not number:
            raise NotFound("the snapshot has no such file or directory", path=path, name=name)
        sharing = Sharing(then.storage.segments, None)
        growing = Growing(volume, then.storage.engine, sharing, path)
        with volume.holds.pin():
            directory = await _make_parents(at)
            async with _grown(growing, directory, number):
                facts = {"name": name, "at": snapshot.record.commit}

                async def work(unit: Unit) -> int:
                    inode = await grafts.put_in_place(
                        unit, growing, directory, at.name.encode(), expected=at.inode
                    )
                    unit.event("restored", path, inode.kind, **facts)
                    return inode.number

                made = await _place(platform, request, volume, at.inode, work)
    finally:
        platform.release(then)
    await grafts.limit(volume, request.step, made, limits)
    return made


async def _make_parents(at: NewName) -> int:
    if not at.missing:
        return at.directory

    async def work(unit: Unit) -> int:
        new = Attributes(Kind.DIRECTORY, 0o755)
        return await namespace.make_parents(unit, at.directory, at.missing, new)

    return await at.volume.run(SYSTEM, work, durable=False)


@asynccontextmanager
async def _grown(growing: Growing, directory: int, number: int) -> AsyncIterator[None]:
    try:
        await growing.begin(directory)
        await growing.grow(number)
        yield
    finally:
        await growing.end()


async def _place(
    platform: Platform,
    request: Request,
    volume: Volume,
    replaced: int,
    work: Callable[[Unit], Any],
) -> int:
    """The last unit. Meanwhile no volume comes or goes. INVALID if one is mounted in what goes."""
    async with platform.catalog.alone():
        if replaced:
            for record in await platform.catalog.records():
                if record.parent_volume == volume.id and await _is_below(volume, record, replaced):
                    raise Invalid(
                        "a volume is mounted there: remove it first, or restore what is beside it",
                        path=await platform.catalog.mount_path(record.volume),
                        errno=errno.EBUSY,
                    )
        return int(await volume.run(request, work, durable=True))


async def _is_below(volume: Volume, record: VolumeRecord, directory: int) -> bool:
    number = record.junction
    for _ in range(namespace.LEVELS_MAX):
        if number == directory:
            return True
        inode = await volume.find_inode(number)
        if inode is None or not inode.parent:
            return False
        number = inode.parent
    return False


async def _find(volume: Volume, path: str) -> int:
    """The inode that a path from a volume's root names there, no link followed; 0: none."""
    number = ROOT_INODE
    for name in paths.split_path(path):
        entry = await volume.find_entry(number, name.encode("utf-8", "surrogateescape"))
        if entry is None:
            return 0
        number = entry.inode
    return number


# ---------------------------------------------------------------- from a clone


async def promote(
    platform: Platform, request: Request, clone: Volume, number: int
) -> tuple[int, int]:
    """Put a part of a clone into the volume that the clone was made of, at the same path there, in
    one commit; that volume, and the inode there.

    CONFLICT, with the path, if something at or below the path has changed in the source since the
    snapshot, or if that cannot be known any more; INVALID for what is no clone, or its root;
    NOT_FOUND if the source is gone; DENIED to whoever has no `admin` of both.
    """
    await check_admin(request, clone)
    record = await platform.catalog.find(clone.id)
    if record is None or not record.origin:
        raise Invalid("this volume is no clone", path=await platform.catalog.mount_path(clone.id))
    if number == ROOT_INODE:
        raise Invalid("this is the root of the clone: promote what is below it, one by one")
    source_id, fork, segments_end, *_ = record.origin
    source = await platform.acquire(source_id)
    try:
        await check_admin(request, source)
        if source.read_only:
            raise source.refusal()
        known, result = await source.lane.find_reply(request)
        if known:
            return source_id, int(result)
        path = await clone.path_of(number)
        sharing = Sharing(clone.storage.segments, segments_end)
        try:
            made = await _promote(platform, request, clone, source, number, path, fork, sharing)
        except Conflict as error:
            above = await platform.catalog.mount_path(source_id)
            error.facts["path"] = above.rstrip("/") + str(error.facts.get("path", path))
            raise
        return source_id, made
    finally:
        platform.release(source)


async def _promote(
    platform: Platform,
    request: Request,
    clone: Volume,
    source: Volume,
    number: int,
    path: str,
    fork: int,
    sharing: Sharing,
) -> int:
    above, _, last = path.rpartition("/")
    name = last.encode("utf-8", "surrogateescape")
    await clone.writeback.flush_all()
    await source.writeback.flush_all()
    directory = await _find(source, above)
    if not directory:
        raise NotFound("the source has no such directory: promote that", path=above)
    looked = source.state.commit
    unchanged = await _unchanged(source, directory, name, path, fork)
    limits = grafts.limits_of(source, unchanged.number)
    view = await clone.storage.engine.view()
    try:
        growing = Growing(source, view, sharing, path)
        with source.holds.pin(), clone.holds.pin():
            async with _grown(growing, directory, number):
                await source.writeback.flush_all()
                origin = await platform.path_of(clone, number)

                async def work(unit: Unit) -> int:
                    await unchanged.check_since(unit, looked)
                    inode = await grafts.put_in_place(
                        unit, growing, directory, name, expected=unchanged.number
                    )
                    unit.event("promoted", path, inode.kind, clone=origin)
                    return inode.number

                made = await _place(platform, request, source, unchanged.number, work)
    finally:
        view.close()
    await grafts.limit(source, request.step, made, limits)
    return made


class _Unchanged:
    """What was looked at in the source, and had not changed since the snapshot."""

    def __init__(self, place: bytes, number: int, path: str) -> None:
        self.number = number  # in the place; 0: nothing is
        self._place = place  # the key of its entry
        self._path = path
        self._seen = {number} if number else set()

    async def look(self, volume: Volume, fork: int) -> None:
        """CONFLICT."""
        await self._look_at(volume, self.number, fork)
        directories = [self.number]
        while directories:
            start, end = keys.prefix_range(keys.entries(directories.pop()))
            async for _, value in scan_all(volume.storage.engine, start, end):
                entry = Entry.unpack(value)
                if entry.inode not in self._seen:
                    await asyncio.sleep(0)  # others have their turn
                    self._seen.add(entry.inode)
                    await self._look_at(volume, entry.inode, fork)
                    if entry.kind == Kind.DIRECTORY and not entry.volume:
                        directories.append(entry.inode)

    async def _look_at(self, volume: Volume, number: int, fork: int) -> None:
        engine = volume.storage.engine
        value, counted = await engine.get_many([keys.inode(number), keys.statistics(number)])
        if value is None:
            raise _conflict(self._path, 0)  # it goes right now
        version = Inode.unpack(value).version
        if counted is not None:
            version = max(version, Statistics.unpack(counted).version)
        if version > fork:
            raise _conflict(await volume.path_of(number), version)

    async def check_since(self, unit: Unit, looked: int) -> None:
        """CONFLICT if something of it has changed in a commit after this one."""
        await _check_rows(unit.volume, looked, unit.commit - 1, self._concerns, self._path)

    def _concerns(self, key: bytes) -> bool:
        if key == self._place:
            return True
        return key[:1] in _OF_INODES and keys.number_of(key) in self._seen


async def _unchanged(
    source: Volume, directory: int, name: bytes, path: str, fork: int
) -> _Unchanged:
    entry = await source.find_entry(directory, name)
    place = keys.entry(directory, name)
    unchanged = _Unchanged(place, entry.inode if entry is not None else 0, path)
    if entry is not None:
        await unchanged.look(source, fork)
        return unchanged
    parent = await source.find_inode(directory)
    if parent is None or parent.version > fork:
        # Nothing is there: was there something, then?
        if source.state.oldest_change > fork + 1:
            raise Conflict(
                "nothing is there in the source, and whether something was cannot be known any "
                "more: copy it instead",
                path=path,
            )
        await _check_rows(source, fork, source.state.commit, place.__eq__, path)
    return unchanged


async def _check_rows(
    volume: Volume, after: int, last: int, concerns: Callable[[bytes], bool], path: str
) -> None:
    start, end = keys.change(after + 1), keys.change(last + 1)
    async for key, value in scan_all(volume.storage.engine, start, end):
        row = ChangeRow.unpack(value)
        if any(map(concerns, row.keys)):
            raise _conflict(row.events[0][1] if row.events else path, keys.number_of(key))


def _conflict(path: str, commit: int) -> Conflict:
    return Conflict(
        "this has changed in the source since the clone's snapshot: nothing was promoted",
        path=path,
        commit=commit or None,
    )
