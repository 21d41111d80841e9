"""`dp changes`: the ordered feed of what happened."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import outputs
from .apps import DATA, Json, RemotePath, app, command
from .connections import connect


@command(
    app,
    "changes",
    "dp changes /projects/cars --since 120",
    "dp changes / --follow --json",
    panel=DATA,
)
def changes(
    path: RemotePath = "/",
    since: Annotated[
        int, typer.Option(min=0, metavar="N", help="Only what came after commit N.")
    ] = 0,
    is_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, for ever.")
    ] = False,
    json: Json = False,
) -> None:
    """Print what happened at and below a path.

    In the order of commits. A line holds commit, time, event, kind, path and NAME=VALUE facts. Go
    on later with --since and the last commit seen.
    """
    with connect() as client:
        for change in client.changes(path, since, is_following):
            if json:
                outputs.json_line(outputs.change_json(change))
            else:
                facts = (f"{name}={outputs.plain(v)}" for name, v in sorted(change.facts.items()))
                cells: tuple[Any, ...] = (
                    change.commit,
                    outputs.Time(change.time_ns),
                    change.event,
                    change.kind,
                    change.path,
                )
                if outputs.is_terminal():
                    outputs.line("  ".join((*map(outputs.human, cells), *facts)))
                else:
                    outputs.line("\t".join((*map(outputs.plain, cells), *facts)))
            if is_following:
                outputs.flush()
