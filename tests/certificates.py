"""Certificates for tests: authorities that know each other, and what may be wrong with one."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from dataplatform.transport.tls import ServerTls, Trust
from dataplatform_clients.cli.authority import Authority, Files

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def authority(directory: Path, *clients: str) -> Path:
    """A directory with an authority, a server's certificate and those of clients."""
    made = Authority.create(directory)
    made.server()
    for name in clients:
        made.client(name)
    return directory


def expired_server(directory: Path) -> Files:
    return Authority(directory).server(name="old", now=LONG_AGO)


def server_of(directory: Path, name: str, *hosts: str) -> Files:
    """A certificate of a server that is called so."""
    return Authority(directory).server(hosts, name=name)


def expired_client(directory: Path, name: str) -> Files:
    return Authority(directory).client(name, now=LONG_AGO)


def trust(directory: Path, client: str = "", *, of: Path | None = None) -> Trust:
    """Trusts the authority of the directory; shows the certificate of a client `of` another."""
    shown = of or directory
    return Trust(
        str(directory / "ca.pem"),
        str(shown / f"{client}.pem") if client else "",
        str(shown / f"{client}.key") if client else "",
    )


def server_tls(directory: Path, name: str = "server", *, required: bool = False) -> ServerTls:
    return ServerTls(
        str(directory / f"{name}.pem"),
        str(directory / f"{name}.key"),
        str(directory / "ca.pem"),
        required,
    )


def older(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same, of somebody who speaks TLS 1.2 at most."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context
