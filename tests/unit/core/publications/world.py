"""Publications for tests: begun by name, run to their end, and read back from the stream."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from aiokafka.record.memory_records import MemoryRecords

from dataplatform.core import streams
from dataplatform.core.change_words import ALL, Wanted
from dataplatform.core.namespace import Attributes
from dataplatform.core.platform import Platform
from dataplatform.core.publications.publishing import Listed
from dataplatform.core.units import Request
from dataplatform.keyspace.records import Kind
from tests.model.platform_driver import Driver
from tests.principals import admin

BOSS = Request(admin("boss"))


class Copied(NamedTuple):
    partition: int
    key: str
    headers: dict[str, str]
    value: dict[str, Any]


async def make_stream(driver: Driver, path: str, partitions: int = 1) -> None:
    settings = {"partitions": partitions, "ttl_ms": 0, "compression": "lz4", "bytes_max": 0}
    await driver.make(path, Attributes(Kind.STREAM, settings=settings), durable=True)


async def publish(
    platform: Platform,
    path: str,
    stream: str,
    *,
    request: Request = BOSS,
    wanted: Wanted = ALL,
    since: int | None = None,
    restart: bool = False,
) -> None:
    source = await platform.locate(path)
    target = await platform.locate(stream)
    try:
        await platform.publications.publish(
            request, source, target, "feed", wanted, since, restart=restart
        )
    finally:
        platform.release(source.volume)
        platform.release(target.volume)


async def unpublish(
    platform: Platform, stream: str, path: str = "", request: Request = BOSS
) -> None:
    target = await platform.locate(stream)
    try:
        await platform.publications.unpublish(request, target, "feed", path)
    finally:
        platform.release(target.volume)


async def settle(platform: Platform) -> None:
    """Everything is durable, and copied."""
    for _ in range(1000):
        for volume in platform.volumes:
            await volume.sync()
        platform.publications.woken.clear()
        await platform.publications.run_once()
        if not platform.publications.woken.is_set():
            return
    raise AssertionError("the publications have no end")


async def copied(platform: Platform, stream: str, topic: str = "feed") -> list[Copied]:
    node = await platform.locate(stream)
    volume, number = node.volume, node.inode.number
    found = []
    try:
        (listed,) = await streams.topics(volume, number, [topic])
        for ends in listed.partitions:
            at = ends.start_offset
            while at < ends.end_offset:
                position = streams.Position(topic, ends.partition, at)
                (fetched,) = await streams.fetch(volume, number, [position], wait_s=0)
                records = MemoryRecords(b"".join(fetched.buffers))
                while records.has_next():
                    for record in records.next_batch():
                        assert record.offset == at
                        at += 1
                        headers = {name: value.decode() for name, value in record.headers}
                        value = json.loads(record.value)
                        key = record.key.decode()
                        found.append(Copied(ends.partition, key, headers, value))
        return found
    finally:
        platform.release(volume)


async def said(platform: Platform, stream: str, topic: str = "feed") -> list[str]:
    found = await copied(platform, stream, topic)
    return [f"{each.value['event']} {each.value['path']}" for each in found]


async def listed(platform: Platform) -> Listed:
    (only,) = await platform.publications.listed(BOSS)
    return only
