"""`dp audit`: who did what, from the stream that says so."""

from __future__ import annotations

import json as json_
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from . import outputs
from .apps import SYSTEM, Json, RemotePath, app, command
from .connections import connect
from .parsing import parse_duration

STREAM = "/.audit"
POLL_S = 1.0


def parse_since(text: str) -> datetime:
    """A time such as 2026-01-31T12:00, or how long ago: 2h."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - parse_duration(text)
    except typer.BadParameter:
        raise typer.BadParameter(
            f"{text!r} is neither a time nor how long ago: write 2026-01-31T12:00 or 2h"
        ) from None


@command(
    app,
    "audit",
    "dp audit /projects/cars --since 1h",
    "dp audit / --follow --denied",
    "dp audit / --user ana --json | jq .path",
    panel=SYSTEM,
)
def audit(
    path: RemotePath = "/",
    is_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, for ever.")
    ] = False,
    since: Annotated[
        Any,
        typer.Option(
            parser=parse_since, metavar="TIME|DURATION", help="Not what was before, or earlier."
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this one did.")
    ] = None,
    is_denied: Annotated[bool, typer.Option("--denied", help="Only what was denied.")] = False,
    json: Json = False,
) -> None:
    """Print who did what at and below a path, and what was denied.

    Of the volume that holds PATH, if it is audited: see `dp volume set --audit`. A line holds
    time, verdict, user, origin, operation, kind, path and NAME=VALUE facts. The records are those
    of the stream /.audit, which only administrators read, and whom they name.
    """
    import dataplatform

    with connect() as client:
        found = client.volume_info(path)
        try:
            consumer = client.stream(STREAM).consumer(
                found.audit_topic or "root", None, since or "earliest", follow=is_following
            )
            with consumer:
                while True:
                    records = consumer.poll(POLL_S, None) if is_following else consumer
                    for record in records:
                        said = json_.loads(record.value or b"{}")
                        if _concerns(said, path.rstrip("/"), user, is_denied=is_denied):
                            _print(said, json=json)
                    if not is_following:
                        break
                    outputs.flush()
        except dataplatform.NotFound as error:
            if found.audit != "off":
                raise
            advice = f"`dp volume set {found.path or '/'} --audit changes`"
            raise dataplatform.NotFound(
                f"this volume is not audited: {advice}", path=path
            ) from error


def _concerns(said: dict[str, Any], path: str, user: str | None, *, is_denied: bool) -> bool:
    if user is not None and said.get("user") != user:
        return False
    if is_denied and said.get("verdict") != "denied":
        return False
    facts = said.get("facts", {})
    places = (said.get("path"), facts.get("from"))
    return not path or any(
        isinstance(place, str) and (place == path or place.startswith(path + "/"))
        for place in places
    )


_CELLS = ("time", "verdict", "user", "origin", "op", "kind", "path")
_REST = ("verb", "rule", "right", "token", "commit", "count")


def _print(said: dict[str, Any], *, json: bool) -> None:
    if json:
        outputs.json_line(said)
        return
    facts = {name: said[name] for name in _REST if name in said} | said.get("facts", {})
    cells = [said.get(name) for name in _CELLS]
    named = (f"{name}={outputs.plain(value)}" for name, value in facts.items())
    if outputs.is_terminal():
        outputs.line("  ".join((*map(outputs.human, cells), *named)))
    else:
        outputs.line("\t".join((*map(outputs.plain, cells), *named)))
