"""Bytes between here and there: put, get, cat.

A file is seen under its name only when it is whole: it is written beside and then renamed, on both
sides. `put` returns when everything is on the server's disk.
"""

from __future__ import annotations

import io
import os
import stat as modes
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from . import outputs
from .apps import FILES, Json, RemotePath, RemotePaths, app, command
from .connections import connect, connect_to_change
from .files import inside
from .progress import Progress

if TYPE_CHECKING:
    from dataplatform import Client, Entry, Stat

STANDARD = "-"
CHUNK_BYTES = 4 << 20
SMALL_BYTES = 8 << 20
"""As limits.IO_BYTES_MAX: up to here a whole file is one request."""

Readable = IO[bytes] | io.RawIOBase
Advance = Callable[[int], None]
LocalPath = Annotated[str, typer.Argument(metavar="LOCAL", show_default=False)]
Recursive = Annotated[
    bool, typer.Option("-r", "--recursive", help="A directory with everything below.")
]


# -------------------------------------------------------------------------------------- put


@command(
    app,
    "put",
    "dp put front.jpg /projects/cars/",
    "dp put -r photos /projects/cars/photos",
    "pg_dump cars | dp put - /backup/cars.sql",
    panel=FILES,
)
def put(local: LocalPath, path: RemotePath, is_recursive: Recursive = False) -> None:
    """Store a local file (`-`: standard input) at PATH.

    A directory at PATH takes it under its own name; a file at PATH is replaced, in one step.
    Permission bits are kept. When the command ends, everything is on the server's disk.
    """
    import dataplatform

    with connect_to_change() as client, Progress("put") as progress:
        if local == STANDARD:
            _upload_parts(client, _parts(sys.stdin.buffer), path, 0o644, progress.advance)
        elif not os.path.isdir(local):
            size = os.stat(local).st_size
            progress.expect(size)
            _upload(client, local, inside(client, path, local), progress.advance)
        elif is_recursive:
            progress.expect(_local_bytes(local))
            _upload_tree(client, local, inside(client, path, local), progress.advance)
        else:
            raise dataplatform.Invalid("is a directory: -r stores it", local=local)


def _parts(file: Readable) -> Iterator[bytes]:
    while part := file.read(CHUNK_BYTES):
        yield part


def _local_bytes(directory: str) -> int:
    return sum(
        os.lstat(os.path.join(parent, name)).st_size
        for parent, _, names in os.walk(directory)
        for name in names
    )


def _upload(client: Client, local: str, path: str, advance: Advance) -> None:
    import dataplatform

    with open(local, "rb") as file:
        status = os.fstat(file.fileno())
        mode = modes.S_IMODE(status.st_mode)
        if path.endswith("/"):
            raise dataplatform.NotFound("no such directory: make it with `dp mkdir -p`", path=path)
        if status.st_size > SMALL_BYTES or not modes.S_ISREG(status.st_mode):
            _upload_parts(client, _parts(file), path, mode, advance)
            return
        data = file.read()
        client.write_file(path, data, mode=mode)
        advance(len(data))


def _upload_parts(
    client: Client, parts: Iterable[bytes], path: str, mode: int, advance: Advance
) -> None:
    directory, _, name = path.rpartition("/")
    beside = f"{directory}/.{name[:60]}.{os.urandom(6).hex()}.tmp"
    try:
        with client.open(beside, "xb", permissions=mode) as file:
            for part in parts:
                file.write(part)
                advance(len(part))
        client.rename(beside, path)
    except BaseException:
        client.remove(beside, missing_ok=True)
        raise


def _upload_tree(client: Client, local: str, path: str, advance: Advance) -> None:
    for parent, directories, names in os.walk(local):
        below = os.path.relpath(parent, local)
        place = path if below == "." else f"{path.rstrip('/')}/{below}"
        mode = modes.S_IMODE(os.stat(parent).st_mode)
        client.mkdir(place, mode, exist_ok=True)
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        for name in sorted(names + links):
            source, target = os.path.join(parent, name), f"{place.rstrip('/')}/{name}"
            if os.path.islink(source):
                client.remove(target, missing_ok=True)
                client.symlink(os.readlink(source), target)
            elif os.path.isfile(source):
                _upload(client, source, target, advance)
            else:
                outputs.note(f"left out, neither file nor directory. local=`{source}`")


# -------------------------------------------------------------------------------------- get


