"""Consumer groups: who reads which partition, and never two at once.

The server decides, as in KIP-848: it keeps a *target* (which member should have a partition) and
for every partition its *holder* (which member may be working on it). A member learns what is
assigned to it in the replies to its heartbeats, and says in each heartbeat what it works on.

Invariants:
- A partition has at most one holder. It gets a new one only when its holder was told that it is no
  longer assigned, and has said since, knowing that, that it let go; or left; or expired.
- A member's epoch grows whenever what is assigned to it changes, and epochs are never used twice in
  a volume, restarts included (they begin at the time of opening, in ms). So a heartbeat tells by
  its epoch which assignment its sender had seen, and a late one proves nothing.
- Membership lives in memory only: members of a server that was restarted are told to rejoin
  (STALE). Offsets are stored: see `group_offsets`.

Members choose their own ids (KIP-1082), so a join that is repeated after a lost reply is the same
member, not a second one.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Denied, Invalid, Stale
from ..base.limits import GROUP_NAME_BYTES_MAX
from .assignments import TopicPartition, assign
from .topics import check_consume, check_topic_name, find_topics
from .units import SYSTEM, Request

if TYPE_CHECKING:
    from .volumes import Volume

SESSION_TIMEOUT_MS = 45_000
"""Without a heartbeat for so long a member is gone, unless it asked otherwise; as Kafka 3."""

SESSION_TIMEOUT_MS_MIN = 1_000
SESSION_TIMEOUT_MS_MAX = 30 * 60 * 1000

HEARTBEAT_MS = 3_000
"""How often members of a settled group report."""

HEARTBEAT_MS_MOVING = 200
"""How often while partitions change hands: a move takes two heartbeats of the old holder."""

MEMBERS_MAX = 1_000
"""Members of one group: a new target costs a look at each for every partition that moves."""

MEMBER_BYTES_MAX = 255


class Membership(NamedTuple):
    """What a member is told."""

    member: str
    epoch: int
    assigned: list[TopicPartition]
    heartbeat_ms: int


@dataclass(slots=True)
class Member:
    """One live member. `told` is what its last reply assigned."""

    id: str
    program: str
    topics: frozenset[str]
    session_timeout_s: float
    expires_s: float
    joined_epoch: int
    epoch: int
    told: frozenset[TopicPartition] = frozenset()
    since: dict[TopicPartition, int] = field(default_factory=dict)
    """Held: since which epoch."""
    revoked: dict[TopicPartition, int] = field(default_factory=dict)
    """Held, but no longer assigned: since which epoch the member was told so."""


@dataclass(slots=True)
class Group:
    """One group with members."""

    stream: int
    name: str
    epoch: int = 0  # of its newest target
    members: dict[str, Member] = field(default_factory=dict)
    target: dict[TopicPartition, str] = field(default_factory=dict)
    holders: dict[TopicPartition, str] = field(default_factory=dict)
    changes: int = 1  # of members and topics
    targeted: int = 0  # those that the target takes into account
    expiry_s: float = 0.0  # no session ends before this

    @property
    def settled(self) -> bool:
        return self.targeted == self.changes and self.holders == self.target


def check_group_name(name: str) -> bytes:
    encoded = name.encode("utf-8", "surrogatepass")
    if not encoded or len(encoded) > GROUP_NAME_BYTES_MAX or b"\x00" in encoded:
        raise Invalid(
            "a group's name has 1 or more bytes, up to the limit, and no NUL",
            group=name,
            bytes_max=GROUP_NAME_BYTES_MAX,
        )
    return encoded


class Coordinator:
    """The groups of one volume's streams."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._groups: dict[tuple[int, str], Group] = {}
        self._epoch = volume.clock.now_ns() // 1_000_000

    @property
    def active(self) -> bool:
        """Whether there is any live member."""
        return bool(self._groups)

    # ---- what members call

    async def join(
        self,
        stream: int,
        group_name: str,
        member_id: str,
        topics: Sequence[str],
        *,
        session_timeout_ms: int = 0,
        program: str = "",
        request: Request = SYSTEM,
    ) -> Membership:
        """Become a member, or begin anew as one: working on nothing, with these topics.

        Topics need not exist yet. An empty `member_id` gets a random one. DENIED to whoever may not
        consume.
        """
        await check_consume(self._volume, stream, request)
        if request.principal.is_read_only:
            raise Denied(
                "the token allows no change, and a member keeps others from working",
                user=request.principal.name,
                errno=errno.EACCES,
            )
        if self._volume.read_only:
            raise self._volume.refusal()  # no member could commit how far it has come
        check_group_name(group_name)
        for topic in topics:
            check_topic_name(topic)
        if not topics:
            raise Invalid("a member of a group names at least one topic", group=group_name)
        if len(member_id.encode("utf-8", "surrogatepass")) > MEMBER_BYTES_MAX:
            raise Invalid("a member's id is too long", bytes_max=MEMBER_BYTES_MAX)
        now = self._volume.clock.monotonic()
        self._expire(stream, group_name, now)
        group = self._groups.get((stream, group_name)) or Group(stream, group_name)
        if len(group.members) >= MEMBERS_MAX and member_id not in group.members:
            raise Invalid("the group is full", group=group_name, members_max=MEMBERS_MAX)
        self._groups[stream, group_name] = group
        member_id = member_id or self._volume.entropy.token(16).hex()
        timeout_s = _timeout_s(session_timeout_ms)
        epoch = self._next_epoch()
        old = group.members.get(member_id)
        if old is not None:
            self._release(group, old, set(old.since))
        member = Member(
            member_id, program, frozenset(topics), timeout_s, now + timeout_s, epoch, epoch
        )
        group.members[member_id] = member
        group.expiry_s = min(group.expiry_s, member.expires_s)
        group.changes += 1
        return await self._reconcile(group, member)

    async def heartbeat(
        self,
        stream: int,
        group_name: str,
        member_id: str,
        epoch: int,
        owned: Sequence[TopicPartition],
        request: Request = SYSTEM,
    ) -> Membership:
        """`owned` is what the member works on right now. STALE: it must join again. DENIED to
        whoever may not consume any more: the session of such a member runs out."""
        await check_consume(self._volume, stream, request)
        now = self._volume.clock.monotonic()
        self._expire(stream, group_name, now)
        group, member = self._member(stream, group_name, member_id, epoch)
        member.expires_s = now + member.session_timeout_s
        # What it knows to be revoked, and says it let go of.
        works_on = set(owned)
        self._release(
            group,
            member,
            {p for p, e in member.revoked.items() if epoch >= e and p not in works_on},
        )
        return await self._reconcile(group, member)

    async def leave(
        self,
        stream: int,
        group_name: str,
        member_id: str,
        epoch: int,
        request: Request = SYSTEM,
    ) -> None:
        """What it held is free at once. Leaving twice is fine. DENIED to whoever may not consume:
        members choose their ids, so others may know them."""
        await check_consume(self._volume, stream, request)
        group = self._groups.get((stream, group_name))
        member = group.members.get(member_id) if group is not None else None
        if group is not None and member is not None and epoch >= member.joined_epoch:
            self._remove(group, member)

    def check_fence(
        self,
        stream: int,
        group_name: str,
        member_id: str,
        epoch: int,
        partitions: Sequence[TopicPartition],
    ) -> None:
        """STALE unless the member may still work on all the partitions.

        An epoch of before its last assignment is fine as long as it held them all the while, so a
        commit need not be repeated because a heartbeat overtook it (KIP-1251).
        """
        self._expire(stream, group_name, self._volume.clock.monotonic())
        _, member = self._member(stream, group_name, member_id, epoch)
        for partition in partitions:
            if not member.since.get(partition, epoch + 1) <= epoch:
                raise Stale(
                    "the partition was handed to another member: drop what was read of it",
                    group=group_name,
                    member=member_id,
                    topic=partition[0],
                    partition=partition[1],
                )

    # ---- what others call

    def topics_changed(self, stream: int) -> None:
        """Topics or partitions came or went: the stream's groups need new targets."""
        for group in self._groups.values():
            if group.stream == stream:
                group.changes += 1

    def run_once(self, now_s: float) -> int:
        """Remove members whose session ran out; how many. `now_s` is of `Clock.monotonic`."""
        return sum(self._expire(stream, name, now_s) for stream, name in list(self._groups))

    def find(self, stream: int, group_name: str) -> Group | None:
        """A group that has members."""
        return self._groups.get((stream, group_name))

    def names(self, stream: int) -> list[str]:
        """Groups of a stream that have members."""
        return sorted(name for number, name in self._groups if number == stream)

    # ---- inside

    def _member(
        self, stream: int, group_name: str, member_id: str, epoch: int
    ) -> tuple[Group, Member]:
        group = self._groups.get((stream, group_name))
        member = group.members.get(member_id) if group is not None else None
        if group is None or member is None or not member.joined_epoch <= epoch <= member.epoch:
            raise _unknown(group_name, member_id, epoch)
        return group, member

    def _next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    async def _reconcile(self, group: Group, member: Member) -> Membership:
        """Bring the member as near to the target as the other holders allow."""
        await self._retarget(group)
        if group.members.get(member.id) is not member:  # it left or expired meanwhile
            raise _unknown(group.name, member.id, member.epoch)
        wanted = [p for p, owner in group.target.items() if owner == member.id]
        assigned = frozenset(
            p for p in wanted if group.holders.setdefault(p, member.id) == member.id
        )
        if assigned != member.told:
            member.epoch = self._next_epoch()
            member.told = assigned
            for partition in assigned:
                member.since.setdefault(partition, member.epoch)
                member.revoked.pop(partition, None)
            for partition in member.since:
                if partition not in assigned:
                    member.revoked.setdefault(partition, member.epoch)
        heartbeat_ms = min(
            HEARTBEAT_MS if group.settled else HEARTBEAT_MS_MOVING,
            int(member.session_timeout_s * 1000 / 3),
        )
        return Membership(member.id, member.epoch, sorted(assigned), heartbeat_ms)

    async def _retarget(self, group: Group) -> None:
        """A new target, unless nothing changed since the last one."""
        while group.targeted != group.changes:
            changes = group.changes
            names = sorted({topic for m in group.members.values() for topic in m.topics})
            found = await find_topics(
                self._volume.storage.engine, group.stream, [name.encode() for name in names]
            )
            if group.changes != changes:
                continue
            group.target = assign(
                {name.decode(): topic.partitions for name, topic in found.items()},
                {member.id: member.topics for member in group.members.values()},
                {**group.holders, **group.target},
            )
            group.epoch = self._next_epoch()
            group.targeted = changes

    def _expire(self, stream: int, group_name: str, now_s: float) -> int:
        group = self._groups.get((stream, group_name))
        if group is None or now_s < group.expiry_s:
            return 0
        gone = [member for member in group.members.values() if member.expires_s <= now_s]
        for member in gone:
            self._remove(group, member)
        group.expiry_s = min((m.expires_s for m in group.members.values()), default=now_s)
        return len(gone)

    def _remove(self, group: Group, member: Member) -> None:
        del group.members[member.id]
        self._release(group, member, set(member.since))
        group.changes += 1
        if not group.members:
            del self._groups[group.stream, group.name]

    def _release(self, group: Group, member: Member, partitions: set[TopicPartition]) -> None:
        for partition in partitions:
            assert group.holders[partition] == member.id
            del group.holders[partition]
            del member.since[partition]
            member.revoked.pop(partition, None)


def _unknown(group_name: str, member_id: str, epoch: int) -> Stale:
    return Stale(
        "the group does not know this member any more: rejoin",
        group=group_name,
        member=member_id,
        epoch=epoch,
    )


def _timeout_s(session_timeout_ms: int) -> float:
    wanted = session_timeout_ms or SESSION_TIMEOUT_MS
    return min(max(wanted, SESSION_TIMEOUT_MS_MIN), SESSION_TIMEOUT_MS_MAX) / 1000
