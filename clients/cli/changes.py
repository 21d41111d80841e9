"""`dp changes`: the ordered feed of what happened."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import DATA, Json, RemotePath, app, command
from .connections import connect
from .parsing import parse_words

if TYPE_CHECKING:
    from dataplatform import Change

Kinds = Annotated[
    str,
    typer.Option(
        "--kinds", metavar="KIND,…", help="Only of these: file, directory, table, stream, …"
    ),
]
Events = Annotated[
    str,
    typer.Option("--events", metavar="EVENT,…", help="Only these: created, renamed, 'row put', …"),
]


@command(
    app,
    "changes",
    "dp changes /projects/cars --since 120",
    "dp changes / --follow --json",
    "dp changes /projects --kinds file --events created,renamed",
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
    kinds: Kinds = "",
    events: Events = "",
    json: Json = False,
) -> None:
    """Print what happened at and below a path.

    In the order of commits. A line holds commit, time, event, kind, path and NAME=VALUE facts. Go
    on later with --since and the last commit seen. A directory that is renamed is followed.
    """
    import dataplatform

    with connect() as client:
        try:
            for change in client.changes(
                path, since, is_following, parse_words(kinds), parse_words(events)
            ):
                _print(change, json=json)
                if is_following:
                    outputs.flush()
        except dataplatform.Stale as error:
            raise _too_late(path, error) from error


def _print(change: Change, *, json: bool) -> None:
    if json:
        outputs.json_line(outputs.change_json(change))
        return
    facts = (f"{name}={outputs.plain(value)}" for name, value in sorted(change.facts.items()))
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


def _too_late(path: str, error: Any) -> Exception:
    """What to do about changes that are not kept any more."""
    import dataplatform

    oldest = error.facts.get("oldest")
    if oldest is None:
        return error  # type: ignore[no-any-return]
    again = f"dp changes {shlex.quote(path)} --since {int(oldest) - 1}"
    return dataplatform.Stale(
        f"changes after that commit are not kept any more: look at what is there now, then go on "
        f"with `{again}`",
        **error.facts,
    )
