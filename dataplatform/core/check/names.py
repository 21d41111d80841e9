"""The namespace is a tree: entries and inodes name each other, counts are exact, all is reachable.

Entries are counted against the table of inodes; what is compared in full is only what differs. The
sums are over what is stored, so one missing row is not also a dozen wrong counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...base.errors import Corrupt, Invalid
from ...engine.base import Pair
from ...keyspace import keys
from ...keyspace.records import ROOT_INODE, Entry, Kind
from ..paths import check_name
from . import repairs
from .inodes import ORPHAN, PRIMARY, UNSURE
from .strays import Strays

if TYPE_CHECKING:
    from .context import Check

ONE_NAME = frozenset((Kind.DIRECTORY, Kind.TABLE, Kind.STREAM))
"""What has exactly one name."""


class Name(NamedTuple):
    directory: int
    name: bytes


def name_of(key: bytes) -> Name:
    """Of an entry's key."""
    return Name(keys.number_of(key), keys.name_of(key))


def link_name_of(key: bytes) -> Name:
    """Of a further link's key."""
    return Name(int.from_bytes(key[9:17], "big"), key[17:])


async def check_names(check: Check) -> None:
    names = _Names(check)
    await names.read_entries()
    await names.read_links()
    await names.read_orphans()
    await names.end_damaged()
    await names.end_dangling()
    await names.check_inodes()
    await _check_tree(check)


