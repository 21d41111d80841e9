"""Snapshots: `dp snapshot create | ls | info | remove | clone | restore | promote | schedule`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import SYSTEM, Json, RemotePath, app, command, group
from .connections import connect
from .outputs import Size, Time
from .parsing import parse_duration

if TYPE_CHECKING:
    from dataplatform import SnapshotInfo, SnapshotSchedule

snapshot = group(app, "snapshot", "What a volume was: read below PATH/.snapshot/NAME.", SYSTEM)

HEADERS = ("snapshot", "taken", "commit", "held", "entries", "frees", "schedule", "clones")
SCHEDULE_HEADERS = ("schedule", "every", "keep", "since")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


@command(snapshot, "create", "dp snapshot create /projects monday")
def create(path: RemotePath, name: Name, json: Json = False) -> None:
    """Take a snapshot of the volume that holds PATH.

    Files, rows, streams and consumer offsets, all at one commit. Read it below
    PATH/.snapshot/NAME, in every directory of the volume, or as PATH@NAME.
    """
    with connect() as client:
        taken = client.create_snapshot(path, name)
        if json:
            outputs.json_line(taken)


@command(snapshot, "ls", "dp snapshot ls /projects")
def ls(path: RemotePath, json: Json = False) -> None:
    """List the snapshots of the volume that holds PATH, the oldest first.

    `frees` is what removing that one alone would give back.
    """
    with connect() as client:
        found = client.snapshots(path, sizes=True)
        if json:
            for item in found:
                outputs.json_line(item)
        else:
            outputs.table(HEADERS, map(_cells, found))


def _cells(item: SnapshotInfo) -> tuple[Any, ...]:
    return (
        item.name,
        Time(item.time_ns),
        item.commit,
        Size(item.used_bytes),
        item.entries,
        None if item.frees_bytes is None else Size(item.frees_bytes),
        item.schedule,
        " ".join(item.clones) or None,
    )


@command(
    snapshot,
    "info",
    "dp snapshot info /projects monday",
    "dp snapshot info /projects/.snapshot/monday",
)
def info(
    path: RemotePath,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Show a snapshot: which commit it is, what the volume held, what removing it gives back."""
    with connect() as client:
        found = client.snapshot_info(path, name)
        if json:
            outputs.json_line(found)
            return
        known = dict(zip(HEADERS, _cells(found), strict=True))
        known |= {"path": found.path, "by": found.by, "volume": str(found.volume)}
        outputs.fields(known)


@command(snapshot, "remove", "dp snapshot remove /projects monday")
def remove(path: RemotePath, name: Name) -> None:
    """Remove a snapshot for good; what no other snapshot needs is given back."""
    with connect() as client:
        client.remove_snapshot(path, name)


@command(snapshot, "clone", "dp snapshot clone /projects monday /experiments/monday")
def clone(
    path: RemotePath,
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEWPATH", show_default=False)],
    json: Json = False,
) -> None:
    """Make a volume that can be written of a snapshot, whatever its size in about a second.

    It shares with its source what neither has changed since, and goes its own way.
    """
    with connect() as client:
        made = client.clone_snapshot(path, name, new)
        if json:
            outputs.json_line(made)


@command(
    snapshot,
    "restore",
    "dp snapshot restore /projects monday",
    "dp snapshot restore /projects/cars/report.csv monday",
)
def restore(path: RemotePath, name: Name) -> None:
    """Put what a snapshot has at PATH in place of what is there now.

    With the root of a volume, all of it: nobody should be using it meanwhile. With any other
    path just that, in one commit: a file, a directory with all below it, a table, a stream.
    Everything else stays as it is, the other snapshots too.
    """
    with connect() as client:
        client.restore_snapshot(path, name)


@command(snapshot, "promote", "dp snapshot promote /experiments/monday/cars")
def promote(path: RemotePath) -> None:
    """Put what a clone has at PATH into its source, at the same place there, in one commit.

    If something there has changed in the source since the snapshot, nothing is promoted, and
    you are told what.
    """
    with connect() as client:
        print(client.promote_clone(path))


@command(
    snapshot,
    "schedule",
    "dp snapshot schedule /projects --every 1h --keep 24",
    "dp snapshot schedule /projects",
    "dp snapshot schedule /projects --remove hourly",
)
def schedule(
    path: RemotePath,
    every: Annotated[
        Any,
        typer.Option(
            "--every",
            parser=parse_duration,
            metavar="1h",
            show_default=False,
            help="A snapshot in every period of this length.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="24", show_default=False, help="How many of them are kept."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            show_default=False,
            help="What their names begin with: hourly, daily, every-15m, … otherwise.",
        ),
    ] = None,
    removed: Annotated[
        str | None,
        typer.Option(
            "--remove",
            metavar="NAME",
            show_default=False,
            help="Take no more of these; those that there are stay.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Take snapshots by the clock; without options list the schedules of the volume."""
    if (every is None) != (keep is None):
        raise typer.BadParameter("a schedule has both --every and --keep")
    if removed is not None and (every is not None or name is not None):
        raise typer.BadParameter("--remove stands alone")
    if name is not None and every is None:
        raise typer.BadParameter("a schedule has --every and --keep")
    with connect() as client:
        if removed is not None:
            client.remove_snapshot_schedule(path, removed)
        elif every is not None and keep is not None:
            made = client.set_snapshot_schedule(path, every=every, keep=keep, name=name)
            if json:
                outputs.json_line(made)
        else:
            _list(client.snapshot_schedules(path), json=json)


def _list(found: list[SnapshotSchedule], *, json: bool) -> None:
    if json:
        for item in found:
            outputs.json_line(item)
    else:
        rows = ((s.name, s.every, s.keep, Time(s.since_ns)) for s in found)
        outputs.table(SCHEDULE_HEADERS, rows)
