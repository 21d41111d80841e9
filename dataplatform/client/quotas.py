"""Quotas of directories: set, looked at, removed."""

from __future__ import annotations

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from .base import Operations
from .messages import build
from .paths import Path, target
from .values import Quota

SET = METHODS["Quotas.Set"]
GET = METHODS["Quotas.Get"]
LIST = METHODS["Quotas.List"]
REMOVE = METHODS["Quotas.Remove"]
OVER = METHODS["Quotas.Over"]


def quota_of(message: pb.QuotaInfo) -> Quota:
    limits = message.limits
    return Quota(
        path=message.path,
        quota_bytes=limits.quota_bytes or None,
        quota_entries=limits.quota_entries or None,
        advisory_bytes=limits.advisory_bytes or None,
        advisory_entries=limits.advisory_entries or None,
        used_bytes=message.used_bytes,
        entries=message.entries,
        volume=message.volume,
        over_bytes=message.over_bytes,
        over_entries=message.over_entries,
    )


class QuotaOperations(Operations):
    async def set_quota(
        self,
        path: Path,
        *,
        quota_bytes: int | None = None,
        quota_entries: int | None = None,
        advisory_bytes: int | None = None,
        advisory_entries: int | None = None,
    ) -> Quota:
        limits = build(
            pb.QuotaLimits,
            quota_bytes=quota_bytes,
            quota_entries=quota_entries,
            advisory_bytes=advisory_bytes,
            advisory_entries=advisory_entries,
        )
        request = build(pb.QuotaRequest, target=target(path), limits=limits)
        return quota_of((await self._channel.call(SET, request))[0])

    async def quota(self, path: Path) -> Quota:
        request = build(pb.QuotaRequest, target=target(path))
        return quota_of((await self._channel.call(GET, request))[0])

    async def quotas(self, path: Path = "/") -> list[Quota]:
        reply, _ = await self._channel.call(LIST, build(pb.QuotaRequest, target=target(path)))
        return [quota_of(quota) for quota in reply.quotas]

    async def quotas_over(self) -> list[Quota]:
        reply, _ = await self._channel.call(OVER, pb.Empty())
        return [quota_of(quota) for quota in reply.quotas]

    async def remove_quota(self, path: Path) -> None:
        request = build(pb.QuotaRequest, target=target(path))
        await self._channel.call(REMOVE, request)
