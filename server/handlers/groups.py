"""Groups.*: unpack, one core call, pack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.core import groups

from ..dispatch import Call, rpc
from .namespace import done
from .streams import stream_node


def commits_of(message: pb.CommitOffsetsRequest) -> list[groups.Commit]:
    return [groups.Commit(p.topic, p.partition, p.offset, p.metadata) for p in message.parts]


def _owned(partitions: Iterable[tuple[str, int]]) -> list[pb.Owned]:
    return [pb.Owned(topic=topic, partition=number) for topic, number in partitions]


def _membership(membership: groups.Membership) -> pb.MembershipReply:
    return pb.MembershipReply(
        member=membership.member,
        epoch=membership.epoch,
        assigned=_owned(membership.assigned),
        heartbeat_ms=membership.heartbeat_ms,
    )


@rpc("Groups.Join")
async def join(call: Call, message: pb.JoinGroupRequest, data: Any) -> pb.MembershipReply:
    node = await stream_node(call, message.stream)
    membership = await node.volume.groups.join(
        node.inode.number,
        message.group,
        message.member,
        message.topics,
        session_timeout_ms=message.session_timeout_ms,
        program=message.program,
        request=call.ask(),
    )
    return _membership(membership)


@rpc("Groups.Heartbeat")
async def heartbeat(call: Call, message: pb.HeartbeatRequest, data: Any) -> pb.MembershipReply:
    node = await stream_node(call, message.stream)
    coordinator, stream = node.volume.groups, node.inode.number
    if message.leave:
        await coordinator.leave(stream, message.group, message.member, message.epoch, call.ask())
        return pb.MembershipReply(member=message.member, epoch=message.epoch)
    membership = await coordinator.heartbeat(
        stream,
        message.group,
        message.member,
        message.epoch,
        [(owned.topic, owned.partition) for owned in message.owned],
        request=call.ask(),
    )
    return _membership(membership)


@rpc("Groups.Commit", answer=done)
async def commit(call: Call, message: pb.CommitOffsetsRequest, data: Any) -> pb.Empty:
    node = await stream_node(call, message.stream)
    await node.volume.run(
        call.request(message),
        lambda unit: groups.commit_offsets(
            unit,
            node.inode.number,
            message.group,
            commits_of(message),
            member=message.member,
            epoch=message.epoch,
        ),
        durable=call.durable(message, customary=True),
    )
    return pb.Empty()


@rpc("Groups.Describe")
async def describe(call: Call, message: pb.GroupRequest, data: Any) -> pb.GroupsReply:
    node = await stream_node(call, message.stream)
    found = await groups.describe(node.volume, node.inode.number, message.group, call.ask())
    return pb.GroupsReply(groups=[_group(group) for group in found])


def _group(group: groups.GroupView) -> pb.GroupsReply.Group:
    return pb.GroupsReply.Group(
        name=group.name,
        epoch=group.epoch,
        members=[
            pb.GroupsReply.Member(
                member=member.member, program=member.program, assigned=_owned(member.assigned)
            )
            for member in group.members
        ],
        offsets=[pb.GroupsReply.Offset(**offset._asdict()) for offset in group.offsets],
    )


@rpc("Groups.Delete", answer=done)
async def delete(call: Call, message: pb.DeleteGroupRequest, data: Any) -> pb.Empty:
    node = await stream_node(call, message.stream)
    await node.volume.run(
        call.request(message),
        lambda unit: groups.delete_group(unit, node.inode.number, message.group),
        durable=True,
    )
    return pb.Empty()
