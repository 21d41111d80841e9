"""Repairs of the namespace and of rows that belong to nothing: units that look again first.

Each does what a normal operation would, accounts included; wrong counts are findings of their own.
"""

from __future__ import annotations

from ...base.errors import Corrupt
from ...keyspace import keys
from ...keyspace.records import ROOT_INODE, Entry, Inode, Kind
from .. import namespace
from ..namespace import Attributes
from ..units import Unit
from .findings import Repair, Step
from .references import extent_of

LOST_AND_FOUND = "lost+found"

ROWS_PER_UNIT = 500


def _forget_paths(unit: Unit) -> None:
    unit.renames = True
    unit.volume.paths.clear()
    unit.on_commit(lambda _: unit.volume.paths.clear())


async def _find_entry(unit: Unit, directory: int, name: bytes) -> Entry | None:
    value = await unit.get(keys.entry(directory, name))
    return Entry.unpack(value) if value is not None else None


async def _grow(unit: Unit, directory: int, entries: int, subdirectories: int) -> None:
    inode = await unit.find_inode(directory)
    if inode is not None:
        inode.size += entries
        inode.links += subdirectories
        unit.save(inode)


# ---------------------------------------------------------------- entries and names


def remove_entry(directory: int, name: bytes) -> Repair:
    """An entry that points to nothing, or is one too many of what has exactly one."""

    async def repair(unit: Unit) -> Step:
        found = await _find_entry(unit, directory, name)
        if found is None:
            return Step.NOT_NEEDED
        inode = await unit.find_inode(found.inode)
        if inode is not None and (
            (inode.parent, inode.name) == (directory, name)
            or await unit.get(keys.link(found.inode, directory, name)) is not None
        ):
            return Step.NOT_NEEDED
        kind = inode.kind if inode is not None else found.kind
        unit.delete(keys.entry(directory, name))
        await _grow(unit, directory, -1, -1 if kind == Kind.DIRECTORY else 0)
        _forget_paths(unit)
        return Step.DONE

    return repair


def rewrite_entry(directory: int, name: bytes, number: int) -> Repair:
    """An entry that says something else than its inode, or cannot be read."""

    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        value = await unit.get(keys.entry(directory, name))
        if inode is None or value is None:
            return Step.NOT_NEEDED
        if (inode.parent, inode.name) != (directory, name) and (
            await unit.get(keys.link(number, directory, name)) is None
        ):
            return Step.NOT_NEEDED
        right = Entry(number, inode.kind, inode.volume).pack()
        if value == right:
            return Step.NOT_NEEDED
        unit.put(keys.entry(directory, name), right)
        return Step.DONE

    return repair


def record_link(number: int, directory: int, name: bytes) -> Repair:
    """A name of a file that its inode does not know of."""

    async def repair(unit: Unit) -> Step:
        found = await _find_entry(unit, directory, name)
        inode = await unit.find_inode(number)
        if inode is None or found is None or found.inode != number:
            return Step.NOT_NEEDED
        if (inode.parent, inode.name) == (directory, name):
            return Step.NOT_NEEDED
        unit.put(keys.link(number, directory, name), b"")
        return Step.DONE

    return repair


def remove_link(number: int, directory: int, name: bytes) -> Repair:
    """A further name on record that is none."""

    async def repair(unit: Unit) -> Step:
        key = keys.link(number, directory, name)
        if await unit.get(key) is None:
            return Step.NOT_NEEDED
        found = await _find_entry(unit, directory, name)
        inode = await unit.find_inode(number)
        is_first = inode is not None and (inode.parent, inode.name) == (directory, name)
        if found is not None and found.inode == number and not is_first:
            return Step.NOT_NEEDED
        unit.delete(key)
        return Step.DONE

    return repair


def set_first_name(number: int, directory: int, name: bytes) -> Repair:
    """An inode whose first name is not there, though it has this one."""

    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is None:
            return Step.NOT_NEEDED
        first = await _find_entry(unit, inode.parent, inode.name) if inode.parent else None
        found = await _find_entry(unit, directory, name)
        if (first is not None and first.inode == number) or (
            found is None or found.inode != number
        ):
            return Step.NOT_NEEDED
        inode.parent, inode.name = directory, name
        unit.save(inode)
        unit.delete(keys.link(number, directory, name))
        _forget_paths(unit)
        return Step.DONE

    return repair


def add_links(number: int, difference: int) -> Repair:
    """A wrong count of names."""

    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is None or inode.links + difference < 0:
            return Step.NOT_NEEDED
        inode.links += difference
        unit.save(inode)
        return Step.DONE

    return repair


