"""The ordered feed of what happened below a path."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
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


class ChangeOperations(Operations):
    async def changes(
        self, path: Path = "/", since: int = 0, follow: bool = False
    ) -> AsyncIterator[Change]:
        request = build(pb.ChangesRequest, target=target(path), since=since)
        while True:
            reply: pb.ChangesReply
            reply, _ = await self._channel.call(READ, request)
            for change in reply.changes:
                yield change_of(change)
            # A reply without changes may still have moved on, over those of other paths.
            has_moved = reply.next > request.since
            request.since = max(reply.next, request.since)
            if not reply.changes and not has_moved:
                if not follow:
                    return
                request.wait_ms = WAIT_MS
            else:
                request.wait_ms = 0
