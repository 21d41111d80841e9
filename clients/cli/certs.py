"""`dp certs init | client | server | show`: certificates from a small authority of one's own."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from . import outputs
from .apps import SYSTEM, Json, app, command, group
from .outputs import Time

certs = group(app, "certs", "Certificates for TLS, from a small authority of your own.", SYSTEM)

Directory = Annotated[Path, typer.Argument(metavar="DIR", show_default=False)]
Hosts = Annotated[
    list[str],
    typer.Option(
        "--host",
        metavar="NAME",
        show_default=False,
        help="A name or address of the server; default: this machine's host name, localhost,"
        " 127.0.0.1 and ::1.",
    ),
]
HEADERS = ("file", "kind", "subject", "names", "ends")


@command(
    certs,
    "init",
    "dp certs init certs --host dp.example.org --client ana",
    "dp certs init certs",
)
def init(
    directory: Directory,
    hosts: Hosts = [],  # noqa: B006 - Typer makes a new one
    clients: Annotated[
        list[str],
        typer.Option("--client", metavar="NAME", show_default=False, help="A user."),
    ] = [],  # noqa: B006
) -> None:
    """Make an authority in DIR, and a server's certificate and those of clients with it.

    Nothing is overwritten. Keep ca.key away from servers: whoever has it can make certificates for
    anybody.
    """
    from .authority import Authority

    authority = Authority.create(directory)
    made = [authority.server(hosts), *(authority.client(name) for name in clients)]
    for pair in made:
        outputs.line(f"{pair.certificate} {pair.key}")


@command(certs, "client", "dp certs client certs ana")
def client(
    directory: Directory,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
) -> None:
    """Make the certificate by which its holder is the user NAME."""
    from .authority import Authority

    pair = Authority(directory).client(name)
    outputs.line(f"{pair.certificate} {pair.key}")


@command(certs, "server", "dp certs server certs east --host east.example.org")
def server(
    directory: Directory,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    hosts: Hosts = [],  # noqa: B006
) -> None:
    """Make the certificate of another server, in DIR/NAME.pem."""
    from .authority import Authority

    pair = Authority(directory).server(hosts, name=name)
    outputs.line(f"{pair.certificate} {pair.key}")


@command(certs, "show", "dp certs show certs", "dp certs show server.pem --json")
def show(
    path: Annotated[Path, typer.Argument(metavar="DIR|FILE", show_default=False)],
    json: Json = False,
) -> None:
    """Show certificates: for whom, from whom, and until when."""
    from . import authority

    shown = authority.show(path)
    if json:
        for item in shown:
            outputs.json_line(
                {
                    "file": item.file,
                    "kind": item.kind,
                    "subject": item.subject,
                    "names": item.names,
                    "issuer": item.issuer,
                    "begins": item.begins.isoformat(),
                    "ends": item.ends.isoformat(),
                    "valid": item.is_valid(datetime.datetime.now(datetime.UTC)),
                    "serial": item.serial,
                    "sha256": item.sha256,
                }
            )
        return
    rows = [
        (s.file, s.kind, s.subject, ", ".join(s.names), Time(int(s.ends.timestamp()) * 10**9))
        for s in shown
    ]
    outputs.table(HEADERS, rows)
