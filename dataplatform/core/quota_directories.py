"""Quotas of directories: set, remove, list them, and count what directories hold.

A directory that gets its first quota may hold millions of things already. They are counted on a
view of the volume, while everybody goes on writing: from the moment of the view on the account
counts what is taken and given back (`Quotas.begin_count`), and when both are added up the quota is
there. If the server dies meanwhile, there is none.

What is moved across the border of a quota is counted in the unit that moves it, as far as it is not
known: so that is bounded, and beyond that rename(2) says EXDEV, whereupon mv(1) copies. A directory
with a quota of its own is known, whatever it holds.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Denied, Exhausted, Invalid, NotFound, Unavailable
from ..engine.base import View, scan_all
from ..keyspace import keys
from ..keyspace.records import (
    ROOT_INODE,
    DirectoryQuota,
    Entry,
    Inode,
    Kind,
    Statistics,
    unpack,
)
from .access.verbs import REACH
from .principals import Principal
from .quotas import Taken, check_limits
from .units import Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume

MOVED_MAX = 50_000
"""Things that one rename counts for other quotas: while it does (about a second), nobody else
writes to the volume."""

QUOTAS_MAX = 10_000
"""Quotas of directories in one volume: they are all in memory."""

LISTED_MAX = 1000
"""Entries looked at in one turn of the event loop: some milliseconds."""


Stored = tuple[str, bytes]
"""What is kept to answer a retry: see `set_quota`."""


class Limits(NamedTuple):
    """What to set; None leaves a limit as it is, 0 takes it away."""

    quota_bytes: int | None = None
    quota_entries: int | None = None
    advisory_bytes: int | None = None
    advisory_entries: int | None = None


@dataclass(slots=True)
class Content:
    """What stands below a directory, and has its first name there."""

    size_bytes: int = 0
    entries: int = 0
    numbers: set[int] = field(default_factory=set)  # of files, for whom they are kept
    inner: set[int] = field(default_factory=set)  # directories below that have quotas


# ---------------------------------------------------------------- set, get, list, remove


async def set_quota(volume: Volume, request: Request, directory: int, limits: Limits) -> Stored:
    """Give a directory a quota, or its quota other limits: its path in the volume, and the quota as
    it was left, packed. The first time what it holds is counted, beside all that goes on. DENIED,
    INVALID, NOT_FOUND, EXHAUSTED (too many quotas), UNAVAILABLE (it is being counted for somebody
    else)."""
    _administrators_only(request)
    known, stored = await volume.lane.find_reply(request)
    if known:
        return stored[0], stored[1]
    quotas = volume.quotas
    check_limits(_with(DirectoryQuota(), limits))
    if directory in quotas.directories:
        stored = await volume.run(
            request, lambda unit: _change(unit, directory, limits), durable=True
        )
        return stored[0], stored[1]
    views: list[View] = []

    async def begin(unit: Unit) -> None:
        await _check_directory(unit, directory)
        if len(quotas.directories) >= QUOTAS_MAX:
            raise Exhausted("too many quotas in one volume", quotas_max=QUOTAS_MAX)
        views.append(await unit.engine.view())
        await quotas.begin_count(unit, directory)

    try:
        await volume.run(request.step, begin, durable=False)
        content = await count(views[0], directory)
        stored = await volume.run(
            request, lambda unit: _end_count(unit, directory, limits, content), durable=True
        )
    except BaseException:
        if _is_counting(volume, directory):
            quotas.forget(directory)
        raise
    finally:
        for view in views:
            view.close()
    return stored[0], stored[1]


def _is_counting(volume: Volume, directory: int) -> bool:
    quota = volume.quotas.directories.get(directory)
    return quota is not None and quota.is_counting


def _administrators_only(request: Request) -> None:
    if not request.principal.is_free:
        raise Denied(
            "quotas are set by administrators", user=request.principal.name, errno=errno.EPERM
        )


async def _check_directory(unit: Unit, directory: int) -> None:
    inode = await unit.inode(directory)
    if inode.kind != Kind.DIRECTORY:
        raise Invalid(
            "only directories and volumes have quotas",
            path=await unit.path_of(directory),
            errno=errno.ENOTDIR,
        )
    if not inode.links:
        raise NotFound("the directory is gone", inode=directory)
    if not inode.parent:
        raise Invalid("this is a volume: set its quota with `dp volume set`")
    if directory in unit.volume.quotas.directories:
        raise Unavailable("what the directory holds is being counted: try again", retry=True)


async def _change(unit: Unit, directory: int, limits: Limits) -> Stored:
    quotas = unit.volume.quotas
    old = quotas.directories.get(directory)
    if old is None or old.is_counting:
        raise Unavailable("what the directory holds is being counted: try again", retry=True)
    return await _store(unit, directory, _with(old.copy(), limits))


async def _end_count(unit: Unit, directory: int, limits: Limits, content: Content) -> Stored:
    counted = unit.volume.quotas.directories.get(directory)
    if counted is None or not counted.is_counting:
        raise NotFound("the directory is gone", inode=directory)
    new = _with(DirectoryQuota(), limits)
    new.used_bytes = counted.used_bytes + content.size_bytes
    new.entries = counted.entries + content.entries
    return await _store(unit, directory, new)


def _with(quota: DirectoryQuota, limits: Limits) -> DirectoryQuota:
    for name, value in limits._asdict().items():
        if value is not None:
            setattr(quota, name, value)
    return quota


async def _store(unit: Unit, directory: int, new: DirectoryQuota) -> Stored:
    quotas = unit.volume.quotas
    path = await unit.path_of(directory)
    limits = {name: getattr(new, name) for name in Limits._fields if getattr(new, name)}
    unit.event("quota set", path, "directory", **limits)
    new.over = await quotas.advise(unit, directory, new, new.used_bytes, new.entries, new.over)
    packed = new.pack()
    unit.put(keys.quota(directory), packed)
    unit.on_commit(lambda _: quotas.put(directory, new))
    return path, packed


def get_quota(volume: Volume, directory: int) -> DirectoryQuota:
    """NOT_FOUND if the directory has none."""
    quota = volume.quotas.directories.get(directory)
    if quota is None or quota.is_counting:
        raise NotFound("the directory has no quota: see `dp quota ls`", inode=directory)
    return quota


async def list_quotas(
    volume: Volume, principal: Principal, directory: int
) -> list[tuple[int, DirectoryQuota]]:
    """Those at and below a directory, in order of their numbers, as far as one may go there."""
    found = []
    for number, quota in sorted(volume.quotas.directories.items()):
        if quota.is_counting:
            continue
        current: int = number
        while current and current != directory:
            inode = await volume.find_inode(current)
            current = inode.parent if inode is not None else 0
        if current and await volume.guard.may(principal, volume, number, REACH):
            found.append((number, quota))
    return found


async def list_over(volume: Volume, principal: Principal) -> list[int]:
    """Directories above an advisory limit of theirs, as far as one may go there; the root, if the
    volume is above its own."""
    over = [n for n, q in sorted(volume.quotas.directories.items()) if q.over]
    over = [ROOT_INODE, *over] if volume.state.over else over
    return [n for n in over if await volume.guard.may(principal, volume, n, REACH)]


async def remove_quota(volume: Volume, request: Request, directory: int) -> None:
    """NOT_FOUND if there is none, DENIED."""
    _administrators_only(request)

    async def work(unit: Unit) -> None:
        get_quota(volume, directory)
        volume.quotas.remove(unit, directory)
        unit.event("quota removed", await unit.path_of(directory), "directory")

    await volume.run(request, work, durable=True)


# ---------------------------------------------------------------- moving


async def move(unit: Unit, moved: Entry, name: bytes, places: tuple[int, int]) -> None:
    """Before a rename: what moves from one directory to another counts there. INVALID (EXDEV) if
    that is too much to count now."""
    quotas = unit.volume.quotas
    await quotas.resolve(unit)  # by where things are now
    old, new = [await quotas.chain(place, unit) for place in places]
    inode = await unit.inode(moved.inode)
    if old == new or (inode.parent, inode.name) != (places[0], name):
        return  # a further name: it counts where its first one is
    content = Content()
    if inode.kind == Kind.DIRECTORY and not inode.volume:
        if inode.number in quotas.directories:
            _add_known(unit, content, inode.number)
        else:
            await _walk(unit, inode.number, content, _Inner(unit), keep_numbers=True)
    elif inode.kind in (Kind.TABLE, Kind.STREAM):
        content.size_bytes = (await unit.statistics(inode.number)).size_bytes
    else:
        content.size_bytes = inode.used_bytes
        content.numbers.add(inode.number)
    await quotas.relocate(
        unit, places, content.size_bytes, content.entries + 1, content.numbers, content.inner
    )


def _add_known(unit: Unit, content: Content, directory: int) -> None:
    """A directory with a quota: what it holds is known, with what this unit did to it."""
    quota = unit.volume.quotas.directories[directory]
    taken = unit.accounts.get(directory, Taken())
    content.size_bytes += quota.used_bytes + taken.size_bytes + taken.forced_bytes
    content.entries += quota.entries + taken.entries + taken.forced_entries
    content.inner.add(directory)


class _Inner:
    """Quotas below what is counted in a unit."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def add(self, content: Content, directory: int) -> bool:
        quota = self._unit.volume.quotas.directories.get(directory)
        if quota is None:
            return False
        if quota.is_counting:
            content.inner.add(directory)
            return False
        _add_known(self._unit, content, directory)
        return True


