"""Gathering: topics of other clusters into one here."""

from __future__ import annotations

from collections.abc import Iterable

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Invalid
from .base import Operations
from .messages import build
from .paths import Path, target
from .values import GatherInfo, GatherSource

BEGIN = METHODS["Gathers.Begin"]
LIST = METHODS["Gathers.List"]
PAUSE = METHODS["Gathers.Pause"]
END = METHODS["Gathers.End"]


def source_of(text: str) -> pb.GatherRequest.Source:
    """`/cluster/path:topic`. INVALID if it is none."""
    place, colon, topic = text.rpartition(":")
    cluster, slash, path = place.lstrip("/").partition("/")
    if not (colon and slash and cluster and path and topic) or not place.startswith("/"):
        raise Invalid("a source is /cluster/path:topic", source=text)
    return pb.GatherRequest.Source(cluster=cluster, path="/" + path, topic=topic)


def gather_of(gather: pb.Gather) -> GatherInfo:
    sources = [
        GatherSource(
            source=one.source,
            state=one.state,
            reason=one.reason,
            records=one.records,
            behind=one.behind,
            lost=one.lost,
            time_ns=one.time_ns,
            offsets=tuple(one.offsets),
        )
        for one in gather.sources
    ]
    return GatherInfo(gather.path, gather.by, gather.created_ns, gather.paused, tuple(sources))


class GatherOperations(Operations):
    async def gather(self, path: Path, topic: str, sources: Iterable[str]) -> GatherInfo:
        request = build(
            pb.GatherRequest,
            stream=target(path),
            topic=topic,
            sources=[source_of(source) for source in sources],
        )
        return gather_of((await self._channel.call(BEGIN, request))[0])

    async def gathers(self) -> list[GatherInfo]:
        reply, _ = await self._channel.call(LIST, pb.Empty())
        return [gather_of(gather) for gather in reply.gathers]

    async def pause_gather(self, path: Path, topic: str, *, paused: bool = True) -> None:
        request = build(pb.GatherRequest, stream=target(path), topic=topic, paused=paused)
        await self._channel.call(PAUSE, request)

    async def end_gather(self, path: Path, topic: str, sources: Iterable[str] = ()) -> None:
        request = build(
            pb.GatherRequest,
            stream=target(path),
            topic=topic,
            sources=[source_of(source) for source in sources],
        )
        await self._channel.call(END, request)
