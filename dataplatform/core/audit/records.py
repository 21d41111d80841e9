"""What stands in the audit: one JSON object per event, for people with `grep` and programs alike.

What is empty is left out:

    time       when, RFC 3339 with milliseconds, UTC
    user       who (of the platform itself: `system`)
    by         who said so, where it was not the user's own connection: the user of a mount that
               may speak for others
    token      the id of the token it came with, where there was one
    origin     from where: `unix pid 4711 uid 1000`, `tcp 10.1.2.3:40000`, `grpc ipv4:…`; in
               brackets what the program says that it is
    op         what, in the words of the change feed: `created`, `written`, `row put`, …; of reads
               `opened`, `read`, `listed`, `row got`, `scanned`, `fetched`; `denied`; `login`
    kind       of what: file, directory, table, stream, …
    path       from the platform's root
    verdict    `allowed` or `denied`
    right      `admin`: by an administrator's right
    verb       denied: what was wanted
    rule       denied: by what
    commit     the number of the commit in its volume
    volume     the volume's number, which no other volume ever has
    count      how many of the same, if more than one
    facts      more about it, as in the change feed
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ...keyspace.records import ChangeRow
from . import protection
from .encoding import Line

DENIED = "denied"
ALLOWED = "allowed"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode

_PATHS = ("from", "to")
"""Facts that are paths."""

_OWN = "system"


def time_of(time_ns: int) -> str:
    """RFC 3339, UTC, milliseconds."""
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns // 10**6 % 1000:03d}Z"


def line(time_ns: int, said: Mapping[str, Any]) -> Line:
    """One record; what is empty is left out."""
    kept = {"time": time_of(time_ns)}
    kept |= {name: value for name, value in said.items() if value not in ("", None, {})}
    return time_ns // 10**6, _encode(kept).encode("utf-8", "backslashreplace")


def lines_of(volume: int, above: str, commit: int, row: ChangeRow) -> Iterator[Line]:
    """The records of a commit. `above`: where its volume is mounted."""
    prefix = above.rstrip("/")
    time_ns = row.time_ns
    author = (row.principal, row.origin, row.right, row.token, row.by)
    for index, (verb, path, kind, facts) in enumerate(row.events):
        if path == protection.PATH and not prefix and row.principal == _OWN:
            continue  # its own retention: telling that would begin it anew
        user, origin, right, token, by = row.others.get(index) or author
        yield line(
            time_ns,
            {
                "user": user,
                "by": by,
                "token": token,
                "origin": origin,
                "op": verb,
                "kind": kind,
                "path": (prefix + path).rstrip("/") or "/",
                "verdict": ALLOWED,
                "right": right,
                "commit": commit,
                "volume": volume,
                "facts": {name: _fact(name, value, prefix) for name, value in facts.items()},
            },
        )


def _fact(name: str, value: Any, prefix: str) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_fact("", item, "") for item in value]
    if isinstance(value, str) and name in _PATHS:
        return prefix + value
    return value
