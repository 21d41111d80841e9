"""System.*: liveness, status, and the check as a job that is polled."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.core import encryption

from ..checks import Checks
from ..dispatch import Call, rpc
from ..packing import volume_message

CHECK_WAIT_MS_MAX = 30_000


@rpc("System.Ping")
async def ping(call: Call, message: pb.Empty, data: Any) -> pb.Empty:
    return pb.Empty()


@rpc("System.Status")
async def status(call: Call, message: pb.Empty, data: Any) -> pb.StatusReply:
    """Administrators see everything; others the totals, without a path."""
    server, platform = call.server, call.platform
    reply = pb.StatusReply(
        version=server.version,
        cluster=platform.cluster,
        engine=server.engine,
        started_ns=platform.started_ns,
        connections=server.connections(),
        memory_bytes=server.memory_bytes,
        volumes=[volume_message(v) for v in await platform.catalog.list()],
        counters=server.counters(),
    )
    if not call.principal.is_admin or call.principal.roots:
        for volume in reply.volumes:
            volume.path = volume.audit_topic = ""  # the topic is called as the path
            volume.state = volume.state.partition(":")[0]
        return reply
    reply.MergeFrom(_for_administrators(call))
    return reply


def _for_administrators(call: Call) -> pb.StatusReply:
    server, platform = call.server, call.platform
    return pb.StatusReply(
        data=server.data,
        pid=server.pid,
        mounts=platform.promises.reports(),
        audit=_audit(call),
    )


def _audit(call: Call) -> pb.AuditStatus:
    audit = call.platform.audit
    backlog = audit.backlog()
    return pb.AuditStatus(
        volumes=len(backlog),
        backlog=sum(backlog.values()),
        failure=audit.failure,
        dropped=audit.dropped,
    )


@rpc("System.RotateMaster")
async def rotate_master(call: Call, message: pb.Empty, data: Any) -> pb.RotateMasterReply:
    done = await encryption.rotate_master(call.platform, call.request(pb.VolumeRequest()))
    return pb.RotateMasterReply(**done._asdict())


@rpc("System.Check")
async def check(call: Call, message: pb.CheckRequest, data: Any) -> pb.CheckReply:
    call.platform.guard.require_admin(call.principal, "check", changes=message.repair)
    checks = Checks.of(call.platform)
    if message.job:
        job = checks.find(message.job)
    else:
        volume_id = 0
        if message.HasField("target"):
            volume_id = (await call.node(message.target)).volume.id
        job = checks.start(volume_id, repair=message.repair)
    await job.wait(min(message.wait_ms, CHECK_WAIT_MS_MAX) / 1000)
    return job.report()
