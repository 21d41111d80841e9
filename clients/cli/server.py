"""`dp server start`: becomes the server, so that signals and the exit code are the server's."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from . import outputs
from .apps import SYSTEM, app, command, group

server = group(app, "server", "The server of this machine.", SYSTEM)

ANY_OPTION = {"allow_extra_args": True, "ignore_unknown_options": True}
"""The server has the last word on its options: what is not known here is passed on."""

Text = str | None


@command(
    server,
    "start",
    "dp server start --data /var/lib/dataplatform",
    "dp server start --store s3://bucket/prefix --cluster east --http none",
    "dp server start --listen 0.0.0.0:7222 --tls-cert server.pem --tls-key server.key",
    context_settings=ANY_OPTION,
)
def start(
    context: typer.Context,
    data: Annotated[Text, typer.Option(metavar="DIR", help="Where it stores.")] = None,
    store: Annotated[
        Text, typer.Option(metavar="URL", help="Object store instead: s3://bucket/prefix.")
    ] = None,
    cluster: Annotated[Text, typer.Option(metavar="NAME", help="Name of the cluster.")] = None,
    listen: Annotated[
        Text, typer.Option(metavar="HOST:PORT", help="Frames; 127.0.0.1:7222, `none`: off.")
    ] = None,
    grpc: Annotated[
        Text, typer.Option(metavar="HOST:PORT", help="gRPC; 127.0.0.1:7223, `none`: off.")
    ] = None,
    http: Annotated[
        Text,
        typer.Option(metavar="HOST:PORT", help="Metrics and health; 127.0.0.1:7224, `none`: off."),
    ] = None,
    socket: Annotated[Text, typer.Option(metavar="PATH", help="Unix socket.")] = None,
    config: Annotated[
        Text, typer.Option(metavar="FILE.toml", help="These options, from a file.")
    ] = None,
    is_insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without TLS.")
    ] = False,
    tls_cert: Annotated[
        Text, typer.Option(metavar="FILE", help="Certificate, PEM: speak TLS 1.3 only.")
    ] = None,
    tls_key: Annotated[Text, typer.Option(metavar="FILE", help="Its key, mode 0600.")] = None,
    tls_ca: Annotated[
        Text, typer.Option(metavar="FILE", help="Whose certificates clients may show.")
    ] = None,
    requires_certificate: Annotated[
        bool,
        typer.Option("--require-client-certificate", help="Serve only clients that show one."),
    ] = False,
    master_key_file: Annotated[
        Text,
        typer.Option(metavar="FILE", help="Wraps the keys of encrypted volumes; or DP_MASTER_KEY."),
    ] = None,
    master_key_command: Annotated[
        Text, typer.Option(metavar="COMMAND", help="The same by a KMS; see docs/security.md.")
    ] = None,
    is_root_encrypted: Annotated[
        bool, typer.Option("--encrypt-root", help="At the first start: encrypt `/`, too.")
    ] = False,
    log_level: Annotated[
        Text, typer.Option(metavar="debug|info|warning|error", help="What is logged; info.")
    ] = None,
) -> None:
    """Start a server, in the foreground, until SIGTERM or Ctrl-C.

    An option that is left out comes from DP_NAME in the environment (DP_DATA, DP_LISTEN, …), then
    from the --config file, then from its default.
    """
    named = {
        "data": data,
        "store": store,
        "cluster": cluster,
        "listen": listen,
        "grpc": grpc,
        "http": http,
        "socket": socket,
        "config": config,
        "master-key-file": master_key_file,
        "master-key-command": master_key_command,
        "log-level": log_level,
        "tls-cert": tls_cert,
        "tls-key": tls_key,
        "tls-ca": tls_ca,
    }
    options = [f"--{name}={value}" for name, value in named.items() if value is not None]
    options += ["--insecure"] * is_insecure
    options += ["--encrypt-root"] * is_root_encrypted
    options += ["--require-client-certificate"] * requires_certificate
    become_server("start", *options, *context.args)


def become_server(*arguments: str) -> NoReturn:
    """Replace this process by the server's program."""
    outputs.flush()
    # -P: what lies in the current directory is no module of ours.
    command_line = [sys.executable, "-P", "-m", "dataplatform_server", *arguments]
    os.execv(sys.executable, command_line)
