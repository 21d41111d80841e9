"""Changing names: mkdir, cp, mv, rm, ln, touch. When a command ends, the change is durable."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from .apps import FILES, RemotePath, RemotePaths, app, command
from .completion import complete_path
from .connections import connect_to_change
from .progress import Progress

if TYPE_CHECKING:
    from dataplatform import Client

Source = Annotated[
    str, typer.Argument(metavar="SRC", autocompletion=complete_path, show_default=False)
]
Destination = Annotated[
    str, typer.Argument(metavar="DST", autocompletion=complete_path, show_default=False)
]


@command(app, "mkdir", "dp mkdir -p /projects/cars/incoming", panel=FILES)
def mkdir(
    paths: RemotePaths,
    has_parents: Annotated[
        bool,
        typer.Option("-p", "--parents", help="Those above it too; it may be there already."),
    ] = False,
) -> None:
    """Make a directory."""
    with connect_to_change() as client:
        for path in paths:
            client.mkdir(path, parents=has_parents, exist_ok=has_parents)


@command(
    app, "cp", "dp cp /projects/a.csv /archive/", "dp cp -r /projects/cars /backup", panel=FILES
)
def cp(
    source: Source,
    destination: Destination,
    is_recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="A directory with all files below.")
    ] = False,
) -> None:
    """Copy within the platform.

    Inside a volume the server copies without moving the bytes. A directory at DST takes the copy
    under its old name; a file at DST is replaced. Tables and streams are left out.
    """
    import dataplatform

    with connect_to_change() as client, Progress("copy") as progress:
        if not client.stat(source).is_dir():
            client.copy(source, destination, progress=progress.advance)
        elif not is_recursive:
            raise dataplatform.Invalid("is a directory: -r copies it", path=source)
        else:
            target = inside(client, destination, source)
            if left_out := _copy_tree(client, source, target, progress.advance):
                raise dataplatform.Invalid(
                    "tables and streams cannot be copied, all else was",
                    left_out=", ".join(left_out),
                )


def _copy_tree(
    client: Client, source: str, target: str, advance: Callable[[int], None]
) -> list[str]:
    """The paths of what is left out."""
    import dataplatform

    source, target = source.rstrip("/"), target.rstrip("/")
    if f"{target}/".startswith(f"{source}/"):
        raise dataplatform.Invalid(
            "a directory cannot be copied into itself", source=source or "/", target=target
        )
    left_out = []
    for directory, _, others in client.walk(source):
        place = target + directory[len(source) :]
        client.mkdir(place, client.stat(directory).mode, exist_ok=True)
        client.acl.copy(directory, place)
        for entry in others:
            name = f"{place}/{entry.name}"
            if entry.is_file():
                client.copy(entry.path, name, progress=advance)
            elif entry.is_symlink():
                client.remove(name, missing_ok=True)
                client.symlink(entry.symlink, name)
            else:
                left_out.append(entry.path)
    return left_out


@command(app, "mv", "dp mv /incoming/a.csv /done/a.csv", "dp mv /a.csv /done", panel=FILES)
def mv(
    source: Source,
    destination: Destination,
    is_kept: Annotated[
        bool, typer.Option("-n", "--no-replace", help="Fail if there is something at DST.")
    ] = False,
) -> None:
    """Rename or move anything within a volume, in one step.

    A directory at DST takes it under its old name; a file at DST is replaced.
    """
    import dataplatform

    with connect_to_change() as client:
        target = inside(client, destination, source)
        try:
            client.rename(source, target, no_replace=is_kept)
        except dataplatform.Invalid as error:
            if error.os_errno != errno.EXDEV:
                raise
            old, new = shlex.quote(source), shlex.quote(destination)
            raise dataplatform.Invalid(
                f"the two are in different volumes: copy with `dp cp -r {old} {new}`,"
                f" then remove with `dp rm -r {old}`",
                **error.facts,
            ) from error


def inside(client: Client, path: str, name: str) -> str:
    """`path`, or what the last part of `name` is called in the directory `path`."""
    import dataplatform

    last = name.rstrip("/").rpartition("/")[2]
    if not last or last in (".", ".."):
        return path
    try:
        is_directory = client.stat(path).is_dir()
    except dataplatform.NotFound:
        return path
    return f"{path.rstrip('/')}/{last}" if is_directory else path


@command(app, "rm", "dp rm /projects/old.csv", "dp rm -r /projects/old", panel=FILES)
def rm(
    paths: RemotePaths,
    is_recursive: Annotated[
        bool, typer.Option("-r", "--recursive", help="A directory with everything below.")
    ] = False,
    is_forced: Annotated[
        bool, typer.Option("-f", "--force", help="Fine if there is nothing.")
    ] = False,
) -> None:
    """Remove a name, or with -r a directory.

    Without -r: a file, a link, an empty directory, or a table or stream with all it holds.
    """
    import dataplatform

    with connect_to_change() as client:
        for path in paths:
            if is_recursive:
                with Progress(f"remove {path}", unit="names"):
                    client.rmtree(path, missing_ok=is_forced)
                continue
            try:
                client.remove(path, missing_ok=is_forced)
            except dataplatform.PlatformError as error:
                if error.os_errno != errno.ENOTEMPTY:
                    raise
                raise type(error)(
                    f"{error.message}: -r removes it with everything below", **error.facts
                ) from error


@command(app, "ln", "dp ln -s ../shared/model.bin /projects/model.bin", "dp ln /a /b", panel=FILES)
def ln(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", autocompletion=complete_path, show_default=False)
    ],
    path: RemotePath,
    is_symbolic: Annotated[
        bool, typer.Option("-s", "--symbolic", help="A symbolic link; TARGET need not exist.")
    ] = False,
) -> None:
    """Give TARGET a second name.

    That is a hard link within its volume, or with -s a symbolic link, which may point anywhere.
    """
    with connect_to_change() as client:
        name = inside(client, path, target)
        if is_symbolic:
            client.symlink(target, name)
        else:
            client.link(target, name)


@command(app, "touch", "dp touch /projects/ready", panel=FILES)
def touch(paths: RemotePaths) -> None:
    """Set the time of change to now, or create an empty file."""
    import dataplatform

    with connect_to_change() as client:
        for path in paths:
            try:
                client.utime(path)
            except dataplatform.NotFound:
                client.open(path, "ab").close()
