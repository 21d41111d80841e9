"""What to mount, where, and how: `MountOptions`, and the forms in which people write them.

Two forms are read here: SPEC, which says what to mount, and OPTIONS, the list `a,b=c` of
`dp mount -o` and of /etc/fstab. The keeper hands the options to every worker as JSON; fields that
a program does not know are left out, so that workers of two versions can serve the same mount.

Standard library only: the keeper imports this.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..quantities import duration_of, size_of
from .refusals import MountRefused

Atime = Literal["relatime", "noatime"]
LogLevel = Literal["debug", "info", "warning", "error"]

PATIENCE_S = 300.0
CACHE_BYTES = 10 << 30
DIRTY_BYTES_MAX = 16 << 20
FILE_SYSTEM = "fuse.dp"
"""The type that `mount`, `findmnt` and `df` show."""

SCHEMES = ("dp", "dps")
UNIX_SCHEME = "dp+unix"
SPEC_FORMS = "/PATH, dp:/PATH, dp://HOST:PORT/PATH or dp+unix:///SOCKET:/PATH"


def _is_root() -> bool:
    return os.geteuid() == 0


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Everything that a mount is told. `default_permissions` is not among them: the kernel always
    checks modes, owners and ACLs itself."""

    mountpoint: str  # absolute
    path: str = "/"  # what of the server is shown there
    address: str = ""  # of the server; empty: the library's default
    token: str = field(default="", repr=False)
    token_file: str = ""  # read at each start of a worker, so a token can be replaced
    ca: str = ""  # PEM files for dps://; read at each connection
    cert: str = ""
    key: str = ""
    source: str = ""  # what `mount` and `df` show as the device
    read_only: bool = False
    foreground: bool = False
    patience_s: float = PATIENCE_S  # how long calls wait for a server that is away
    cache_dir: str = ""  # empty: no cache on disk
    cache_size_bytes: int = CACHE_BYTES
    dirty_bytes_max: int = DIRTY_BYTES_MAX  # written, not yet answered by the server
    near: bool = True  # read the server's files directly where that can be done
    atime: Atime = "relatime"
    allow_other: bool = field(default_factory=_is_root)
    suid: bool = field(default_factory=_is_root)
    dev: bool = field(default_factory=_is_root)
    exec: bool = True
    log_file: str = ""  # empty: standard error
    log_level: LogLevel = "info"
    uid: int = field(default_factory=os.getuid)  # of who mounts
    gid: int = field(default_factory=os.getgid)

    def __post_init__(self) -> None:
        assert self.mountpoint.startswith("/")
        assert self.path.startswith("/")
        assert self.patience_s >= 0
        if not self.source:
            object.__setattr__(self, "source", source_of(self.address, self.path))

    def read_token(self) -> str:
        """The token to show to the server now; empty: none. OSError if it cannot be read."""
        return Path(self.token_file).read_text().strip() if self.token_file else self.token

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> MountOptions:
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})


# ------------------------------------------------------------------------------------------ SPEC


def parse_spec(text: str) -> tuple[str, str]:
    """Address ("": the default server) and path of a SPEC: `/PATH`, `dp:/PATH`,
    `dp://HOST:PORT/PATH` (or `dps://`), `dp+unix:///SOCKET:/PATH`. Without a path it is `/`."""
    if text.startswith("/"):
        return "", text
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in (*SCHEMES, UNIX_SCHEME):
        raise MountRefused("INVALID", f"{text!r} names nothing to mount: write {SPEC_FORMS}")
    if not rest.startswith("//"):
        if scheme == "dp" and rest.startswith("/"):
            return "", rest
        raise MountRefused("INVALID", f"{text!r} names nothing to mount: write {SPEC_FORMS}")
    if scheme == UNIX_SCHEME:
        place, _, path = rest[2:].partition(":/")
        if not place.startswith("/"):
            raise MountRefused("INVALID", f"{text!r} names no socket: write {SPEC_FORMS}")
    else:
        place, _, path = rest[2:].partition("/")
        if not place:
            raise MountRefused("INVALID", f"{text!r} names no host: write {SPEC_FORMS}")
    return f"{scheme}://{place}", "/" + path


