"""The connection that a command works over: which server, and as whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataplatform import Client


@dataclass(slots=True)
class _Choice:
    """What the global options said; None: the library's default."""

    server: str | None = None
    token: str | None = None
    token_file: str | None = None
    stale_ok: bool = False


_choice = _Choice()


def choose(
    server: str | None, token: str | None, token_file: str | None = None, *, stale_ok: bool = False
) -> None:
    """Which server the command of this process uses, and as whom; whether mirrors will do."""
    _choice.stale_ok = stale_ok
    _choice.server, _choice.token, _choice.token_file = server, token, token_file


def chosen() -> tuple[str | None, str | None, str | None]:
    """Server, token and the file with it, for what connects by itself."""
    return _choice.server, _choice.token, _choice.token_file


@contextmanager
def connect() -> Iterator[Client]:
    """A client, connected; Unavailable, with what to do, when there is no server."""
    import dataplatform

    more: Any = {"token_file": _choice.token_file} if _choice.token_file else {}
    if _choice.stale_ok:
        more["stale_ok"] = True
    with dataplatform.connect(_choice.server, _choice.token, **more) as client:
        yield client
        if _choice.stale_ok and client.as_of_ns:
            _say_age(client.as_of_ns)


def _say_age(as_of_ns: int) -> None:
    import time
    from datetime import UTC, datetime

    from . import outputs

    age_s = max(0.0, (time.time_ns() - as_of_ns) / 1e9)
    when = datetime.fromtimestamp(as_of_ns / 1e9, UTC)
    outputs.note(f"read from a mirror, as of {when:%F %T %Z}: {age_s:.1f} s ago")


@contextmanager
def connect_to_change() -> Iterator[Client]:
    """`connect`, and at the end wait until what was done is on the server's disk: a command that
    says it went well has gone well, whatever happens to the server a moment later."""
    with connect() as client:
        yield client
        client.sync()
