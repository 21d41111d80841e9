"""The server itself: ping, status, check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from .base import Operations
from .paths import Path, target
from .values import CheckProgress, CheckReport, Finding, MasterRotation, MountInfo, Status
from .volumes import volume_of

_REPORTED = tuple(field.name for field in dataclasses.fields(MountInfo))

PING = METHODS["System.Ping"]
STATUS = METHODS["System.Status"]
CHECK = METHODS["System.Check"]
ROTATE_MASTER = METHODS["System.RotateMaster"]
CHECK_WAIT_MS = 500
"""Of one look at a running check: how often its progress is told."""


class SystemOperations(Operations):
    async def ping(self) -> float:
        begun_s = self._channel.runtime.monotonic()
        await self._channel.call(PING, pb.Empty())
        return self._channel.runtime.monotonic() - begun_s

    async def status(self) -> Status:
        reply: pb.StatusReply
        reply, _ = await self._channel.call(STATUS, pb.Empty())
        return Status(
            version=reply.version,
            cluster=reply.cluster,
            engine=reply.engine,
            data=reply.data,
            pid=reply.pid,
            started_ns=reply.started_ns,
            connections=reply.connections,
            memory_bytes=reply.memory_bytes,
            volumes=tuple(volume_of(volume) for volume in reply.volumes),
            counters=dict(reply.counters),
            address=str(self._channel.address),
            mounts=tuple(mount_of(mount) for mount in reply.mounts),
            audit_is_on=bool(reply.audit.volumes),
            audit_failure=reply.audit.failure or None,
            audit_backlog=reply.audit.backlog,
            audit_dropped=reply.audit.dropped,
        )

    async def rotate_master_key(self) -> MasterRotation:
        reply, _ = await self._channel.call(ROTATE_MASTER, pb.Empty())
        return MasterRotation(
            reply.master, reply.volumes, reply.secrets, reply.unchanged, tuple(reply.left)
        )

    async def check(
        self,
        path: Path | None = None,
        *,
        repair: bool = False,
        progress: Callable[[CheckProgress], None] | None = None,
    ) -> CheckReport:
        request = pb.CheckRequest(repair=repair, wait_ms=CHECK_WAIT_MS)
        if path is not None:
            request.target.CopyFrom(target(path))
        while True:
            reply: pb.CheckReply
            reply, _ = await self._channel.call(CHECK, request)
            if progress is not None:
                progress(CheckProgress(reply.stage, reply.checked))
            if reply.done:
                break
            request.job = reply.job
        return CheckReport(
            checked=reply.checked,
            findings=tuple(
                Finding(f.path, f.problem, f.repairable, f.repaired) for f in reply.findings
            ),
            counts=dict(reply.counts),
            warnings=tuple(Finding(w.path, w.problem, False, False) for w in reply.warnings),
        )


def mount_of(report: pb.MountReport) -> MountInfo:
    return MountInfo(**{name: getattr(report, name) for name in _REPORTED})