class _Names:
    def __init__(self, check: Check) -> None:
        self._check = check
        self._inodes = check.inodes
        self._unrecorded: dict[int, list[Name]] = {}  # names that the inode does not know of
        self._linked: dict[int, Name] = {}  # a further name of inodes seen without their first
        self._unreadable: list[Name] = []  # entries whose value cannot be read
        self._dangling: dict[Name, Entry] = {}  # entries of inodes that do not exist
        self._lost: set[int] = set()  # directories that entries stand in and that do not exist

    # ---- entries

    async def read_entries(self) -> None:
        async for page in self._check.pages(keys.ENTRY, "names"):
            others: list[tuple[Name, int]] = []
            for pair in page:
                await self._entry(pair, others)
            await self._look_up_links(others)

    async def _entry(self, pair: Pair, others: list[tuple[Name, int]]) -> None:
        check, inodes = self._check, self._inodes
        name = name_of(pair[0])
        check.counts["names"] += 1
        directory = inodes.find(name.directory)
        if directory >= 0:
            inodes.entries[directory] += 1
            if inodes.kinds[directory] != Kind.DIRECTORY:
                path = await check.path_of(name.directory)
                check.add(path, f"it is no directory, and there is a name in it: {name.name!r}")
        elif check.is_missing(name.directory):
            self._lost.add(name.directory)
        if not _is_name(name.name):
            path = await check.entry_path(*name)
            check.add(path, "this cannot be a name: rename or remove it")
        try:
            entry = Entry.unpack(pair[1])
        except Corrupt:
            self._unreadable.append(name)
            return
        index = inodes.find(entry.inode)
        if index >= 0:
            await self._named(name, entry, index, directory, others)
            return
        if directory >= 0 and entry.kind == Kind.DIRECTORY:
            inodes.subdirectories[directory] += 1
        if entry.inode in inodes.damaged:
            inodes.damaged_named.add(entry.inode)
            check.name_path(entry.inode, await check.entry_path(*name))
        elif check.is_missing(entry.inode):
            self._dangling[name] = entry

    async def _named(
        self, name: Name, entry: Entry, index: int, directory: int, others: list[tuple[Name, int]]
    ) -> None:
        """An entry of an inode that can be read."""
        check, inodes = self._check, self._inodes
        kind = inodes.kinds[index]
        if directory >= 0 and kind == Kind.DIRECTORY:
            inodes.subdirectories[directory] += 1
        inodes.names[index] += 1
        if hash(tuple(name)) == inodes.name_hashes[index]:
            inodes.flags[index] |= PRIMARY
        else:
            others.append((name, index))
        junction = inodes.junctions.get(entry.inode, 0)
        if entry.kind != kind or entry.volume != junction:
            what = (
                f"its name says it is a {_word(entry.kind)}, and it is a {_word(kind)}"
                if entry.kind != kind
                else f"its name says volume {entry.volume} is mounted here, "
                f"and it is volume {junction}"
            )
            check.add(
                await check.entry_path(*name),
                what,
                repairs.rewrite_entry(*name, entry.inode),
            )

    async def _look_up_links(self, others: list[tuple[Name, int]]) -> None:
        """Of entries that are not their inode's first name: is there a record of them?"""
        check, inodes = self._check, self._inodes
        wanted = [keys.link(inodes.numbers[index], *name) for name, index in others]
        found = await check.picture.find_many(wanted)
        for key, value, (name, index) in zip(wanted, found, others, strict=True):
            if value is not None or check.picture.is_unreadable(key):
                continue
            self._unrecorded.setdefault(inodes.numbers[index], []).append(name)

    # ---- further links

    async def read_links(self) -> None:
        check = self._check
        strays = Strays(check, keys.LINK)
        async for page in check.pages(keys.LINK, "further names"):
            rows = [key for key, _ in page if not strays.is_stray(keys.number_of(key))]
            wanted = [keys.entry(*link_name_of(key)) for key in rows]
            found = await check.picture.find_many(wanted)
            for key, entry_key, value in zip(rows, wanted, found, strict=True):
                check.counts["hard links"] += 1
                if value is not None or not check.picture.is_unreadable(entry_key):
                    await self._link(keys.number_of(key), link_name_of(key), value)
        strays.end()

    async def _link(self, number: int, name: Name, value: bytes | None) -> None:
        check, inodes = self._check, self._inodes
        if name in self._unreadable or name in self._dangling:
            await self._rewrite(name, number)
            return
        index = inodes.find(number)
        entry = Entry.unpack(value) if value is not None else None
        is_first = index >= 0 and hash(tuple(name)) == inodes.name_hashes[index]
        if entry is not None and entry.inode == number and not is_first:
            if index >= 0 and not inodes.flags[index] & PRIMARY:
                self._linked[number] = name
            return
        path = await check.entry_path(*name)
        check.add(
            path,
            "it is recorded twice as a name of the file"
            if is_first
            else f"it is recorded as a name of inode {number}, and there is no such name",
            repairs.remove_link(number, *name) if index >= 0 else None,
        )

    # ---- marks of what was removed

    async def read_orphans(self) -> None:
        check, inodes = self._check, self._inodes
        async for page in check.pages(keys.ORPHAN, "removed files"):
            for key, value in page:
                number = keys.number_of(key)
                index = inodes.find(number)
                check.counts["removed and not yet swept"] += 1
                if index >= 0:
                    inodes.flags[index] |= ORPHAN
                    if len(value) != 8:
                        check.add(await check.path_of(number), "its mark of removal is damaged")
                elif check.is_missing(number):
                    check.add(
                        f"(inode {number})",
                        "it is marked as removed, and does not exist",
                        repairs.unmark_removed(number),
                    )

    # ---- what was left over

    async def end_damaged(self) -> None:
        """Inodes and entries that cannot be read."""
        check, inodes = self._check, self._inodes
        for number, problem in inodes.damaged.items():
            check.add(await check.path_of(number), problem)
        hashes = {hash(tuple(name)): name for name in [*self._unreadable, *self._dangling]}
        if hashes:
            async for some in inodes.indexes():
                for index in some:
                    name = hashes.get(inodes.name_hashes[index])
                    if name is not None and not inodes.flags[index] & PRIMARY:
                        inodes.flags[index] |= PRIMARY
                        await self._rewrite(name, inodes.numbers[index])
        for name in self._unreadable:
            check.add(await check.entry_path(*name), "what the name points to cannot be read")

    async def _rewrite(self, name: Name, number: int) -> None:
        """A damaged entry of an inode that says that this is its name."""
        check, inodes = self._check, self._inodes
        directory = inodes.find(name.directory)
        problem = "what the name points to cannot be read"
        entry = self._dangling.pop(name, None)
        if entry is None:
            self._unreadable.remove(name)
        else:
            problem = f"the name points to inode {entry.inode}, which does not exist"
            if directory >= 0 and entry.kind == Kind.DIRECTORY:
                inodes.subdirectories[directory] -= 1
        index = inodes.find(number)
        if index >= 0:
            inodes.names[index] += 1
            if directory >= 0 and inodes.kinds[index] == Kind.DIRECTORY:
                inodes.subdirectories[directory] += 1
        check.add(
            await check.entry_path(*name),
            f"{problem}: it is the name of inode {number}",
            repairs.rewrite_entry(*name, number),
        )

    async def end_dangling(self) -> None:
        """Names of nothing, and directories of which only the entries are left."""
        check = self._check
        places: dict[int, Name] = {}
        if check.is_missing(ROOT_INODE):
            self._lost.discard(ROOT_INODE)
            check.add("/", "the root directory's record is missing", repairs.restore_root)
        for name, entry in self._dangling.items():
            if entry.kind == Kind.DIRECTORY and entry.inode in self._lost:
                places[entry.inode] = name
                continue
            check.add(
                await check.entry_path(*name),
                f"the name points to nothing: inode {entry.inode} does not exist",
                repairs.remove_entry(*name),
            )
        for number in sorted(self._lost):
            place = places.get(number)
            path = await check.entry_path(*place) if place else f"(inode {number})"
            check.add(
                path,
                "the directory's record is missing, its entries are there",
                repairs.restore_directory(number, place),
            )

    # ---- inodes

    async def check_inodes(self) -> None:
        """Names, links and counts of every inode."""
        check, inodes = self._check, self._inodes
        orphans_known = not check.picture.touches_unreadable(*keys.prefix_range(keys.ORPHAN))
        async for some in inodes.indexes():
            for index in some:
                number = inodes.numbers[index]
                if number == ROOT_INODE:
                    await self._root(index)
                elif not inodes.names[index]:
                    await self._nameless(index, number, orphans_known)
                else:
                    if not inodes.flags[index] & PRIMARY or number in self._unrecorded:
                        await self._names_of(index, number)
                    await self._links_of(index, number)
                    if inodes.flags[index] & ORPHAN and inodes.kinds[index] != Kind.DIRECTORY:
                        check.add(
                            await check.path_of(number),
                            "it is marked as removed, and has a name",
                            repairs.unmark_removed(number),
                        )
                if inodes.kinds[index] == Kind.DIRECTORY:
                    await self._directory(index, number)
                if inodes.is_named(number) and number != ROOT_INODE:
                    check.counts["things with a name"] += 1
        check.counts["things with a name"] += len(inodes.damaged_named)

    async def _root(self, index: int) -> None:
        for name in self._unrecorded.get(ROOT_INODE, []):
            await self._one_too_many(name, "the root directory")

    async def _one_too_many(self, name: Name, what: str) -> None:
        path = await self._check.entry_path(*name)
        self._check.add(path, f"it is a second name of {what}", repairs.remove_entry(*name))

    async def _nameless(self, index: int, number: int, orphans_known: bool) -> None:
        check, inodes = self._check, self._inodes
        inode = await check.inode(number)
        if inode is None:
            return
        if not inodes.links[index]:
            if inodes.kinds[index] == Kind.DIRECTORY and inodes.entries[index]:
                check.add(
                    f"(inode {number})",
                    "a removed directory still holds something",
                    repairs.find_again(number),
                )
            elif not inodes.flags[index] & ORPHAN and orphans_known:
                check.add(
                    f"(inode {number})",
                    f"a removed {_word(inode.kind)} is not marked for the sweep: "
                    f"it was {inode.name.decode('utf-8', 'backslashreplace')}",
                    repairs.mark_removed(number),
                )
        elif not check.picture.is_unreadable(keys.entry(inode.parent, inode.name)):
            check.add(
                await check.path_of(number),
                f"this {_word(inode.kind)} is in no directory: a repair puts it into "
                f"/{repairs.LOST_AND_FOUND}/inode-{number}",
                repairs.find_again(number),
            )

    async def _names_of(self, index: int, number: int) -> None:
        """The first name is not there, or there are names that the inode does not know of."""
        check, inodes = self._check, self._inodes
        unrecorded = self._unrecorded.get(number, [])
        inode = await check.inode(number)
        if inode is None:
            return
        if not inodes.flags[index] & PRIMARY:
            if check.picture.is_unreadable(keys.entry(inode.parent, inode.name)):
                return
            name = unrecorded.pop(0) if unrecorded else self._linked.get(number)
            if name is None:
                return
            check.add(
                await check.entry_path(*name),
                f"its record says that it is called {await check.path_of(number)}",
                repairs.set_first_name(number, *name),
            )
        for name in unrecorded:
            if inodes.kinds[index] in ONE_NAME:
                await self._one_too_many(name, await check.path_of(number))
            else:
                check.add(
                    await check.entry_path(*name),
                    f"the file does not know of this name: it is {await check.path_of(number)}",
                    repairs.record_link(number, *name),
                )

    async def _links_of(self, index: int, number: int) -> None:
        check, inodes = self._check, self._inodes
        kind = inodes.kinds[index]
        if kind == Kind.DIRECTORY or check.picture.touches_unreadable(
            *keys.prefix_range(keys.ENTRY)
        ):
            return
        extra = len(self._unrecorded.get(number, ())) if kind in ONE_NAME else 0
        names, links = inodes.names[index] - extra, inodes.links[index]
        if links != names:
            check.add(
                await check.path_of(number),
                f"it counts {links} names and has {names}",
                repairs.add_links(number, names - links),
            )

    async def _directory(self, index: int, number: int) -> None:
        check, inodes = self._check, self._inodes
        entries, subdirectories = inodes.entries[index], inodes.subdirectories[index]
        if inodes.flags[index] & UNSURE or check.picture.touches_unreadable(
            *keys.prefix_range(keys.entries(number))
        ):
            return
        is_removed = inodes.is_orphan(index) and number != ROOT_INODE
        size, links = inodes.sizes[index], inodes.links[index]
        wanted = 0 if is_removed else 2 + subdirectories
        if size != entries or links != wanted:
            what = f"it counts {size} entries and has {entries}"
            if links != wanted:
                what += f", its links are {links} and should be {wanted}"
            check.add(
                await check.path_of(number),
                f"the directory's counts are wrong: {what}",
                repairs.add_to_directory(number, entries - size, wanted - links),
            )