# ---------------------------------------------------------------- counting


class _Stored:
    """Quotas below what is counted on a view, as they are stored there."""

    def __init__(self, quotas: dict[int, DirectoryQuota]) -> None:
        self._quotas = quotas

    def add(self, content: Content, directory: int) -> bool:
        quota = self._quotas.get(directory)
        if quota is None:
            return False
        content.size_bytes += quota.used_bytes
        content.entries += quota.entries
        return True


async def count(view: View, directory: int, *, trusting: bool = True) -> Content:
    """What a directory holds at the moment of a view. `trusting`: the counts of quotas below it."""
    quotas: dict[int, DirectoryQuota] = {}
    if trusting:
        async for key, value in scan_all(view, *keys.prefix_range(keys.QUOTA)):
            quotas[keys.number_of(key)] = DirectoryQuota.unpack(value)
        quotas.pop(directory, None)
    content = Content()
    await _walk(view, directory, content, _Stored(quotas), keep_numbers=False)
    return content


async def _walk(
    reader: Unit | View,
    top: int,
    content: Content,
    inner: _Inner | _Stored,
    *,
    keep_numbers: bool,
) -> None:
    left = [top]
    while left:
        directory = left.pop()
        start, end = keys.prefix_range(keys.entries(directory))
        while page := await reader.scan(start, end, limit=LISTED_MAX):
            start = page[-1][0] + b"\x00"
            others: list[tuple[bytes, Entry]] = []
            for key, value in page:
                entry = Entry.unpack(value)
                if entry.kind != Kind.DIRECTORY:
                    others.append((keys.name_of(key), entry))
                    continue
                content.entries += 1
                if not entry.volume and not inner.add(content, entry.inode):
                    left.append(entry.inode)
            await _add_others(reader, directory, others, content, keep_numbers)
            if keep_numbers and content.entries - _known(content, reader) > MOVED_MAX:
                raise Invalid(
                    "too much to count for another quota in one step: copy it, or give the "
                    "directory a quota of its own first",
                    things_max=MOVED_MAX,
                    errno=errno.EXDEV,
                )
            await asyncio.sleep(0)