def add_to_directory(number: int, entries: int, links: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is None:
            return Step.NOT_NEEDED
        inode.size += entries
        inode.links += links
        unit.save(inode)
        return Step.DONE

    return repair


def add_used_bytes(number: int, difference: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is None:
            return Step.NOT_NEEDED
        inode.used_bytes += difference
        unit.save(inode)
        return Step.DONE

    return repair


# ---------------------------------------------------------------- orphans


def mark_removed(number: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        key = keys.orphan(number)
        if inode is None or inode.links or await unit.get(key) is not None:
            return Step.NOT_NEEDED
        unit.put(key, unit.now_ns.to_bytes(8, "big"))
        return Step.DONE

    return repair


def unmark_removed(number: int) -> Repair:
    """The mark of something that has a name, or does not exist."""

    async def repair(unit: Unit) -> Step:
        key = keys.orphan(number)
        inode = await unit.find_inode(number)
        if await unit.get(key) is None or (inode is not None and not inode.links):
            return Step.NOT_NEEDED
        unit.delete(key)
        return Step.DONE

    return repair


# ---------------------------------------------------------------- lost and found


async def _keep(unit: Unit, inode: Inode) -> None:
    """Give the inode a name in /lost+found."""
    new = Attributes(Kind.DIRECTORY, 0o700)
    directory = await namespace.create(unit, ROOT_INODE, LOST_AND_FOUND, new, exist_ok=True)
    name = f"inode-{inode.number}".encode()
    while await unit.get(keys.entry(directory, name)) is not None:
        name += b"'"
    unit.put(keys.entry(directory, name), Entry(inode.number, inode.kind, inode.volume).pack())
    inode.parent, inode.name = directory, name
    inode.ctime_ns = unit.now_ns
    unit.save(inode)
    await _grow(unit, directory, 1, 1 if inode.is_directory else 0)
    _forget_paths(unit)


async def _content(unit: Unit, directory: int) -> tuple[int, int]:
    """(entries, subdirectories)."""
    start, end = keys.prefix_range(keys.entries(directory))
    entries = subdirectories = 0
    while page := await unit.scan(start, end):
        entries += len(page)
        subdirectories += sum(Entry.unpack(v).kind == Kind.DIRECTORY for _, v in page)
        start = page[-1][0] + b"\x00"
    return entries, subdirectories


def find_again(number: int) -> Repair:
    """Something that no entry points to."""

    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is None:
            return Step.NOT_NEEDED
        first = await _find_entry(unit, inode.parent, inode.name) if inode.parent else None
        if first is not None and first.inode == number:
            return Step.NOT_NEEDED
        if not inode.links:
            if not inode.is_directory or not (await _content(unit, number))[0]:
                return Step.NOT_NEEDED
            # A removed directory with something in it: it counts again.
            inode.links = 2 + (await _content(unit, number))[1]
            unit.entries_delta += 1
            unit.delete(keys.orphan(number))
        elif not inode.is_directory:
            inode.links = 1
        await _keep(unit, inode)
        return Step.DONE

    return repair


def break_circle(number: int) -> Repair:
    """A directory that is inside of itself: it moves to /lost+found."""

    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is None or not await _is_inside_itself(unit, inode):
            return Step.NOT_NEEDED
        found = await _find_entry(unit, inode.parent, inode.name)
        if found is not None and found.inode == number:
            unit.delete(keys.entry(inode.parent, inode.name))
            await _grow(unit, inode.parent, -1, -1)
        await _keep(unit, inode)
        return Step.DONE

    return repair


async def _is_inside_itself(unit: Unit, inode: Inode) -> bool:
    passed = {inode.number}
    current: Inode | None = inode
    while current is not None and current.parent:
        if current.parent in passed:
            return current.parent == inode.number
        passed.add(current.parent)
        current = await unit.find_inode(current.parent)
    return False


def restore_directory(number: int, place: tuple[int, bytes] | None) -> Repair:
    """A directory whose record is gone, while its entries are there. `place`: where it was."""

    async def repair(unit: Unit) -> Step:
        if await unit.find_inode(number) is not None:
            return Step.NOT_NEEDED
        entries, subdirectories = await _content(unit, number)
        if not entries:
            return Step.NOT_NEEDED
        inode = _new_directory(unit, number, 0o700, entries, subdirectories)
        unit.entries_delta += 1
        found = await _find_entry(unit, *place) if place is not None else None
        if place is not None and found is not None and found.inode == number:
            inode.parent, inode.name = place
            unit.save(inode)
            _forget_paths(unit)
        else:
            await _keep(unit, inode)
        return Step.DONE

    return repair


async def restore_root(unit: Unit) -> Step:
    """The root directory, as a new volume has it, with the entries that are there."""
    if await unit.find_inode(ROOT_INODE) is not None:
        return Step.NOT_NEEDED
    entries, subdirectories = await _content(unit, ROOT_INODE)
    unit.save(_new_directory(unit, ROOT_INODE, 0o755, entries, subdirectories))
    return Step.DONE


def _new_directory(unit: Unit, number: int, mode: int, entries: int, subdirectories: int) -> Inode:
    """A record for a directory of which only the entries are left."""
    return Inode(
        number,
        Kind.DIRECTORY,
        mode,
        0,
        0,
        links=2 + subdirectories,
        size=entries,
        atime_ns=unit.now_ns,
        mtime_ns=unit.now_ns,
        ctime_ns=unit.now_ns,
        birth_ns=unit.now_ns,
    )


# ---------------------------------------------------------------- rows that belong to nothing


def remove_strays(prefix: bytes, number: int) -> Repair:
    """Rows of an inode that does not exist; `prefix` is that of their keys, number included."""

    async def repair(unit: Unit) -> Step:
        if await unit.find_inode(number) is not None:
            return Step.NOT_NEEDED
        start, end = keys.prefix_range(prefix)
        page = await unit.scan(start, end, limit=ROWS_PER_UNIT)
        for key, value in page:
            await _remove_stray(unit, key, value)
        more = bool(page) and bool(await unit.scan(page[-1][0] + b"\x00", end, limit=1))
        return Step.MORE if more else Step.DONE

    return repair


async def _remove_stray(unit: Unit, key: bytes, value: bytes) -> None:
    unit.delete(key)
    try:
        place = extent_of(key, value)
    except Corrupt:
        return  # what it referred to is found out by the next check
    if place is not None:
        extent, length = place
        await unit.unrefer(extent, key, length)