@command(
    app,
    "get",
    "dp get /projects/cars/front.jpg .",
    "dp get -r /projects/cars backup",
    "dp get /backup/cars.sql - | psql",
    panel=FILES,
)
def get(path: RemotePath, local: LocalPath, is_recursive: Recursive = False) -> None:
    """Fetch a file to LOCAL (`-`: standard output).

    A directory at LOCAL takes it under its own name; a file at LOCAL is replaced, in one step. A
    table or stream is no file: see `dp cat`.
    """
    import dataplatform

    with connect() as client:
        if local == STANDARD:
            _print_file(client, path)
            return
        with Progress("get") as progress:
            found = client.stat(path)
            target = _inside_local(local, path)
            if not found.is_dir():
                progress.expect(found.size)
                _download(client, path, found, target, progress.advance)
            elif not is_recursive:
                raise dataplatform.Invalid("is a directory: -r fetches it", path=path)
            elif left_out := _download_tree(client, path, target, progress.advance):
                raise dataplatform.Invalid(
                    "tables and streams are no files, all else was fetched: see `dp cat`",
                    left_out=", ".join(left_out),
                )


def _inside_local(local: str, path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    return os.path.join(local, name) if name and os.path.isdir(local) else local


def _download(client: Client, path: str, stat: Stat, local: str, advance: Advance) -> None:
    import dataplatform

    if not stat.is_file():
        raise dataplatform.Invalid(f"is a {stat.kind}, no file: see `dp cat`", path=path)
    with client.open(path, "rb") as file, _replacing(local, stat.mode) as target:
        for part in _parts(file):
            target.write(part)
            advance(len(part))


@contextmanager
def _replacing(local: str, mode: int) -> Iterator[IO[bytes]]:
    """A file that takes the place of `local` when the block ends well."""
    if os.path.exists(local) and not os.path.isfile(local):
        with open(local, "wb") as device:  # such as /dev/null
            yield device
        return
    final = Path(os.path.realpath(local))
    try:
        descriptor, beside = tempfile.mkstemp(prefix=f".{final.name[:60]}.", dir=final.parent)
    except OSError as error:
        error.filename = local  # the name that the user knows
        raise
    try:
        with open(descriptor, "wb") as file:
            yield file
            os.fchmod(file.fileno(), mode & 0o777 & ~_umask())
        os.replace(beside, final)
    except BaseException:
        os.unlink(beside)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _download_tree(client: Client, path: str, local: str, advance: Advance) -> list[str]:
    """The paths of what is left out."""
    left_out = []
    for directory, _, others in client.walk(path):
        place = local + directory[len(path.rstrip("/")) :]
        os.makedirs(place, exist_ok=True)
        for entry in others:
            target = os.path.join(place, entry.name)
            if entry.is_file():
                _download(client, entry.path, entry, target, advance)
            elif entry.is_symlink():
                _link(entry, target)
            else:
                left_out.append(entry.path)
    return left_out


def _link(entry: Entry, local: str) -> None:
    if os.path.lexists(local):
        os.unlink(local)
    os.symlink(entry.symlink, local)


# -------------------------------------------------------------------------------------- cat


@command(
    app,
    "cat",
    "dp cat /projects/readme.txt",
    "dp cat /projects/cars/vehicles | jq .columns.km",
    "dp cat /projects/cars/events:telemetry",
    panel=FILES,
)
def cat(paths: RemotePaths, json: Json = False) -> None:
    """Print a file, a table's rows or a stream's records.

    Rows are JSON lines; of records it prints the values, one per line. PATH:TOPIC is one topic of a
    stream. With --json, records are printed whole, and a file as one
    value with its content.
    """
    with connect() as client:
        for path in paths:
            _cat(client, path, json=json)


def _cat(client: Client, path: str, *, json: bool) -> None:
    import dataplatform

    from . import streams, tables
    from .parsing import split_topic

    topic = ""
    try:
        kind = client.stat(path).kind
    except dataplatform.NotFound:
        place, topic = split_topic(path)
        if not topic:
            raise
        path, kind = place, "stream"
    if kind == "directory":
        raise dataplatform.Invalid("is a directory: `dp ls` lists it", path=path)
    if kind == "table":
        tables.print_rows(client.table(path).scan_pages(), json=True)
    elif kind == "stream":
        stream = client.stream(path)
        for name in [topic] if topic else [found.name for found in stream.topics()]:
            streams.print_records(stream.consumer(name, follow=False), json=json)
    elif json:
        data = client.read_file(path)
        outputs.json_line({"path": path, "size": len(data), "content": data})
    else:
        _print_file(client, path)


def _print_file(client: Client, path: str) -> None:
    with client.open(path, "rb") as file:
        for part in _parts(file):
            outputs.write(part)
