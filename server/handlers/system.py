"""System.*: liveness, status, and the check as a job that is polled."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb

from ..dispatch import Call, rpc

CHECK_WAIT_MS_MAX = 30_000


@rpc("System.Ping")
async def ping(call: Call, message: pb.Empty, data: Any) -> pb.Empty:
    return pb.Empty()


@rpc("System.Status")
async def status(call: Call, message: pb.Empty, data: Any) -> pb.StatusReply:
    return await call.server.status()


@rpc("System.Check")
async def check(call: Call, message: pb.CheckRequest, data: Any) -> pb.CheckReply:
    volume_id = 0
    if message.HasField("target"):
        volume_id = (await call.node(message.target)).volume.id
    jobs = call.server.checks
    job = jobs.find(message.job) if message.job else jobs.start(volume_id, repair=message.repair)
    await job.wait(min(message.wait_ms, CHECK_WAIT_MS_MAX) / 1000)
    return job.report()
