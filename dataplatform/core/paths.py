"""Names and paths: what is allowed, and the walk along a path within one volume.

The rules are those of POSIX.1-2017 §3.170 and §4.13, except that names are UTF-8 text, and that
`.` and `..` are not accepted in paths (they are in the targets of symbolic links).
"""

from __future__ import annotations

import errno
from typing import NamedTuple, Protocol

from ..base.errors import Invalid, NotFound
from ..base.limits import (
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
    PATH_DEPTH_MAX,
    SYMLINK_FOLLOW_MAX,
)
from ..keyspace import keys
from ..keyspace.records import ROOT_INODE, Entry, Inode, Kind
from .snapshot_names import SNAPSHOT_NAME
from .units import Unit


class Getter(Protocol):
    async def get(self, key: bytes) -> bytes | None: ...


def check_name(name: str) -> bytes:
    """The name in bytes. INVALID, saying why, if it cannot be one."""
    if not name:
        raise Invalid("a name is empty", errno=errno.ENOENT)
    if name in (".", ".."):
        raise Invalid("a name cannot be `.` or `..`", name=name)
    if "/" in name or "\x00" in name:
        raise Invalid("a name cannot hold `/` or NUL", name=name)
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise Invalid("a name must be UTF-8", name=ascii(name), errno=errno.EILSEQ) from error
    if len(encoded) > NAME_BYTES_MAX:
        raise Invalid(
            "a name is too long",
            name=name,
            bytes=len(encoded),
            bytes_max=NAME_BYTES_MAX,
            errno=errno.ENAMETOOLONG,
        )
    return encoded


def check_new_name(name: str) -> bytes:
    """A name that something may be created under."""
    if name == SNAPSHOT_NAME:
        raise Invalid("the name is reserved for snapshots", name=name, errno=errno.EPERM)
    return check_name(name)


def split_path(path: str) -> list[str]:
    """The names of a path; empty for "/". Empty names (`//`, a trailing `/`) are skipped as in
    POSIX. INVALID if a name is not allowed or the path is too deep or long."""
    names = [name for name in path.split("/") if name]
    if len(names) > PATH_DEPTH_MAX:
        raise Invalid(
            "a path is too deep",
            depth=len(names),
            depth_max=PATH_DEPTH_MAX,
            errno=errno.ENAMETOOLONG,
        )
    for name in names:
        check_name(name)
    if len(path) > PATH_BYTES_MAX or len(path.encode()) > PATH_BYTES_MAX:
        raise Invalid("a path is too long", bytes_max=PATH_BYTES_MAX, errno=errno.ENAMETOOLONG)
    return names


class Place(NamedTuple):
    """Where a walk ended.

    `inode` is 0 if the last name does not exist; then `rest` holds the names that are missing
    below `directory`, the last one included. With `volume` set, the walk has to go on in that
    volume's root along `rest`; with `absolute` set, from the platform's root; with `above` set,
    from the directory that this volume is mounted in.
    """

    directory: int  # holds the last name; 0 for a volume's root
    name: bytes
    inode: int
    kind: int
    rest: tuple[str, ...] = ()
    volume: int = 0
    absolute: bool = False
    above: bool = False

    @property
    def ended(self) -> bool:
        return not (self.volume or self.absolute or self.above)


class Search(Protocol):
    """Whether somebody may look up names in the directories of a walk."""

    def is_sure(self, directory: int) -> bool:
        """Whether they may, as far as that is known without waiting. If not: `check`."""

    async def check(self, directory: int, volume: int, inode: int) -> None:
        """DENIED if they may not. There is this inode, or the root of that volume (if not 0), or
        nothing (0, 0)."""


async def walk(
    reader: Getter,
    start: int,
    names: tuple[str, ...] | list[str],
    *,
    follow: bool,
    search: Search | None = None,
    junctions: bool = True,
) -> Place:
    """Go along `names` from the inode `start`, following symbolic links on the way, the last one
    only if `follow`. Stops where it leaves the volume: see `Place`. Without `junctions` what is
    mounted in it is not seen, as in a snapshot. Each directory is asked of `search`, before
    anything is told of what is in it.

    NOT_FOUND with ENOTDIR if a name on the way is no directory; ELOOP after 40 links.
    """
    todo = list(reversed(names))
    place = Place(0, b"", start, Kind.DIRECTORY)
    links = 0
    while todo:
        name = todo.pop()
        if place.kind != Kind.DIRECTORY:
            raise NotFound(
                "a name on the path is not a directory",
                name=place.name,
                errno=errno.ENOTDIR,
            )
        if name == ".":
            continue
        if name == "..":
            if place.inode == ROOT_INODE:
                if search is not None:
                    await search.check(ROOT_INODE, 0, 0)
                return Place(0, b"", 0, 0, tuple(reversed(todo)), above=True)
            parent = await _parent(reader, place)
            if search is not None:
                await search.check(place.inode, 0, parent.inode)
            place = parent
            continue
        encoded = name.encode()
        value = None
        if name != SNAPSHOT_NAME:  # which nothing is stored under
            value = await reader.get(keys.entry(place.inode, encoded))
        if value is None:
            if search is not None:
                await search.check(place.inode, 0, 0)
            return Place(place.inode, encoded, 0, 0, (name, *reversed(todo)))
        entry = Entry.unpack(value)
        if entry.volume and not junctions:
            entry = entry._replace(volume=0)
        if search is not None and not search.is_sure(place.inode):
            await search.check(place.inode, entry.volume, entry.inode)
        if entry.volume and (todo or follow):
            rest = tuple(reversed(todo))
            return Place(place.inode, encoded, entry.inode, entry.kind, rest, entry.volume)
        if entry.kind == Kind.SYMLINK and (todo or follow):
            links += 1
            if links > SYMLINK_FOLLOW_MAX:
                raise Invalid("too many symbolic links on the path", errno=errno.ELOOP)
            target = await _read_link(reader, entry.inode)
            todo += [n for n in reversed(target.split("/")) if n]
            if target.startswith("/"):
                return Place(0, b"", 0, 0, tuple(reversed(todo)), absolute=True)
            continue  # from the same directory
        place = Place(place.inode, encoded, entry.inode, entry.kind)
    return place


async def _inode(reader: Getter, number: int) -> Inode:
    """As a unit sees it, which packs its inodes at the end; or as it is stored."""
    inode: Inode | None
    if isinstance(reader, Unit):
        inode = await reader.find_inode(number)
    else:
        value = await reader.get(keys.inode(number))
        inode = Inode.unpack(value) if value is not None else None
    if inode is None:
        raise NotFound("a name on the path is gone", inode=number)
    return inode


async def _read_link(reader: Getter, number: int) -> str:
    return (await _inode(reader, number)).symlink.decode("utf-8", "surrogateescape")


async def _parent(reader: Getter, place: Place) -> Place:
    return Place(0, b"", (await _inode(reader, place.inode)).parent, Kind.DIRECTORY)
