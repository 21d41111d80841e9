"""Namespace.Watch: what the caller's caches must drop (docs/wire.md, "Caches")."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.base.limits import KIB
from dataplatform.core.promises import LEASE_S, Broken

from ..dispatch import Call, rpc

REPORT_BYTES_MAX = 16 * KIB
"""It is kept as long as the session: two paths, and numbers."""


@rpc("Namespace.Watch")
async def watch(call: Call, message: pb.WatchRequest, data: Any) -> pb.WatchReply:
    report = None
    if message.HasField("report"):
        report = message.report
        if report.ByteSize() > REPORT_BYTES_MAX:
            raise Invalid("a mount's report is too long", bytes_max=REPORT_BYTES_MAX)
        report.session = call.session.id.hex()
    news = await call.platform.promises.watch(
        call.session.id,
        begin=message.begin,
        acknowledged=message.acknowledged,
        wait_s=message.wait_ms / 1000,
        report=report,
        principal=call.principal,
    )
    return pb.WatchReply(
        sequence=news.sequence,
        broken=[_broken_message(broken) for broken in news.broken],
        everything=news.everything,
        lease_ms=int(LEASE_S * 1000),
    )


def _broken_message(broken: Broken) -> pb.WatchReply.Broken:
    return pb.WatchReply.Broken(
        volume=broken.volume,
        inode=broken.inode,
        entries=broken.entries,
        data=broken.data,
        unlinked=broken.unlinked,
        kept=broken.kept,
        names=[name.decode("utf-8", "surrogateescape") for name in broken.names],
    )
