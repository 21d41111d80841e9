"""The ordered feed of what happened below a path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Invalid, NotFound
from .base import Operations
from .messages import build
from .paths import Path, target
from .values import Change, Publication

READ = METHODS["Changes.Read"]
PUBLISH = METHODS["Changes.Publish"]
UNPUBLISH = METHODS["Changes.Unpublish"]
PUBLICATIONS = METHODS["Changes.Publications"]
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


def publication_of(message: pb.Publication) -> Publication:
    return Publication(
        path=message.path,
        stream=message.stream,
        topic=message.topic,
        commit=message.commit,
        behind=message.behind,
        by=message.by,
        created_ns=message.created_ns,
        state=message.state,
        reason=message.reason,
        kinds=tuple(message.kinds),
        events=tuple(message.events),
        records=message.records,
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

    async def publish_changes(
        self,
        path: Path,
        stream: Path,
        topic: str,
        *,
        kinds: Iterable[str] | None = None,
        events: Iterable[str] | None = None,
        since: int | None = None,
        restart: bool = False,
    ) -> Publication:
        request = build(
            pb.PublishRequest,
            target=target(path),
            stream=target(stream),
            topic=topic,
            kinds=words(kinds, "kinds"),
            events=words(events, "events"),
            since=since,
            restart=restart,
        )
        return publication_of((await self._channel.call(PUBLISH, request))[0])

    async def unpublish_changes(
        self, stream: Path, topic: str, *, path: Path | None = None
    ) -> None:
        request = build(
            pb.UnpublishRequest,
            stream=target(stream),
            topic=topic,
            target=target(path) if path is not None else None,
        )
        await self._channel.call(UNPUBLISH, request)

    async def publications(self, path: Path | None = None) -> list[Publication]:
        request = build(pb.PublicationsRequest, target=target(path) if path is not None else None)
        reply, _ = await self._channel.call(PUBLICATIONS, request)
        return [publication_of(each) for each in reply.publications]
