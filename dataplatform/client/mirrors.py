"""Mirrors: volumes that follow one of another cluster."""

from __future__ import annotations

from datetime import timedelta

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from .base import Operations
from .messages import build
from .paths import Path, target
from .values import MirrorInfo

CREATE = METHODS["Mirrors.Create"]
LIST = METHODS["Mirrors.List"]
INFO = METHODS["Mirrors.Info"]
SET = METHODS["Mirrors.Set"]
PAUSE = METHODS["Mirrors.Pause"]
RESUME = METHODS["Mirrors.Resume"]
PROMOTE = METHODS["Mirrors.Promote"]
REMOVE = METHODS["Mirrors.Remove"]


def mirror_of(mirror: pb.Mirror) -> MirrorInfo:
    return MirrorInfo(
        path=mirror.path,
        volume=mirror.volume,
        source=mirror.source,
        cluster=mirror.cluster,
        state=mirror.state,
        commit=mirror.commit,
        source_commit=mirror.source_commit,
        lag_commits=max(0, mirror.source_commit - mirror.commit),
        lag_s=mirror.lag_ms / 1000 if mirror.HasField("lag_ms") else None,
        copied_ns=mirror.copied_ns,
        every=timedelta(milliseconds=mirror.schedule.every_ms) or None,
        bandwidth=mirror.schedule.bandwidth or None,
        rate=mirror.rate,
        rows=mirror.rows,
        changes=mirror.changes,
        extents=mirror.extents,
        bytes=mirror.bytes,
        error=mirror.error,
        error_ns=mirror.error_ns,
        copied_bytes=mirror.copied_bytes,
        total_bytes=mirror.total_bytes,
    )


def _schedule(every: timedelta | None, bandwidth: int | None) -> pb.MirrorSchedule:
    every_ms = None if every is None else round(every / timedelta(milliseconds=1))
    return build(pb.MirrorSchedule, every_ms=every_ms, bandwidth=bandwidth)


class MirrorOperations(Operations):
    async def create_mirror(
        self,
        path: Path,
        source: str,
        *,
        every: timedelta | None = None,
        bandwidth: int | None = None,
        token: str | None = None,
        ca: str | None = None,
        insecure: bool = False,
        quota_bytes: int | None = None,
        quota_entries: int | None = None,
        encrypt: bool = False,
        discard: bool = False,
    ) -> MirrorInfo:
        request = build(
            pb.CreateMirrorRequest,
            target=target(path),
            source=source,
            token=token,
            authority=ca,
            insecure=insecure,
            schedule=_schedule(every, bandwidth),
            settings=build(
                pb.VolumeSettings,
                quota_bytes=quota_bytes,
                quota_entries=quota_entries,
                encrypt=encrypt or None,
            ),
            discard=discard,
        )
        return mirror_of((await self._channel.call(CREATE, request))[0])

    async def mirrors(self) -> list[MirrorInfo]:
        reply, _ = await self._channel.call(LIST, pb.Empty())
        return [mirror_of(mirror) for mirror in reply.mirrors]

    async def mirror_info(self, path: Path) -> MirrorInfo:
        request = build(pb.MirrorRequest, target=target(path))
        return mirror_of((await self._channel.call(INFO, request))[0])

    async def set_mirror(
        self, path: Path, *, every: timedelta | None = None, bandwidth: int | None = None
    ) -> MirrorInfo:
        request = build(pb.MirrorRequest, target=target(path), schedule=_schedule(every, bandwidth))
        return mirror_of((await self._channel.call(SET, request))[0])

    async def pause_mirror(self, path: Path) -> MirrorInfo:
        request = build(pb.MirrorRequest, target=target(path))
        return mirror_of((await self._channel.call(PAUSE, request))[0])

    async def resume_mirror(self, path: Path, *, discard: bool = False) -> MirrorInfo:
        request = build(pb.MirrorRequest, target=target(path), discard=discard)
        return mirror_of((await self._channel.call(RESUME, request))[0])

    async def promote_mirror(self, path: Path) -> int:
        request = build(pb.MirrorRequest, target=target(path))
        reply, _ = await self._channel.call(PROMOTE, request)
        return int(reply.commit)

    async def remove_mirror(self, path: Path) -> None:
        await self._channel.call(REMOVE, build(pb.MirrorRequest, target=target(path)))
