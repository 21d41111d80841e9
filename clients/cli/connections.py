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


_choice = _Choice()


def choose(server: str | None, token: str | None, token_file: str | None = None) -> None:
    """Which server the command of this process uses, and as whom."""
    _choice.server, _choice.token, _choice.token_file = server, token, token_file


def chosen() -> tuple[str | None, str | None, str | None]:
    """Server, token and the file with it, for what connects by itself."""
    return _choice.server, _choice.token, _choice.token_file


@contextmanager
def connect() -> Iterator[Client]:
    """A client, connected; Unavailable, with what to do, when there is no server."""
    import dataplatform

    file: Any = {"token_file": _choice.token_file} if _choice.token_file else {}
    with dataplatform.connect(_choice.server, _choice.token, **file) as client:
        yield client


@contextmanager
def connect_to_change() -> Iterator[Client]:
    """`connect`, and at the end wait until what was done is on the server's disk: a command that
    says it went well has gone well, whatever happens to the server a moment later."""
    with connect() as client:
        yield client
        client.sync()
