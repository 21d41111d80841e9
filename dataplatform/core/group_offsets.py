"""Committed offsets of consumer groups: stored in the volume, so they share its transactions,
snapshots and mirrors. A group exists as long as it has members or committed offsets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Conflict, Invalid, NotFound
from ..engine.base import scan_all
from ..keyspace import keys
from ..keyspace.records import GroupOffset, Kind, Partition, Topic
from .access.verbs import Verb
from .assignments import TopicPartition
from .memberships import check_group_name
from .topics import (
    all_topics,
    check_consume,
    check_topic_name,
    find_topics,
    label,
    offset_key_parts,
    stream_of,
    watermark,
)
from .units import SYSTEM, Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume

METADATA_BYTES_MAX = 4096
"""As offset.metadata.max.bytes in Kafka."""

OFFSET_MAX = 2**63 - 1


class Commit(NamedTuple):
    """The next record to read of one partition."""

    topic: str
    partition: int
    offset: int
    metadata: str = ""


async def commit_offsets(
    unit: Unit,
    stream: int,
    group: str,
    commits: Sequence[Commit],
    *,
    member: str = "",
    epoch: int = 0,
) -> None:
    """Remember where the group goes on reading.

    With a member, STALE unless it may work on all these partitions (see `Coordinator`); without
    one, from outside the group, as a transaction may. NOT_FOUND for an unknown partition.
    """
    name = check_group_name(group)
    await unit.allow(await stream_of(unit, stream), Verb.CONSUME)
    if member:
        owned = [(commit.topic, commit.partition) for commit in commits]
        unit.volume.groups.check_fence(stream, group, member, epoch, owned)
    path = await unit.path_of(stream)
    names = [check_topic_name(topic) for topic in dict.fromkeys(c.topic for c in commits)]
    topics = await find_topics(unit, stream, names)
    for commit in commits:
        topic = topics.get(commit.topic.encode())
        if topic is None or commit.partition >= topic.partitions:
            raise NotFound(
                "no such partition", partition=label(path, commit.topic, commit.partition)
            )
        _check(commit)
        row = GroupOffset(commit.offset, commit.metadata, unit.now_ns)
        unit.put(keys.group_offset(stream, name, topic.id, commit.partition), row.pack())
    if commits:
        unit.event(
            "offsets committed",
            path,
            Kind.STREAM,
            group=group,
            offsets={f"{c.topic}/{c.partition}": c.offset for c in commits},
        )


def _check(commit: Commit) -> None:
    if not 0 <= commit.offset <= OFFSET_MAX:
        raise Invalid("an offset is 0 or more", offset=commit.offset)
    if len(commit.metadata.encode("utf-8", "surrogatepass")) > METADATA_BYTES_MAX:
        raise Invalid("an offset's metadata is too long", bytes_max=METADATA_BYTES_MAX)


async def delete_group(unit: Unit, stream: int, group: str) -> None:
    """Forget its offsets. CONFLICT while it has members, NOT_FOUND if there is no such group."""
    name = check_group_name(group)
    await unit.allow(await stream_of(unit, stream), Verb.CONSUME)
    live = unit.volume.groups.find(stream, group)
    if live is not None:
        raise Conflict(
            "the group has members: stop them first", group=group, members=len(live.members)
        )
    start, end = keys.prefix_range(keys.group_offsets(stream, name))
    removed = 0
    while page := await unit.scan(start, end):
        for key, _ in page:
            unit.delete(key)
        removed += len(page)
        start = page[-1][0] + b"\x00"
    if not removed:
        raise await _no_group(unit.volume, stream, group)
    unit.event("group deleted", await unit.path_of(stream), Kind.STREAM, group=group)


async def _no_group(volume: Volume, stream: int, group: str) -> NotFound:
    return NotFound("no such group", stream=await volume.path_of(stream), group=group)


# ---------------------------------------------------------------- describing


class OffsetView(NamedTuple):
    topic: str
    partition: int
    offset: int
    lag: int  # records to read up to the end
    metadata: str


class MemberView(NamedTuple):
    member: str
    program: str
    assigned: list[TopicPartition]


class GroupView(NamedTuple):
    name: str
    epoch: int  # of its newest assignment; 0 without members
    members: list[MemberView]
    offsets: list[OffsetView]


async def describe(
    volume: Volume, stream: int, group: str = "", request: Request = SYSTEM
) -> list[GroupView]:
    """One group, NOT_FOUND if there is none of that name; or all, in order of name. DENIED."""
    await check_consume(volume, stream, request)
    wanted = check_group_name(group) if group else None
    offsets = await _offsets(volume, stream, wanted)
    names = {group} if group else {*offsets, *volume.groups.names(stream)}
    views = [_view(volume, stream, name, offsets.get(name, [])) for name in sorted(names)]
    if group and not views[0].members and not views[0].offsets:
        raise await _no_group(volume, stream, group)
    return views


def _view(volume: Volume, stream: int, name: str, offsets: list[OffsetView]) -> GroupView:
    live = volume.groups.find(stream, name)
    if live is None:
        return GroupView(name, 0, [], offsets)
    members = [MemberView(m.id, m.program, sorted(m.since)) for m in live.members.values()]
    return GroupView(name, live.epoch, members, offsets)


async def _offsets(volume: Volume, stream: int, group: bytes | None) -> dict[str, list[OffsetView]]:
    """Committed offsets by group, those of deleted topics left out."""
    engine = volume.storage.engine
    topics: dict[int, tuple[str, Topic]] = {
        topic.id: (name.decode(), topic)
        for name, topic in (await all_topics(engine, stream)).items()
    }
    ends: dict[tuple[int, int], int] = {}
    found: dict[str, list[OffsetView]] = {}
    start, end = keys.prefix_range(keys.group_offsets(stream, group))
    async for key, value in scan_all(engine, start, end):
        name, topic_id, number = offset_key_parts(key)
        if topic_id not in topics:
            continue
        if (topic_id, number) not in ends:
            ends[topic_id, number] = await _end(volume, stream, topic_id, number)
        row = GroupOffset.unpack(value)
        lag = max(0, ends[topic_id, number] - row.offset)
        found.setdefault(name.decode("utf-8", "surrogatepass"), []).append(
            OffsetView(topics[topic_id][0], number, row.offset, lag, row.metadata)
        )
    for some in found.values():
        some.sort()
    return found


async def _end(volume: Volume, stream: int, topic_id: int, number: int) -> int:
    value = await volume.storage.engine.get(keys.partition(stream, topic_id, number))
    row = Partition.unpack(value) if value is not None else Partition()
    return watermark(volume, stream, topic_id, number, row)
