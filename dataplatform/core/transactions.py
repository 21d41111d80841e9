"""Transactions: several operations on one volume as one unit, all or nothing, one commit.

Paths are resolved inside the unit, so an operation sees what the earlier ones did.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Awaitable, Callable, Sequence

from ..base.errors import Denied, Invalid, NotFound
from ..base.limits import SYMLINK_FOLLOW_MAX
from ..keyspace import keys
from ..keyspace.records import ROOT_INODE, ROOT_VOLUME, Inode
from . import paths
from .access.guard import Search
from .units import Request, Unit
from .volumes import Volume

Operation = Callable[[Unit], Awaitable[object]]

OPERATIONS_MAX = 10_000
"""Operations of one transaction: they run while every other writer of the volume waits."""


async def run(
    volume: Volume, request: Request, operations: Sequence[Operation], *, durable: bool
) -> int:
    """Run the operations in order as one unit; the number of its commit."""
    if len(operations) > OPERATIONS_MAX:
        raise Invalid("too many operations in one transaction", operations_max=OPERATIONS_MAX)
    unflushed = await volume.writeback.try_flush_all()

    async def work(unit: Unit) -> int:
        for operation in operations:
            await operation(unit)
        for number, error in unflushed.items():
            if keys.inode(number) in unit.writes:  # its older writes would come after this one
                raise error
        return unit.commit if unit.writes else unit.commit - 1

    return await volume.run(request, work, durable=durable)


class _Rehearsed(Exception):
    """Everything went well, and nothing of it is to be kept."""


async def rehearse(volume: Volume, request: Request, operations: Sequence[Operation]) -> None:
    """Run the operations and forget what they did: raises what the transaction would, before any
    bulk bytes of it are stored. What has been committed before is not run again."""
    if len(operations) > OPERATIONS_MAX:
        raise Invalid("too many operations in one transaction", operations_max=OPERATIONS_MAX)
    principal = request.principal
    if principal.is_read_only:
        raise Denied("the token allows no change", user=principal.name, errno=errno.EACCES)

    async def work(unit: Unit) -> None:
        for operation in operations:
            await operation(unit)
        raise _Rehearsed

    with contextlib.suppress(_Rehearsed):
        await volume.run(request, work, durable=False)


async def resolve(unit: Unit, base: int, path: str, *, follow: bool = True) -> Inode:
    """What a path relative to `base` names, in this unit. NOT_FOUND, INVALID (EXDEV)."""
    place = await _walk(unit, base, path, follow=follow)
    if not place.inode:
        raise NotFound("no such file or directory", path=path)
    return await unit.inode(place.inode)


async def resolve_name(unit: Unit, base: int, path: str) -> tuple[int, str, tuple[str, ...]]:
    """(directory, name, directories missing below it) to create, remove or rename `path`."""
    place = await _walk(unit, base, path, follow=False)
    if place.inode:
        if not place.directory:
            raise Invalid("a path of a transaction names something below its base", path=path)
        return place.directory, place.name.decode(), ()
    return place.directory, place.rest[-1], place.rest[:-1]


async def _walk(unit: Unit, base: int, path: str, *, follow: bool) -> paths.Place:
    principal = unit.request.principal
    search = None if principal.is_free else Search(principal, unit.volume, unit=unit)
    place = await paths.walk(unit, base, paths.split_path(path), follow=follow, search=search)
    hops = 0
    while (place.absolute or place.above) and unit.volume.id == ROOT_VOLUME:
        hops += 1
        if hops > SYMLINK_FOLLOW_MAX:
            raise Invalid("too many symbolic links on the path", path=path, errno=errno.ELOOP)
        place = await paths.walk(unit, ROOT_INODE, place.rest, follow=follow, search=search)
    if not place.ended:
        raise Invalid("a transaction stays within one volume", path=path, errno=errno.EXDEV)
    return place
