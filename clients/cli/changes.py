"""`dp changes`: the ordered feed of what happened, and its publications."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import DATA, Group, Json, RemotePath, app, command, text
from .completion import complete_path
from .connections import connect
from .outputs import Time
from .parsing import parse_names, parse_topic

if TYPE_CHECKING:
    from dataplatform import Change, Publication

DEFAULT = "show"


class Changes(Group):
    """`dp changes PATH` is `dp changes show PATH`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


feed = typer.Typer(cls=Changes, rich_markup_mode=app.rich_markup_mode)
app.add_typer(
    feed,
    name="changes",
    help=text(
        """Print what happened at and below a path, or publish it as a stream.

        `dp changes PATH` is short for `dp changes show PATH`.""",
        "dp changes /projects/cars --since 120",
        "dp changes / --follow --json",
        "dp changes publish /projects --to /log/changes:projects",
    ),
    rich_help_panel=DATA,
)

Kinds = Annotated[
    Any,
    typer.Option(
        "--kinds",
        parser=parse_names,
        metavar="KIND,…",
        help="Only of these: file, directory, table, stream, …",
    ),
]
Events = Annotated[
    Any,
    typer.Option(
        "--events",
        parser=parse_names,
        metavar="EVENT,…",
        help="Only these: created, renamed, 'row put', …",
    ),
]
To = Annotated[
    Any,
    typer.Option(
        "--to",
        parser=parse_topic,
        metavar="PATH:TOPIC",
        autocompletion=complete_path,
        show_default=False,
        help="The stream and its topic.",
    ),
]


@command(
    feed,
    DEFAULT,
    "dp changes /projects/cars --since 120",
    "dp changes / --follow --json",
    "dp changes show /projects --kinds file --events created,renamed",
)
def changes(
    path: RemotePath = "/",
    since: Annotated[
        int, typer.Option(min=0, metavar="N", help="Only what came after commit N.")
    ] = 0,
    is_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, for ever.")
    ] = False,
    kinds: Kinds = None,
    events: Events = None,
    json: Json = False,
) -> None:
    """Print what happened at and below a path.

    In the order of commits. A line holds commit, time, event, kind, path and NAME=VALUE facts. Go
    on later with --since and the last commit seen. A directory that is renamed is followed.
    """
    import dataplatform

    with connect() as client:
        try:
            for change in client.changes(path, since, is_following, kinds, events):
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
        Time(change.time_ns),
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


@command(
    feed,
    "publish",
    "dp changes publish /projects --to /log/changes:projects",
    "dp changes publish /projects --to /log/changes:new --kinds file --events created --since 0",
)
def publish(
    path: RemotePath,
    to: To,
    kinds: Kinds = None,
    events: Events = None,
    since: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="From after commit N; else from now on."),
    ] = None,
    is_restarted: Annotated[
        bool, typer.Option("--restart", help="One that stopped goes on where it can.")
    ] = False,
    json: Json = False,
) -> None:
    """Copy what happens at and below PATH to a topic of a stream, exactly once, from now on.

    A record's value is a line of `dp changes --json`, its key the path. It goes on in the server,
    with your rights as they are then. `dp changes publications` shows how far it is.
    """
    stream, topic = to
    with connect() as client:
        made = client.publish_changes(
            path, stream, topic, kinds=kinds, events=events, since=since, restart=is_restarted
        )
        if json:
            outputs.json_line(made)


@command(feed, "unpublish", "dp changes unpublish /projects --to /log/changes:projects")
def unpublish(path: RemotePath, to: To) -> None:
    """Copy no more of what happens below PATH to a topic. What was written stays."""
    stream, topic = to
    with connect() as client:
        client.unpublish_changes(stream, topic, path=path)


HEADERS = ("path", "to", "state", "behind", "records", "by", "reason")


@command(
    feed, "publications", "dp changes publications", "dp changes publications /projects --json"
)
def publications(
    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", autocompletion=complete_path, show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """List what is published: path, topic, state, commits behind, records written, by whom, and why
    it waits or stopped. With PATH, what is at or below it."""
    with connect() as client:
        found = client.publications(path)
        if json:
            for each in found:
                outputs.json_line(each)
        else:
            outputs.table(HEADERS, map(_cells, found))


def _cells(each: Publication) -> tuple[Any, ...]:
    to = f"{each.stream}:{each.topic}"
    return each.path, to, each.state, each.behind, each.records, each.by, each.reason or None
