"""Access expressions: `dp acl get | set | check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import outputs
from .apps import SYSTEM, Json, RemotePath, app, command, group
from .connections import connect, connect_to_change
from .progress import Progress

if TYPE_CHECKING:
    from dataplatform import Verdict

acl = group(app, "acl", "Who may do what: access expressions by path, and why.", SYSTEM)

NOBODY = '""'
HEADERS = ("verb", "expression", "from")


@command(acl, "get", "dp acl get /projects/cars")
def get(path: RemotePath, json: Json = False) -> None:
    """Show which expressions hold for PATH, and where each is set.

    For a verb that is not listed the mode decides.
    """
    with connect() as client:
        found = client.acl.get(path)
    rules = [(verb, text, found.path, False) for verb, text in found.own.items()]
    rules += [(rule.verb, rule.expression, rule.path, True) for rule in found.inherited]
    if json:
        for verb, text, place, is_inherited in rules:
            outputs.json_line(
                {"verb": verb, "expression": text, "path": place, "inherited": is_inherited}
            )
    elif rules:
        outputs.table(HEADERS, [(verb, text or NOBODY, place) for verb, text, place, _ in rules])
    else:
        outputs.note("nothing is set here or above: modes decide")


@command(
    acl,
    "set",
    "dp acl set /projects read='u:ana | g:eng' write='u:ana'",
    "dp acl set /projects/cars/vehicles read:owner='g:legal'",
    "dp acl set /projects/events produce='g:cars' consume=p topics=''",
    "dp acl set /projects --recursive --unset read",
)
def set_(
    path: RemotePath,
    rules: Annotated[
        list[str] | None, typer.Argument(metavar="VERB=EXPRESSION…", show_default=False)
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="VERB", help="Take its expression away; may be repeated."),
    ] = None,
    is_recursive: Annotated[
        bool,
        typer.Option(
            "-R",
            "--recursive",
            help="Take the same verbs away from all below, so that what is set here holds there.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Set who may do what with PATH and all below it that sets nothing else.

    An expression is made of u:USER, g:GROUP and p (everybody) with ! & | and parentheses; an
    empty one means nobody. Verbs are read, write, execute, list, create, delete and admin; of
    streams produce, consume, topics and admin; of tables read, write and admin, and read:COLUMN
    or write:COLUMN.
    """
    wanted = dict(map(_rule, rules or []))
    if not wanted and not unset:
        raise typer.BadParameter("nothing to set: give VERB=EXPRESSION or --unset VERB")
    with connect_to_change() as client, Progress("below", unit="things") as progress:
        changed = client.acl.set(
            path, wanted, unset=unset or (), recursive=is_recursive, progress=progress.advance
        )
    if json:
        outputs.json_line({"path": path, "changed": changed})


def _rule(text: str) -> tuple[str, str]:
    verb, mark, expression = text.partition("=")
    if not mark or not verb:
        raise typer.BadParameter(f"not VERB=EXPRESSION: {text}")
    return verb, expression


@command(
    acl, "check", "dp acl check /projects/cars ana", "dp acl check /projects/cars ana read write"
)
def check(
    path: RemotePath,
    user: Annotated[str, typer.Argument(metavar="USER", show_default=False)] = "",
    verbs: Annotated[list[str] | None, typer.Argument(metavar="VERB", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Show what USER (you, without one) may do with PATH, and why.

    Asking about others needs `admin` of PATH.
    """
    with connect() as client:
        verdicts = client.acl.check(path, user or None, *(verbs or ()))
    if json:
        for verdict in verdicts:
            outputs.json_line(verdict)
        return
    if verdicts and not verdicts[0].is_known:
        outputs.note(f"there is no user {user}: this is what somebody of this name could do")
    outputs.table(
        ("verb", "verdict", "why"),
        [(v.verb, "allowed" if v.allowed else "denied", _why(v)) for v in verdicts],
    )


def _why(verdict: Verdict) -> str:
    place = verdict.rule_path
    match verdict.by:
        case "expression":
            return f"{verdict.verb}={verdict.expression or NOBODY} set on {place}"
        case "administrator":
            return "an administrator may"
        case "token":
            return "the token is not good for this"
        case "reach" if verdict.expression is not None:
            return f"{place} does not let pass: execute={verdict.expression or NOBODY}"
        case "reach":
            return f"{place} does not let pass, by its mode"
        case "open":
            return "it was opened so"
    return "the mode" if verdict.verb != "admin" else "the owner"