def _is_name(name: bytes) -> bool:
    try:
        check_name(name.decode())
    except (Invalid, UnicodeDecodeError):
        return False
    return True


def _word(kind: int) -> str:
    return Kind(kind).word if kind in Kind.__members__.values() else f"thing of kind {kind}"


# ---------------------------------------------------------------- the tree

_UNKNOWN, _DONE, _ON_PATH = 0, 1, 2


async def _check_tree(check: Check) -> None:
    """Every directory's chain of parents ends: at the root, or at something reported already."""
    inodes = check.inodes
    states = bytearray(len(inodes))
    async for some in inodes.indexes():
        for index in some:
            if inodes.kinds[index] == Kind.DIRECTORY and states[index] == _UNKNOWN:
                await _walk_up(check, index, states)


async def _walk_up(check: Check, index: int, states: bytearray) -> None:
    inodes = check.inodes
    path: list[int] = []
    while states[index] == _UNKNOWN:
        states[index] = _ON_PATH
        path.append(index)
        is_end = inodes.numbers[index] == ROOT_INODE or not inodes.flags[index] & PRIMARY
        parent = -1 if is_end else inodes.find(inodes.parents[index])
        if parent < 0:
            break
        index = parent
    else:
        if states[index] == _ON_PATH:
            circle = path[path.index(index) :]
            number = min(inodes.numbers[i] for i in circle)
            inode = await check.inode(number)
            name = inode.name.decode("utf-8", "backslashreplace") if inode is not None else ""
            check.add(
                f"(inode {number})",
                f"the directory {name} is inside of itself, and so in no directory: a repair puts "
                f"it into /{repairs.LOST_AND_FOUND}/inode-{number}",
                repairs.break_circle(number),
            )
    for passed in path:
        states[passed] = _DONE
