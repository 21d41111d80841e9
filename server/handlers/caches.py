"""Namespace.Watch: what a client's caches must drop."""

from __future__ import annotations

import asyncio
from typing import Any

from dataplatform.api import platform_pb2 as pb

from ..dispatch import Call, rpc

LEASE_MS = 10_000


@rpc("Namespace.Watch")
async def watch(call: Call, message: pb.WatchRequest, data: Any) -> pb.WatchReply:
    if not message.begin:
        await asyncio.sleep(min(message.wait_ms, LEASE_MS // 2) / 1000)
    return pb.WatchReply(sequence=message.acknowledged, lease_ms=LEASE_MS)
