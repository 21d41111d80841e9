"""Changes.*: unpack, one core call, pack."""

from __future__ import annotations

import json
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.core import changes
from dataplatform.core.changes import Change

from ..dispatch import Call, rpc

WAIT_MS_MAX = 60_000


@rpc("Changes.Read")
async def read(call: Call, message: pb.ChangesRequest, data: Any) -> pb.ChangesReply:
    node = await call.node(message.target)
    path = await node.volume.path_of(node.inode.number)
    above = await call.platform.catalog.mount_path(node.volume.id)
    found, after = await changes.read(
        node.volume,
        path,
        message.since,
        message.limit,
        min(message.wait_ms, WAIT_MS_MAX) / 1000,
        call.ask,
    )
    return pb.ChangesReply(changes=[_change(c, above.rstrip("/")) for c in found], next=after)


def _change(change: Change, above: str) -> pb.Change:
    event = change.event
    facts = {k: _text(v, above if k in ("from", "to") else "") for k, v in event.facts.items()}
    return pb.Change(
        commit=change.commit,
        time_ns=change.time_ns,
        principal=change.principal,
        event=event.verb,
        path=(above + event.path).rstrip("/") or "/",
        kind=event.kind,
        facts=facts,
    )


def _text(value: Any, above: str) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return above + value
    return json.dumps(value)
