"""Looking at names: ls, stat, tree, du."""

from __future__ import annotations

import dataclasses
import stat as modes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import FILES, Json, RemotePath, RemotePaths, app, command
from .connections import connect
from .outputs import Size, Time

if TYPE_CHECKING:
    from dataplatform import Client, Entry, Stat

STYLES = {"directory": "bold blue", "table": "magenta", "stream": "cyan", "symlink": "green"}
LONG_HEADERS = ("kind", "mode", "uid", "gid", "size", "modified", "name")

# What `size` counts, where it does not count bytes.
COUNTED = ("directory", "table", "stream")


# --------------------------------------------------------------------------------------- ls


@command(app, "ls", "dp ls -l /projects", "dp ls -R --json /projects | jq .path", panel=FILES)
def ls(
    path: RemotePath = "/",
    is_long: Annotated[
        bool, typer.Option("-l", "--long", help="Kind, mode, owner, size and time too.")
    ] = False,
    is_recursive: Annotated[
        bool, typer.Option("-R", "--recursive", help="Everything below, too.")
    ] = False,
    json: Json = False,
) -> None:
    """List a directory.

    Sizes count bytes of a file, entries of a directory, rows of a table, records of a stream. With
    -l in a pipe, a line holds kind, mode, uid, gid, size, time of change and name.
    """
    with connect() as client:
        found = client.lstat(path)
        if found.is_symlink() and client.exists(path):
            found = client.stat(path)
        if not found.is_dir():
            _list([_entry_of(found, path)], is_long=is_long, json=json)
            return
        for number, directory in enumerate(_directories(client, path, is_recursive)):
            if is_recursive and not json:
                outputs.line(f"\n{directory}:" if number else f"{directory}:")
            _list(client.scandir(directory), is_long=is_long, json=json)


def _entry_of(stat: Stat, path: str) -> Entry:
    """What is not in a directory's listing, as an entry named as the user named it."""
    import dataplatform

    known = {f.name: getattr(stat, f.name) for f in dataclasses.fields(stat)}
    return dataplatform.Entry(name=path, path=path, **known)


def _directories(client: Client, path: str, is_recursive: bool) -> Iterator[str]:
    if is_recursive:
        for directory, _, _ in client.walk(path):
            yield directory
    else:
        yield path


def _list(entries: Iterable[Entry], *, is_long: bool, json: bool) -> None:
    if json:
        for entry in entries:
            outputs.json_line(outputs.entry_json(entry))
    elif is_long:
        outputs.table(LONG_HEADERS, map(_long, entries))
    elif outputs.is_terminal():
        _show_names(entries)
    else:
        for entry in entries:
            outputs.line(outputs.plain(entry.name))


def _long(entry: Entry) -> tuple[Any, ...]:
    name = f"{entry.name} -> {entry.symlink}" if entry.is_symlink() else entry.name
    mode = modes.filemode(entry.mode)[1:]
    return entry.kind, mode, entry.uid, entry.gid, _size(entry), Time(entry.mtime_ns), name


def _size(stat: Stat) -> int:
    return stat.size if stat.kind in COUNTED else Size(stat.size)


def _show_names(entries: Iterable[Entry]) -> None:
    from rich.columns import Columns
    from rich.text import Text

    names = [
        Text(entry.name + "/" * entry.is_dir(), style=STYLES.get(entry.kind, ""))
        for entry in entries
    ]
    if names:
        outputs.show(Columns(names, column_first=True, padding=(0, 2)))


# ------------------------------------------------------------------------------------- stat


