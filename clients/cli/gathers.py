"""Gathering many into one: `dp mirror gather | gathers | ungather`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import Json, command
from .connections import connect
from .mirrors import mirror
from .outputs import Time
from .parsing import parse_topic

if TYPE_CHECKING:
    from dataplatform import GatherInfo, GatherSource

HEADERS = ("into", "from", "state", "records", "behind", "last", "")

Topic = Annotated[str, typer.Argument(metavar="PATH:TOPIC", show_default=False)]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="/CLUSTER/PATH:TOPIC",
        show_default=False,
        help="A topic of another cluster. May be repeated.",
    ),
]


@command(
    mirror,
    "gather",
    "dp mirror gather /all/events:clicks --from /east/p/s:clicks --from /west/p/s:clicks",
    "dp mirror gather /all/events:clicks --pause",
)
def gather(
    into: Topic,
    sources: Sources = None,
    paused: Annotated[
        bool | None,
        typer.Option("--pause/--resume", show_default=False, help="Go no further; or go on."),
    ] = None,
    json: Json = False,
) -> None:
    """Gather topics of other clusters into one here: every record once, in its source's order.

    The header dp-origin of a record says where it is from: /cluster/path:topic/partition/offset.
    """
    path, topic = parse_topic(into)
    if bool(sources) == (paused is not None):
        raise typer.BadParameter("say --from which topics; or --pause, or --resume")
    with connect() as client:
        if paused is not None:
            client.pause_gather(path, topic, paused=paused)
            return
        begun = client.gather(path, topic, sources or ())
        if json:
            outputs.json_line(begun)


@command(mirror, "gathers", "dp mirror gathers", "dp mirror gathers --json")
def gathers(json: Json = False) -> None:
    """List what is gathered: from where, how far, how many records behind, and why not."""
    with connect() as client:
        found = client.gathers()
        if json:
            for item in found:
                outputs.json_line(item)
        else:
            outputs.table(HEADERS, (_row(item, one) for item in found for one in item.sources))


def _row(item: GatherInfo, one: GatherSource) -> tuple[Any, ...]:
    last = Time(one.time_ns) if one.time_ns else None
    reasons = [one.reason] if one.reason else []
    if one.lost:
        reasons.append(f"{one.lost} records were trimmed there before they came")
    state = "paused" if item.paused else one.state
    why = "; ".join(reasons) or None
    return item.path, one.source, state, one.records, one.behind, last, why


@command(
    mirror,
    "ungather",
    "dp mirror ungather /all/events:clicks --from /west/p/s:clicks",
    "dp mirror ungather /all/events:clicks",
)
def ungather(into: Topic, sources: Sources = None) -> None:
    """Gather from these topics, or from all, no more. What has come stays."""
    path, topic = parse_topic(into)
    with connect() as client:
        client.end_gather(path, topic, sources or ())
