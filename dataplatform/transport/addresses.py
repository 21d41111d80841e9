"""Where a server is: `dp://host:port`, `dps://`, `dp+unix:///path`, `grpc://`, `grpcs://`.

Without a name the server is found in this order: `DP_SERVER`, the Unix socket of a server that the
same user runs, the machine's socket (`/run/dataplatform/dp.sock`), `dp://127.0.0.1:7222`. A user's
socket lies in a directory that only its owner may enter; it is used only if that directory is ours,
so that nobody else can pose as our server. In /run only root makes directories.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dataplatform.base.errors import Denied, Invalid, PlatformError

FRAMES_PORT = 7222
GRPC_PORT = 7223
HTTP_PORT = 7224
HOST = "127.0.0.1"

SCHEMES = {"dp": FRAMES_PORT, "dps": FRAMES_PORT, "grpc": GRPC_PORT, "grpcs": GRPC_PORT}
UNIX_SCHEME = "dp+unix"
PRIVATE_DIRECTORIES = "/tmp/dataplatform-"  # noqa: S108 - and a uid: private, and looked at
RUNTIME_DIRECTORIES = "/run/user"  # what pam_systemd(8) makes
MACHINE_SOCKET = Path("/run/dataplatform/dp.sock")  # as docs/server.md has it for systemd
UNIX_PATH_BYTES_MAX = 107  # sun_path of Linux, without its NUL

_FORMS = "dp://HOST:PORT, dps://HOST:PORT, dp+unix:///PATH or grpc://HOST:PORT"


@dataclass(frozen=True, slots=True)
class Address:
    """One server. `path` is set for Unix sockets, `host` and `port` for all others."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self) -> bool:
        return self.scheme == UNIX_SCHEME

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("dps", "grpcs")

    @property
    def is_frames(self) -> bool:
        """Whether frames are spoken there; otherwise gRPC."""
        return self.scheme not in ("grpc", "grpcs")

    def __str__(self) -> str:
        if self.is_unix:
            return f"{self.scheme}://{self.path}"
        return f"{self.scheme}://{join_host_port(self.host, self.port)}"


def parse(text: str) -> Address:
    """The address that `text` names; INVALID with the reason otherwise."""
    if not text.isprintable() or text != text.strip():
        raise _invalid(text, "it holds spaces or unprintable characters")
    if "://" not in text:
        raise _invalid(text, f"no scheme: write {_FORMS}")
    scheme = text.split("://", 1)[0].lower()
    if scheme == UNIX_SCHEME:
        return _parse_unix(text)
    if scheme not in SCHEMES:
        raise _invalid(text, f"unknown scheme: use {_FORMS}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise _invalid(text, str(e)) from None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _invalid(text, "nothing may follow the port")
    if parts.username is not None or parts.password is not None:
        raise _invalid(text, "no user or password belongs in it: pass a token")
    if port == 0:
        raise _invalid(text, "port 0 is none")
    return Address(scheme, host=host or HOST, port=port or SCHEMES[scheme])


def parse_host_port(text: str, port_default: int) -> tuple[str, int]:
    """`HOST:PORT`, `HOST`, `:PORT` or `[IPV6]:PORT` as listeners take them. Port 0: any free."""
    try:
        parts = urlsplit("//" + text)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise _invalid(text, str(e)) from None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise _invalid(text, "write HOST:PORT")
    return host or HOST, port_default if port is None else port


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def default_address(environment: Mapping[str, str] = os.environ) -> Address:
    """The server to use when none is named."""
    if named := environment.get("DP_SERVER"):
        return parse(named)
    for path in (*user_socket_paths(environment), MACHINE_SOCKET):
        try:
            if path != MACHINE_SOCKET:
                check_private_directory(path.parent)
            if stat.S_ISSOCK(path.stat().st_mode):
                return Address(UNIX_SCHEME, path=str(path))
        except (OSError, PlatformError):
            pass  # not there, or not ours: as if nobody listened on it
    return Address("dp", host=HOST, port=FRAMES_PORT)


def user_socket_paths(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Where a server of this user may listen: it was perhaps started with another environment (a
    login has XDG_RUNTIME_DIR; `sudo`, `su` and cron have not)."""
    user = os.getuid()
    runtime = Path(RUNTIME_DIRECTORIES) / str(user)
    there = (
        default_socket_path(environment),
        default_socket_path({"XDG_RUNTIME_DIR": str(runtime)}),
        default_socket_path({}),
    )
    return tuple(dict.fromkeys(there))


def default_socket_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a server of this user listens, and where its clients look."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "dataplatform" / "dp.sock"
    return Path(f"{PRIVATE_DIRECTORIES}{os.getuid()}") / "dp.sock"


def make_private_directory(directory: Path) -> None:
    """Create it with mode 0700 if it is missing; DENIED if it is there and not ours alone."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        check_private_directory(directory)


def check_private_directory(directory: Path) -> None:
    """DENIED unless it is a directory that belongs to us and that nobody else may enter."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise Denied("not a directory, remove it", path=directory)
    if status.st_uid != os.getuid():
        raise Denied("directory belongs to another user", path=directory, uid=status.st_uid)
    if status.st_mode & 0o077:
        raise Denied("directory is open to others: chmod 700 it", path=directory)


def _parse_unix(text: str) -> Address:
    path = unquote(text.split("://", 1)[1])
    if not path.startswith("/") or path.endswith("/"):
        raise _invalid(text, "write dp+unix:///absolute/path/of/the.sock")
    if "\0" in path:
        raise _invalid(text, "a path holds no NUL")
    check_socket_path(path)
    return Address(UNIX_SCHEME, path=path)


def check_socket_path(path: str) -> None:
    """INVALID if the kernel cannot bind a Unix socket to it (unix(7), sun_path)."""
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise Invalid(
            f"socket path is longer than the {UNIX_PATH_BYTES_MAX} bytes of unix(7)", path=path
        )


def _invalid(text: str, reason: str) -> Invalid:
    return Invalid(f"not a server address, {reason}", address=text)
