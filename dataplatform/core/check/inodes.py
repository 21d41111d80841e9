"""Each inode by itself, and the compact table of all of them that the later parts look into.

A table of parallel arrays: about sixty bytes per inode, so a million of them take 60 MB. Instead of
an inode's name there is a hash of its parent and name: 64 bits tell whether an entry is its first
name, and only those that differ are compared in full.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ...base.errors import Corrupt
from ...keyspace import keys
from ...keyspace.records import ROOT_INODE, Inode, Kind
from .picture import PAGE_ROWS, read_record
from .rights import check_expressions

if TYPE_CHECKING:
    from .context import Check

PRIMARY = 1  # the entry of its first name was seen
ORPHAN = 2  # it is marked as removed
UNSURE = 4  # something about its data or entries could not be read
COUNTED = 8  # its rows were compared with their count

_SIGNED_MAX = 2**63 - 1
_LINKS_MAX = 2**31


class Inodes:
    """Readable inodes in order of number; indexes into it are good once all were added."""

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.parents = array("Q")
        self.name_hashes = array("q")
        self.sizes = array("q")
        self.used_bytes = array("q")
        self.links = array("I")
        self.names = array("I")  # entries that point to it
        self.entries = array("I")  # entries in it
        self.subdirectories = array("I")  # those that are directories
        self.kinds = bytearray()
        self.flags = bytearray()
        self.junctions: dict[int, int] = {}
        self.damaged: dict[int, str] = {}
        """Those that cannot be read, with what is wrong."""
        self.damaged_named: set[int] = set()

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, inode: Inode) -> None:
        self.numbers.append(inode.number)
        self.parents.append(inode.parent)
        self.name_hashes.append(hash((inode.parent, inode.name)))
        self.sizes.append(inode.size)
        self.used_bytes.append(inode.used_bytes)
        self.links.append(inode.links)
        self.names.append(0)
        self.entries.append(0)
        self.subdirectories.append(0)
        self.kinds.append(inode.kind)
        self.flags.append(0)
        if inode.volume:
            self.junctions[inode.number] = inode.volume

    def find(self, number: int) -> int:
        """Its index, -1 if it is not there."""
        index = bisect_left(self.numbers, number)
        return index if index < len(self.numbers) and self.numbers[index] == number else -1

    def has(self, number: int) -> bool:
        return self.find(number) >= 0 or number in self.damaged

    def is_named(self, number: int) -> bool:
        """Whether it counts for the volume's usage."""
        index = self.find(number)
        if index < 0:
            return number in self.damaged_named
        return bool(self.links[index] or self.names[index])

    def is_orphan(self, index: int) -> bool:
        return not self.links[index] and not self.names[index]

    async def indexes(self) -> AsyncIterator[range]:
        """All, in parts between which other tasks get their turn."""
        for start in range(0, len(self), PAGE_ROWS):
            yield range(start, min(start + PAGE_ROWS, len(self)))
            await asyncio.sleep(0)


_COUNTED_AS: dict[int, str] = {
    Kind.FILE: "files",
    Kind.DIRECTORY: "directories",
    Kind.SYMLINK: "symbolic links",
    Kind.TABLE: "tables",
    Kind.STREAM: "streams",
}


async def read_inodes(check: Check) -> None:
    """Every inode record."""
    async for page in check.pages(keys.INODE, "files and directories"):
        for key, value in page:
            number = keys.number_of(key)
            inode = _read(check, number, value)
            if inode is None:
                continue
            check.inodes.add(inode)
            check.counts[_COUNTED_AS.get(inode.kind, "special nodes")] += 1
            if inode.access:
                await check_expressions(check, inode)
            problem = _problem(check, inode)
            if problem:
                check.add(await check.path_of(number), problem)
    await _check_root(check)


def _read(check: Check, number: int, value: bytes) -> Inode | None:
    try:
        inode = read_record(Inode, value)
    except Corrupt:
        check.inodes.damaged[number] = "its record cannot be read"
        return None
    if inode.number != number:
        check.inodes.damaged[number] = "its record is that of another inode"
    elif inode.kind not in Kind.__members__.values():
        check.inodes.damaged[number] = "its kind is unknown"
    elif not (
        0 <= inode.links <= _LINKS_MAX
        and 0 <= inode.size <= _SIGNED_MAX
        and abs(inode.used_bytes) <= _SIGNED_MAX
        and 0 <= inode.parent <= _SIGNED_MAX
        and inode.volume >= 0
    ):
        check.inodes.damaged[number] = "its record has impossible numbers"
    else:
        return inode
    return None


def _problem(check: Check, inode: Inode) -> str:
    """What is wrong with an inode by itself."""
    if inode.kind == Kind.SYMLINK and not inode.symlink:
        return "the symbolic link has no target"
    if inode.kind != Kind.SYMLINK and inode.symlink:
        return "it has the target of a symbolic link and is none"
    if inode.kind == Kind.SYMLINK and inode.size != len(inode.symlink):
        return "the symbolic link's size is not that of its target"
    if inode.volume and inode.kind != Kind.DIRECTORY:
        return "a volume is mounted on something that is no directory"
    if check.is_too_new(inode.version):
        return f"its version {inode.version} is newer than the last commit, {check.commit}"
    return ""


async def _check_root(check: Check) -> None:
    index = check.inodes.find(ROOT_INODE)
    if index < 0:
        return  # missed where names are looked at
    if check.inodes.kinds[index] != Kind.DIRECTORY or check.inodes.parents[index]:
        check.add("/", "the root is not a root directory")
