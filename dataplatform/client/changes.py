"""The ordered feed of what happened below a path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Invalid, NotFound
from .base import Operations
from .messages import build
from .paths import Path, target
from .values import Change

READ = METHODS["Changes.Read"]
WAIT_MS = 10_000
"""Of one long poll of a follower."""


def change_of(change: pb.Change) -> Change:
    return Change(
        commit=change.commit,
        time_ns=change.time_ns,
        event=change.event,
        kind=change.kind,
        path=change.path,
        principal=change.principal,
        facts=dict(change.facts),
    )


def words(given: Iterable[str] | None, name: str) -> list[str]:
    """Kinds or events. One word alone is easily given where several are meant."""
    if isinstance(given, str):
        raise Invalid(f"{name} is a list of words", **{name: given})
    return list(given or ())


class ChangeOperations(Operations):
    async def changes(
        self,
        path: Path = "/",
        since: int = 0,
        follow: bool = False,
        kinds: Iterable[str] | None = None,
        events: Iterable[str] | None = None,
    ) -> AsyncIterator[Change]:
        request = build(
            pb.ChangesRequest,
            target=target(path),
            since=since,
            wait_ms=WAIT_MS if follow else 0,
            kinds=words(kinds, "kinds"),
            events=words(events, "events"),
        )
        end: int | None = None
        while True:
            reply: pb.ChangesReply
            reply, _ = await self._channel.call(READ, request)
            for change in reply.changes:
                yield change_of(change)
            if reply.over:
                if not follow:
                    return
                raise NotFound("what was followed was removed", path=str(path))
            # From here on whatever it is called: also when it is renamed meanwhile.
            request.target.CopyFrom(pb.Target(volume=reply.volume, inode=reply.inode))
            request.since = max(reply.next, request.since)
            end = reply.end if end is None else end
            if not follow and request.since >= end:
                return
