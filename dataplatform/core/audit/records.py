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

import functools
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring as _text
from typing import Any

from ...keyspace.records import ChangeRow
from ..encoding import Line
from . import protection

DENIED = "denied"
ALLOWED = "allowed"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode

_PATHS = ("from", "to", "existing")
"""Facts that are paths."""

_OWN = "system"


def time_of(time_ns: int) -> str:
    """RFC 3339, UTC, milliseconds."""
    return f"{_second(time_ns // 10**9)}.{time_ns // 10**6 % 1000:03d}Z"


@functools.lru_cache(maxsize=64)
def _second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"


def line(time_ns: int, said: Mapping[str, Any]) -> Line:
    """One record; what is empty is left out."""
    kept = {"time": time_of(time_ns)}
    kept |= {name: value for name, value in said.items() if value not in ("", None, {})}
    return time_ns // 10**6, _encode(kept).encode("utf-8", "backslashreplace")


def lines_of(volume: int, above: str, commit: int, row: ChangeRow) -> Iterator[Line]:
    """The records of a commit. `above`: where its volume is mounted. Put together by hand: every
    change of every audited volume comes through here."""
    prefix = above.rstrip("/")
    time_ms = row.time_ns // 10**6
    time = time_of(row.time_ns)
    author = (row.principal, row.origin, row.right, row.token, row.by)
    for index, (verb, path, kind, facts) in enumerate(row.events):
        if path == protection.PATH and not prefix and row.principal == _OWN:
            continue  # its own retention: telling that would begin it anew
        who, right = _author(*(row.others.get(index) or author))
        where = _text((prefix + path).rstrip("/") or "/")
        more = ""
        if facts:
            said = {name: _fact(name, value, prefix) for name, value in facts.items()}
            more = f',"facts":{_encode(said)}'
        text = (
            f'{{"time":"{time}",{who}"op":{_text(verb)},"kind":{_text(kind)},"path":{where},'
            f'"verdict":"{ALLOWED}",{right}"commit":{commit},"volume":{volume}{more}}}'
        )
        yield time_ms, text.encode("utf-8", "backslashreplace")


@functools.lru_cache(maxsize=1024)
def _author(user: str, origin: str, right: str, token: str, by: str = "") -> tuple[str, str]:
    """The members that say who it was, and by which right."""
    named = {"user": user, "by": by, "token": token, "origin": origin}
    who = "".join(f'"{name}":{_text(value)},' for name, value in named.items() if value)
    return who, f'"right":{_text(right)},' if right else ""


def _fact(name: str, value: Any, prefix: str) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_fact("", item, "") for item in value]
    if isinstance(value, str) and name in _PATHS:
        return prefix + value
    return value
