"""Other clusters: `dp cluster add | ls | set | remove`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import SYSTEM, Json, app, command, group
from .connections import connect

if TYPE_CHECKING:
    from dataplatform import ClusterInfo

cluster = group(app, "cluster", "Other clusters, whose paths are /NAME/... here.", SYSTEM)

HEADERS = ("cluster", "address", "state", "user there", "latency", "clock", "version")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Address = Annotated[str, typer.Argument(metavar="ADDRESS", show_default=False)]
TokenOf = Annotated[
    Path | None,
    typer.Option(
        "--with-token",
        metavar="FILE",
        show_default=False,
        help="With a token that the other cluster made.",
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        show_default=False,
        help="The authority that its certificate must be signed by; or the system's.",
    ),
]
Access = Annotated[
    str | None,
    typer.Option(
        "--access",
        metavar="EXPRESSION",
        show_default=False,
        help="Who may use it: everybody, unless the token speaks for nobody else.",
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Let the token cross a network without TLS.")
]
Unchecked = Annotated[
    bool, typer.Option("--unchecked", help="Although its server cannot be reached.")
]


def _text(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}") from None


@command(
    cluster,
    "add",
    "dp cluster add east dps://east.example.org --with-token east.token --ca east-ca.pem",
)
def add(
    name: Name,
    address: Address,
    token: TokenOf = None,
    ca: Ca = None,
    access: Access = None,
    insecure: Insecure = False,
    unchecked: Unchecked = False,
    json: Json = False,
) -> None:
    """Know another cluster: /NAME/path is /path there, for every client of this one.

    The other cluster makes the token: dp token create --user NAME --speak. If it may speak, users
    are there who they are here, by name; otherwise everybody is the token's user.
    """
    with connect() as client:
        added = client.add_cluster(
            name,
            address,
            token=_text(token),
            ca=_text(ca),
            access=access,
            insecure=insecure,
            unchecked=unchecked,
        )
        if json:
            outputs.json_line(added)


@command(cluster, "set", "dp cluster set east --with-token new.token")
def set_(
    name: Name,
    address: Annotated[
        str | None, typer.Option("--address", metavar="ADDRESS", show_default=False)
    ] = None,
    token: TokenOf = None,
    ca: Ca = None,
    access: Access = None,
    insecure: Insecure = False,
    unchecked: Unchecked = False,
    json: Json = False,
) -> None:
    """Change how a cluster is reached; what is not named stays. It must be the same store."""
    given = {"address": address, "token": _text(token), "ca": _text(ca), "access": access}
    if all(value is None for value in given.values()):
        raise typer.BadParameter("nothing to set: give --address, --with-token, --ca or --access")
    with connect() as client:
        changed = client.set_cluster(name, insecure=insecure, unchecked=unchecked, **given)
        if json:
            outputs.json_line(changed)


@command(cluster, "ls", "dp cluster ls", "dp cluster ls east --json")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List known clusters; each is asked how it is: reachable, since when another, its clock."""
    with connect() as client:
        found = client.clusters(name)
        if json:
            for item in found:
                outputs.json_line(item)
        else:
            outputs.table(HEADERS, map(_row, found))


def _row(found: ClusterInfo) -> tuple[Any, ...]:
    if found.error:
        return found.name, found.address, found.error, None, None, None, None
    user = f"{found.user}, and others" if found.speaks else found.user
    latency = timedelta(seconds=found.latency_s)
    return found.name, found.address, "reachable", user, latency, _clock(found), found.version


def _clock(found: ClusterInfo) -> str:
    """A difference that a request's own time could explain is none."""
    if abs(found.clock_s) <= max(found.latency_s, 0.05):
        return "the same"
    return f"{abs(found.clock_s):.3g} s {'ahead' if found.clock_s > 0 else 'behind'}"


@command(cluster, "remove", "dp cluster remove east")
def remove(name: Name) -> None:
    """Know a cluster no more. Nothing changes there."""
    with connect() as client:
        client.remove_cluster(name)
