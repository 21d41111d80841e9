"""What the audit says, for tests: the records of a topic, as they stand in the stream."""

from __future__ import annotations

import json
from typing import Any

from dataplatform.core import streams
from dataplatform.core.audit import protection
from dataplatform.core.platform import Platform
from dataplatform.keyspace.records import ROOT_VOLUME
from tests.streaming import decode


async def audited(platform: Platform, topic: str) -> list[dict[str, Any]]:
    """Every record, in order of offsets, which have no gap."""
    root = await platform.acquire(ROOT_VOLUME)
    try:
        node = await platform.locate(protection.PATH)
        platform.release(node.volume)
        found: list[tuple[int, bytes]] = []
        (listed,) = await streams.topics(root, node.inode.number, [topic])
        at = listed.partitions[0].start_offset
        while at < listed.partitions[0].end_offset:
            (fetched,) = await streams.fetch(
                root, node.inode.number, [streams.Position(topic, 0, at)], size_bytes=1, wait_s=0
            )
            page = decode(fetched.buffers)
            assert [offset for offset, _ in page] == list(range(page[0][0], page[-1][0] + 1))
            found += page
            at = page[-1][0] + 1
        return [json.loads(value) for _, value in found]
    finally:
        platform.release(root)


def said(found: list[dict[str, Any]]) -> list[str]:
    return [f"{record['op']} {record.get('path', '')}" for record in found]
