"""Changes as everybody reads them: paths from the platform's root, facts as text."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .changes import Change

_PATHS = ("from", "to", "existing")
"""Facts that are paths."""

_encode = json.JSONEncoder(ensure_ascii=False).encode


class Told(NamedTuple):
    """A change, spelled out."""

    commit: int
    time_ns: int
    event: str
    kind: str
    path: str
    principal: str
    facts: dict[str, str]

    def json(self) -> str:
        """As `dp changes --json` prints it."""
        time_s, rest_ns = divmod(self.time_ns, 10**9)
        time = f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns:09}Z"
        return _encode(
            {
                "commit": self.commit,
                "time": time,
                "event": self.event,
                "kind": self.kind,
                "path": self.path,
                "principal": self.principal,
                "facts": dict(sorted(self.facts.items())),
            }
        )


def tell(change: Change, above: str) -> Told:
    """`above`: where the volume is mounted."""
    event, prefix = change.event, above.rstrip("/")
    facts = {
        name: _text(value, prefix if name in _PATHS else "") for name, value in event.facts.items()
    }
    return Told(
        change.commit,
        change.time_ns,
        event.verb,
        event.kind,
        path_of(event.path, prefix),
        change.principal,
        facts,
    )


def path_of(below: str, above: str) -> str:
    """What has no name any more is told as what it is, `(inode 7)`."""
    return (above + below).rstrip("/") or "/" if below.startswith("/") else below


def _text(value: Any, above: str) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return above + value
    return json.dumps(value)
