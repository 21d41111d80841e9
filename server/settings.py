"""What a server is told: flags, then DP_… in the environment, then the TOML file, then defaults.

The file has the same names as the flags, at its top level:

    data = "/var/lib/dataplatform"
    cluster = "east"
    grpc = "none"
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dataplatform.base.errors import Denied, Invalid
from dataplatform.base.names import check_cluster_name
from dataplatform.transport.addresses import (
    FRAMES_PORT,
    GRPC_PORT,
    HOST,
    HTTP_PORT,
    default_socket_path,
    parse_host_port,
)
from dataplatform.transport.tls import ServerTls

NONE = "none"
LOG_LEVELS = ("debug", "info", "warning", "error")

HostPort = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked and complete. A listener that is None is off; port 0 is any free one."""

    data: Path
    store: str | None
    cluster: str
    listen: HostPort | None
    grpc: HostPort | None
    http: HostPort | None
    socket: Path | None
    socket_is_default: bool
    insecure: bool
    log_level: str
    master_key_file: Path | None = None
    master_key_command: str = ""
    encrypt_root: bool = False
    tls: ServerTls | None = None
    """With it, frames over TCP and gRPC speak nothing else; HTTP too, beyond loopback."""


_DEFAULTS: dict[str, Any] = {
    "data": None,
    "store": None,
    "cluster": "local",
    "listen": f"{HOST}:{FRAMES_PORT}",
    "grpc": f"{HOST}:{GRPC_PORT}",
    "http": f"{HOST}:{HTTP_PORT}",
    "socket": None,
    "insecure": False,
    "log_level": "info",
    "master_key_file": None,
    "master_key_command": None,
    "encrypt_root": False,
    "tls_cert": None,
    "tls_key": None,
    "tls_ca": None,
    "require_client_certificate": False,
}
_FLAGS = ("insecure", "encrypt_root", "require_client_certificate")
_TLS = ("tls_cert", "tls_key", "tls_ca", "require_client_certificate")
_PORTS = {"listen": FRAMES_PORT, "grpc": GRPC_PORT, "http": HTTP_PORT}
assert set(_DEFAULTS) - {*_TLS} == {f.name for f in fields(Settings)} - {"socket_is_default", "tls"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `start`. Their defaults come later: the environment and the file go before."""
    parser.add_argument("--data", metavar="DIR", help=f"data directory ({default_data()})")
    parser.add_argument("--store", metavar="URL", help="object store, such as s3://bucket/prefix")
    parser.add_argument("--cluster", metavar="NAME", help="name of this cluster (local)")
    for name, port in _PORTS.items():
        parser.add_argument(
            f"--{name}", metavar="HOST:PORT", help=f'({HOST}:{port}; "none": off; port 0: any)'
        )
    parser.add_argument("--socket", metavar="PATH", help='Unix socket (per user; "none": off)')
    parser.add_argument("--config", metavar="FILE", help="TOML file with the same names")
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="listen beyond this machine without TLS",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate, PEM: speak TLS 1.3 only")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, PEM, mode 0600")
    parser.add_argument("--tls-ca", metavar="FILE", help="whose certificates clients may show, PEM")
    parser.add_argument(
        "--require-client-certificate",
        action="store_true",
        default=None,
        help="serve only clients that show one",
    )
    parser.add_argument("--log-level", choices=LOG_LEVELS, help="(info)")
    add_key_arguments(parser)
    parser.add_argument(
        "--encrypt-root",
        action="store_true",
        default=None,
        help="at the first start: encrypt the root volume, too",
    )


def add_key_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the master key is, which wraps the keys of encrypted volumes."""
    parser.add_argument(
        "--master-key-file", metavar="FILE", help="made by dp keys create-master, mode 0600"
    )
    parser.add_argument(
        "--master-key-command", metavar="COMMAND", help="wraps and unwraps keys, by a KMS say"
    )


def read_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> Settings:
    """INVALID with the name and where it came from; DENIED for listening beyond loopback."""
    values = dict(_DEFAULTS)
    config = flags.get("config") or environment.get("DP_CONFIG")
    if config:
        values |= _read_file(Path(config))
    for name in _DEFAULTS:
        if (text := environment.get(f"DP_{name.upper()}")) is not None:
            values[name] = _boolean(f"DP_{name.upper()}", text) if name in _FLAGS else text
    values |= {n: v for n, v in flags.items() if n in _DEFAULTS and v is not None}
    return _checked(values, environment)


def file_of(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None


def default_data(environment: Mapping[str, str] = os.environ) -> Path:
    base = environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "dataplatform"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as e:
        raise Invalid("config file cannot be read", path=path, reason=e.strerror) from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise Invalid("config file is not TOML", path=path, reason=e) from e
    for name, value in values.items():
        if name not in _DEFAULTS:
            near = difflib.get_close_matches(name, _DEFAULTS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(_DEFAULTS))}"
            raise Invalid(f"unknown setting in the config file, {hint}", setting=name, path=path)
        wanted = bool if name in _FLAGS else str
        if not isinstance(value, wanted):
            kind = "true or false" if wanted is bool else "a string"
            raise Invalid(f"setting must be {kind}", setting=name, value=value, path=path)
    return values


def _checked(values: dict[str, Any], environment: Mapping[str, str]) -> Settings:
    check_cluster_name(values["cluster"])
    if values["log_level"] not in LOG_LEVELS:
        levels = ", ".join(LOG_LEVELS)
        raise Invalid(f"log level is one of {levels}", log_level=values["log_level"])
    tls = _tls(values)
    insecure = values["insecure"]
    may_listen = insecure or tls is not None
    socket = values["socket"]
    return Settings(
        data=Path(values["data"] or default_data(environment)).absolute(),
        store=values["store"] or None,
        cluster=values["cluster"],
        listen=_listener("listen", values["listen"], may_listen),
        grpc=_listener("grpc", values["grpc"], may_listen),
        http=_listener("http", values["http"], may_listen),
        socket=_socket(socket, environment),
        socket_is_default=socket is None,
        insecure=insecure,
        log_level=values["log_level"],
        master_key_file=file_of(values["master_key_file"]),
        master_key_command=values["master_key_command"] or "",
        encrypt_root=values["encrypt_root"],
        tls=tls,
    )


def _tls(values: dict[str, Any]) -> ServerTls | None:
    certificate, key, ca, required = (values[name] for name in _TLS)
    if not certificate:
        for name in _TLS[1:]:
            if values[name]:
                raise Invalid("TLS needs a certificate: give --tls-cert too", setting=name)
        return None
    if not key:
        raise Invalid("a certificate needs its key: give --tls-key too", tls_cert=certificate)
    if required and not ca:
        raise Invalid("to require client certificates, say whose: give --tls-ca too")
    tls = ServerTls(
        str(Path(certificate).absolute()),
        str(Path(key).absolute()),
        str(Path(ca).absolute()) if ca else "",
        required,
    )
    tls.context()  # what is wrong with the files is said now
    return tls


def _socket(text: str | None, environment: Mapping[str, str]) -> Path | None:
    if text == NONE:
        return None
    return Path(text).absolute() if text else default_socket_path(environment)


def _listener(name: str, text: str, may_listen: bool) -> HostPort | None:
    if text == NONE:
        return None
    host, port = parse_host_port(text, _PORTS[name])
    if not may_listen and not is_loopback(host):
        raise Denied(
            "without TLS it listens on loopback only: give --tls-cert and --tls-key (`dp certs "
            "init` makes them), or --insecure if everybody on the way may read everything",
            setting=name,
            address=text,
        )
    return host, port


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _boolean(name: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    raise Invalid("must be true or false", variable=name, value=text)