@command(app, "stat", "dp stat /projects/cars/front.jpg", panel=FILES)
def stat(
    paths: RemotePaths,
    is_followed: Annotated[
        bool, typer.Option("-L", "--follow", help="What a symbolic link points to.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what is known about a name.

    Kind, size, owner, times, and the version: the commit that last changed it.
    """
    with connect() as client:
        for path in paths:
            found = client.stat(path) if is_followed else client.lstat(path)
            if json:
                name = path.rstrip("/").rpartition("/")[2] or "/"
                outputs.json_line(outputs.entry_json(found, path, name))
            else:
                outputs.fields(_known(found, path))


def _known(stat: Stat, path: str) -> dict[str, Any]:
    known = {
        "path": path,
        "kind": stat.kind,
        "size": _size(stat),
        "used": Size(stat.used_bytes),
        "mode": f"{stat.mode:04o}",
        "uid": str(stat.uid),
        "gid": str(stat.gid),
        "links": stat.links,
        "volume": str(stat.volume),
        "inode": str(stat.inode),
        "version": str(stat.version),
        "modified": Time(stat.mtime_ns),
        "changed": Time(stat.ctime_ns),
        "read": Time(stat.atime_ns),
        "created": Time(stat.birth_ns),
    }
    if stat.is_symlink():
        known["target"] = stat.symlink
    if stat.volume_root:
        known["volume root"] = True
    return known


# ------------------------------------------------------------------------------------- tree


@command(app, "tree", "dp tree /projects", "dp tree --depth 2 /", panel=FILES)
def tree(
    path: RemotePath = "/",
    depth: Annotated[
        int | None, typer.Option("--depth", "-d", min=1, metavar="N", help="So deep at most.")
    ] = None,
    json: Json = False,
) -> None:
    """Show everything at and below a directory as a tree."""
    with connect() as client:
        if not json:
            outputs.line(path)
        directories = others = 0
        for entry, rails in _walk(client, path, "", depth):
            directories += entry.is_dir()
            others += not entry.is_dir()
            if json:
                outputs.json_line(outputs.entry_json(entry))
            else:
                outputs.line(rails + _label(entry))
        if not json:
            counted = _count(directories, "directory", "directories")
            outputs.line(f"\n{counted}, {_count(others, 'other', 'others')}")


def _walk(
    client: Client, directory: str, rails: str, depth: int | None
) -> Iterator[tuple[Entry, str]]:
    """Entries in the order of a tree, each with the lines that lead to it."""
    entries = client.scandir(directory)
    entry = next(entries, None)
    while entry is not None:
        following = next(entries, None)
        is_last = following is None
        yield entry, rails + ("└── " if is_last else "├── ")
        if entry.is_dir() and (depth is None or depth > 1):
            below = rails + ("    " if is_last else "│   ")
            yield from _walk(client, entry.path, below, None if depth is None else depth - 1)
        entry = following


def _label(entry: Entry) -> str:
    name = outputs.plain(entry.name)
    if entry.is_dir():
        return f"{name}/"
    if entry.is_symlink():
        return f"{name} -> {entry.symlink}"
    if entry.kind == "table":
        return f"{name}  (table, {_count(entry.size, 'row', 'rows')})"
    if entry.kind == "stream":
        return f"{name}  (stream, {_count(entry.size, 'record', 'records')})"
    return name


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


# --------------------------------------------------------------------------------------- du


@dataclass(slots=True)
class Sum:
    """What is at and below a path."""

    used_bytes: int = 0
    entries: int = 0

    def add(self, stat: Stat, seen: set[tuple[int, int]]) -> None:
        """Count a name, and its bytes unless another name of the same file was counted before."""
        self.entries += 1
        if stat.links > 1 and not stat.is_dir():
            inode = stat.volume, stat.inode
            if inode in seen:
                return
            seen.add(inode)
        self.used_bytes += stat.used_bytes


@command(app, "du", "dp du /projects", "dp du --depth 1 /", panel=FILES)
def du(
    path: RemotePath = "/",
    depth: Annotated[
        int, typer.Option("--depth", "-d", min=0, metavar="N", help="Directories so deep, too.")
    ] = 0,
    json: Json = False,
) -> None:
    """Add up the space that everything at and below a path takes.

    A line holds the bytes used, the number of entries, and the path. A file with several names
    counts once. `dp volume info` shows a volume's total and quota at once.
    """
    with connect() as client:
        sums = _sums(client, path, depth, set())
        if json:
            for name, found in sums:
                outputs.json_line({"path": name, **dataclasses.asdict(found)})
        else:
            rows = ((Size(found.used_bytes), found.entries, name) for name, found in sums)
            outputs.table(("used", "entries", "path"), rows)


def _sums(
    client: Client, path: str, depth: int, seen: set[tuple[int, int]]
) -> Iterator[tuple[str, Sum]]:
    """The sums of the directories down to `depth`, the deeper ones first, and of `path`."""
    total = Sum()
    top = client.lstat(path)
    total.add(top, seen)
    if top.is_dir() and depth:
        for entry in client.scandir(path):
            if not entry.is_dir():
                total.add(entry, seen)
                continue
            for name, found in _sums(client, entry.path, depth - 1, seen):
                yield name, found
            total.used_bytes += found.used_bytes
            total.entries += found.entries
    elif top.is_dir():
        for _, directories, others in client.walk(path):
            for entry in (*directories, *others):
                total.add(entry, seen)
    yield path, total