def _known(content: Content, reader: Unit | View) -> int:
    """Entries that were not counted one by one."""
    if not isinstance(reader, Unit):
        return 0
    quotas = reader.volume.quotas.directories
    return sum(quotas[n].entries for n in content.inner if not quotas[n].is_counting)


async def _add_others(
    reader: Unit | View,
    directory: int,
    others: list[tuple[bytes, Entry]],
    content: Content,
    keep_numbers: bool,
) -> None:
    """Everything in a directory but directories."""
    wanted = [
        keys.statistics(entry.inode)
        if entry.kind in (Kind.TABLE, Kind.STREAM)
        else keys.inode(entry.inode)
        for _, entry in others
    ]
    for (name, entry), value in zip(others, await reader.get_many(wanted), strict=True):
        if entry.kind in (Kind.TABLE, Kind.STREAM):
            content.size_bytes += await _statistics_bytes(reader, entry.inode, value)
            content.entries += 1
            continue
        parent, first, used_bytes = await _place(reader, entry.inode, value)
        if (parent, first) == (directory, name):
            content.size_bytes += used_bytes
            content.entries += 1
            if keep_numbers and entry.kind == Kind.FILE:
                content.numbers.add(entry.inode)


async def _statistics_bytes(reader: Unit | View, number: int, value: bytes | None) -> int:
    if isinstance(reader, Unit):
        return (await reader.statistics(number)).size_bytes
    return Statistics.unpack(value).size_bytes if value else 0


async def _place(reader: Unit | View, number: int, value: bytes | None) -> tuple[int, bytes, int]:
    """(parent, first name, bytes) of a file or link."""
    if isinstance(reader, Unit):
        known = reader.known_inode(number)
        if known is not None:
            return known.parent, known.name, known.used_bytes
    if not value:
        return 0, b"", 0  # damaged: nothing that could be counted
    stored = unpack(value, Inode.__name__)
    return stored[_PARENT], stored[_NAME], stored[_USED_BYTES]


_FIELDS = list(Inode.__dataclass_fields__)
_PARENT, _NAME, _USED_BYTES = (_FIELDS.index(n) for n in ("parent", "name", "used_bytes"))