def source_of(address: str, path: str) -> str:
    """The SPEC of an address and a path."""
    if not address:
        return f"dp:{path}"
    return f"{address}:{path}" if address.startswith(UNIX_SCHEME) else f"{address}{path}"


# --------------------------------------------------------------------------------------- OPTIONS


def _choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"{text!r} is none of {', '.join(names)}")
        return text

    return parse


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is no absolute path")
    return text


FLAGS: Mapping[str, tuple[str, Any]] = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "allow_other": ("allow_other", True),
    "noallow_other": ("allow_other", False),
    "atime": ("atime", "relatime"),
    "relatime": ("atime", "relatime"),
    "noatime": ("atime", "noatime"),
    "near": ("near", True),
    "nonear": ("near", False),
    "dev": ("dev", True),
    "nodev": ("dev", False),
    "suid": ("suid", True),
    "nosuid": ("suid", False),
    "exec": ("exec", True),
    "noexec": ("exec", False),
}

VALUES: Mapping[str, tuple[str, str, Callable[[str], Any]]] = {  # field, what to write, parser
    "server": ("address", "ADDRESS", str),
    "token_file": ("token_file", "FILE", _absolute),
    "ca": ("ca", "FILE", _absolute),
    "cert": ("cert", "FILE", _absolute),
    "key": ("key", "FILE", _absolute),
    "patience": ("patience_s", "5m", lambda text: duration_of(text).total_seconds()),
    "cache_dir": ("cache_dir", "DIR", _absolute),
    "cache_size": ("cache_size_bytes", "10GiB", size_of),
    "max_dirty": ("dirty_bytes_max", "16MiB", size_of),
    "fsname": ("source", "NAME", str),
    "log_file": ("log_file", "FILE", _absolute),
    "log_level": ("log_level", "info", _choice("debug", "info", "warning", "error")),
}

# What mount(8), systemd and others write into fstab for themselves, or what always holds here.
_WHEN = ("_netdev", "defaults", "auto", "noauto", "nofail", "async")
_WHO = ("user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup")
_ALWAYS = ("diratime", "nodiratime", "default_permissions")
IGNORED = frozenset((*_WHEN, *_WHO, *_ALWAYS))
IGNORED_PREFIXES = ("x-", "X-", "comment=", "user=", "uhelper=")

_COMMA = re.compile(r"(?<!\\),")


def parse_options(text: str) -> dict[str, Any]:
    """Fields of `MountOptions` from a list `a,b=c`; a comma in a value is written `\\,`. The last
    one of several wins. INVALID, with the known names, for what is not known."""
    found: dict[str, Any] = {}
    for item in _COMMA.split(text):
        option = item.replace("\\,", ",").strip()
        if not option or option in IGNORED or option.startswith(IGNORED_PREFIXES):
            continue
        name, equals, value = option.partition("=")
        if name in FLAGS and not equals:
            field_name, found_value = FLAGS[name]
        elif name in VALUES and value:
            field_name, form, parse = VALUES[name]
            try:
                found_value = parse(value)
            except ValueError as error:
                raise MountRefused("INVALID", f"option {name}={form}: {error}") from None
        elif name in VALUES:
            raise MountRefused("INVALID", f"option {name} needs a value: {name}={VALUES[name][1]}")
        elif name in FLAGS:
            raise MountRefused("INVALID", f"option {name} takes no value, got {option!r}")
        else:
            raise MountRefused("INVALID", f"unknown option {option!r}; known are {known_options()}")
        found[field_name] = found_value
    return found


def known_options() -> str:
    """All of them, as they are written."""
    return ", ".join([*FLAGS, *(f"{name}={form}" for name, (_, form, _) in VALUES.items())])
