"""Consumer groups: assignment, handing over, fencing, offsets."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.base.clock import ManualClock
from dataplatform.base.errors import Conflict, Invalid, NotFound, Stale
from dataplatform.core import groups, streams
from dataplatform.core.assignments import TopicPartition, assign
from dataplatform.core.memberships import HEARTBEAT_MS, HEARTBEAT_MS_MOVING, Coordinator, Membership
from dataplatform.core.units import SYSTEM
from dataplatform.core.volumes import Volume
from dataplatform.engine.memory import MemoryStorages
from dataplatform.keyspace import keys
from tests.streaming import new_stream, open_or_create, produce

# ---------------------------------------------------------------- assignment

MEMBERS = "abcdef"
TOPICS = "xyz"


def check_assignment(
    target: dict[TopicPartition, str],
    partitions: dict[str, int],
    subscriptions: dict[str, frozenset[str]],
) -> None:
    subscribed = {t for topics in subscriptions.values() for t in topics}
    assert set(target) == {
        (t, n) for t in partitions if t in subscribed for n in range(partitions[t])
    }
    loads = Counter(dict.fromkeys(subscriptions, 0))
    loads.update(target.values())
    for (topic, _), owner in target.items():
        assert topic in subscriptions[owner]
        for member, topics in subscriptions.items():
            if topic in topics:
                assert loads[owner] - loads[member] <= 1


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 12)),
            st.dictionaries(
                st.sampled_from(MEMBERS), st.frozensets(st.sampled_from(TOPICS), min_size=1)
            ),
        ),
        max_size=6,
    )
)
def test_assignments_are_whole_balanced_and_settle(
    steps: list[tuple[dict[str, int], dict[str, frozenset[str]]]],
) -> None:
    current: dict[TopicPartition, str] = {}
    for partitions, subscriptions in steps:
        current = assign(partitions, subscriptions, current)
        check_assignment(current, partitions, subscriptions)
        assert assign(partitions, subscriptions, current) == current


def test_only_what_the_balance_needs_moves() -> None:
    two = {m: frozenset("x") for m in "ab"}
    old = assign({"x": 12}, two, {})
    new = assign({"x": 12}, {**two, "c": frozenset("x")}, old)
    assert Counter(new.values()) == {"a": 4, "b": 4, "c": 4}
    assert sum(old[p] != new[p] for p in old) == 4
    again = assign({"x": 12}, two, new)
    assert all(new[p] == again[p] for p in new if new[p] != "c")


def test_many_partitions_are_assigned_quickly() -> None:
    subscriptions = {f"m{i}": frozenset(("x",)) for i in range(100)}
    target = assign({"x": 10_000}, subscriptions, {})
    assert set(Counter(target.values()).values()) == {100}


# ---------------------------------------------------------------- members


class Client:
    """A member as the client library is one: it works on what it was told, then says so."""

    def __init__(self, coordinator: Coordinator, stream: int, name: str, *topics: str) -> None:
        self.coordinator, self.stream, self.name, self.topics = coordinator, stream, name, topics
        self.works_on: set[TopicPartition] = set()
        self.last = Membership(name, 0, [], 0)

    async def join(self, **options: Any) -> None:
        self.works_on = set()
        self.take(await self.coordinator.join(self.stream, "g", self.name, self.topics, **options))

    async def beat(self) -> None:
        owned = sorted(self.works_on)
        self.take(
            await self.coordinator.heartbeat(self.stream, "g", self.name, self.last.epoch, owned)
        )

    def take(self, membership: Membership) -> None:
        assert membership.member == self.name
        self.last = membership
        self.works_on = set(membership.assigned)


@contextlib.asynccontextmanager
async def opened(partitions: int = 4) -> AsyncIterator[tuple[Volume, int]]:
    storages = MemoryStorages()
    volume = await open_or_create(storages, ManualClock())
    stream = await new_stream(volume, partitions=partitions)
    await create_topic(volume, stream, "x", partitions)
    yield volume, stream
    await volume.close()
    await storages.close()


async def create_topic(volume: Volume, stream: int, name: str, partitions: int) -> None:
    await volume.run(
        SYSTEM, lambda unit: streams.create_topic(unit, stream, name, partitions), durable=True
    )


def numbers(client: Client) -> list[int]:
    return sorted(number for _, number in client.works_on)


async def test_a_partition_is_handed_over_only_after_it_was_let_go() -> None:
    async with opened() as (volume, stream):
        a, b = (Client(volume.groups, stream, name, "x") for name in "ab")
        assert not volume.groups.active
        await a.join()
        assert volume.groups.active
        assert numbers(a) == [0, 1, 2, 3]
        assert a.last.heartbeat_ms == HEARTBEAT_MS
        await b.join()
        assert numbers(b) == []
        assert b.last.heartbeat_ms == HEARTBEAT_MS_MOVING
        before = a.last.epoch
        await a.beat()  # is told
        assert numbers(a) == [0, 1]
        assert a.last.epoch > before
        await b.beat()
        assert numbers(b) == []  # a has not said yet that it let go
        await a.beat()  # says so
        await b.beat()
        assert numbers(b) == [2, 3]
        await a.beat()
        assert numbers(a) == [0, 1]
        assert a.last.heartbeat_ms == HEARTBEAT_MS


async def test_who_still_works_on_it_keeps_it() -> None:
    async with opened() as (volume, stream):
        a, b = (Client(volume.groups, stream, name, "x") for name in "ab")
        await a.join()
        await b.join()
        await a.beat()
        for _ in range(3):  # it was told, and goes on finishing its work
            a.works_on = {("x", n) for n in range(4)}
            await a.beat()
            await b.beat()
            assert numbers(b) == []
        a.works_on = {("x", 0), ("x", 1), ("x", 2)}
        await a.beat()
        await b.beat()
        assert numbers(b) == [3]


async def test_a_late_heartbeat_lets_go_of_nothing() -> None:
    async with opened() as (volume, stream):
        a, b = (Client(volume.groups, stream, name, "x") for name in "ab")
        await a.join()
        early = a.last.epoch
        await b.join()
        await a.beat()
        # Sent before a knew of the new assignment, and before it began to work: proves nothing.
        await volume.groups.heartbeat(stream, "g", "a", early, [])
        await b.beat()
        assert numbers(b) == []


async def test_leaving_and_expiring_free_at_once() -> None:
    async with opened() as (volume, stream):
        clock = volume.clock
        assert isinstance(clock, ManualClock)
        a, b, c = (Client(volume.groups, stream, name, "x") for name in "abc")
        await a.join(session_timeout_ms=10_000)
        await b.join(session_timeout_ms=10_000)
        await c.join(session_timeout_ms=30_000)
        for client in (a, b, c) * 3:
            await client.beat()
        assert sorted(numbers(a) + numbers(b) + numbers(c)) == [0, 1, 2, 3]
        await volume.groups.leave(stream, "g", "a", a.last.epoch)
        await volume.groups.leave(stream, "g", "a", a.last.epoch)
        for client in (b, c) * 2:
            await client.beat()
        assert sorted(numbers(b) + numbers(c)) == [0, 1, 2, 3]
        with pytest.raises(Stale):
            await a.beat()
        clock.advance(10)
        await c.beat()  # drives the expiry of b
        assert numbers(c) == [0, 1, 2, 3]
        with pytest.raises(Stale):
            await b.beat()
        clock.advance(30)
        assert volume.groups.run_once(clock.monotonic()) == 1
        assert not volume.groups.active


async def test_a_restarted_server_makes_members_rejoin() -> None:
    async with opened() as (volume, stream):
        a = Client(volume.groups, stream, "a", "x")
        await a.join()
        old = a.last.epoch
        volume.clock.advance(1)  # type: ignore[attr-defined]
        a.coordinator = volume.groups = Coordinator(volume)
        with pytest.raises(Stale):
            await a.beat()
        await a.join()
        assert a.last.epoch > old
        assert numbers(a) == [0, 1, 2, 3]
        with pytest.raises(Stale):  # an instance of before
            await volume.groups.heartbeat(stream, "g", "a", old, [])


async def test_new_partitions_and_topics_are_picked_up() -> None:
    async with opened() as (volume, stream):
        a = Client(volume.groups, stream, "a", "x", "later")
        await a.join()
        await create_topic(volume, stream, "x", 6)
        await create_topic(volume, stream, "later", 1)
        await create_topic(volume, stream, "another", 1)
        await a.beat()
        assert sorted(a.works_on) == [("later", 0), *(("x", n) for n in range(6))]
        await volume.run(SYSTEM, lambda unit: streams.delete_topic(unit, stream, "x"), durable=True)
        await a.beat()
        assert sorted(a.works_on) == [("later", 0)]


async def test_a_join_repeated_is_one_member() -> None:
    async with opened() as (volume, stream):
        a = Client(volume.groups, stream, "a", "x")
        await a.join()
        await a.join()
        assert numbers(a) == [0, 1, 2, 3]
        (group,) = await groups.describe(volume, stream)
        assert [m.member for m in group.members] == ["a"]
        a.topics = ("other",)
        await a.join()
        assert numbers(a) == []
        await create_topic(volume, stream, "other", 1)
        await a.beat()
        assert sorted(a.works_on) == [("other", 0)]
        anonymous = await volume.groups.join(stream, "g", "", ["x"], program="test")
        assert len(anonymous.member) == 32


async def test_what_cannot_be_joined() -> None:
    async with opened() as (volume, stream):
        for name, topics in (
            ("", ["x"]),
            ("g" * 256, ["x"]),
            ("a\x00", ["x"]),
            ("g", []),
            ("g", [""]),
        ):
            with pytest.raises(Invalid):
                await volume.groups.join(stream, name, "m", topics)
        with pytest.raises(Invalid):
            await volume.groups.join(stream, "g", "m" * 256, ["x"])
        assert not volume.groups.active


async def test_never_two_at_once_whatever_happens(seed: int) -> None:
    """Members join, beat, are slow to let go, lose replies, leave and die, in any order."""
    rng = random.Random(seed)
    async with opened(7) as (volume, stream):
        clock = volume.clock
        assert isinstance(clock, ManualClock)
        clients = [Client(volume.groups, stream, name, "x") for name in MEMBERS]
        alive: dict[Client, float] = {}  # until when it may believe to be a member
        for _ in range(3000):
            client = rng.choice(clients)
            move = rng.random()
            try:
                if client not in alive or move < 0.02:
                    client.works_on = set()
                    await client.join(session_timeout_ms=10_000)
                elif move < 0.05:
                    await volume.groups.leave(stream, "g", client.name, client.last.epoch)
                    client.works_on = set()
                    del alive[client]
                    continue
                elif move < 0.15:  # the reply is lost
                    owned = sorted(client.works_on)
                    await volume.groups.heartbeat(
                        stream, "g", client.name, client.last.epoch, owned
                    )
                elif move < 0.4:  # is told, and still finishes something
                    before = set(client.works_on)
                    await client.beat()
                    client.works_on |= {p for p in before if rng.random() < 0.5}
                else:
                    await client.beat()
                alive[client] = clock.monotonic() + 10
            except Stale:
                client.works_on = set()
                alive.pop(client, None)
            clock.advance(rng.random() * 0.5 if rng.random() < 0.95 else 6)
            for other, until in list(alive.items()):
                if until <= clock.monotonic():  # a client drops its work when its session is over
                    other.works_on = set()
                    del alive[other]
            worked_on = Counter(p for c in clients for p in c.works_on)
            assert not worked_on or max(worked_on.values()) == 1
        for client in clients:
            await client.join()
        for _ in range(4):
            for client in clients:
                await client.beat()
        assert sorted(n for c in clients for n in numbers(c)) == list(range(7))
        assert max(len(c.works_on) for c in clients) == 2


async def test_concurrent_heartbeats() -> None:
    async with opened(9) as (volume, stream):
        clients = [Client(volume.groups, stream, name, "x") for name in MEMBERS]
        await asyncio.gather(*(client.join() for client in clients))
        for _ in range(3):
            await asyncio.gather(*(client.beat() for client in clients))
        assert sorted(n for c in clients for n in numbers(c)) == list(range(9))


# ---------------------------------------------------------------- offsets


async def commit(
    volume: Volume, stream: int, *commits: Any, member: str = "", epoch: int = 0
) -> None:
    await volume.run(
        SYSTEM,
        lambda unit: groups.commit_offsets(
            unit, stream, "g", [groups.Commit(*c) for c in commits], member=member, epoch=epoch
        ),
        durable=True,
    )


async def test_offsets_are_kept_and_described_with_lag() -> None:
    async with opened() as (volume, stream):
        await produce(volume, stream, "x", 1, [b"v"] * 10)
        await commit(volume, stream, ("x", 1, 4), ("x", 0, 0))
        await commit(volume, stream, ("x", 1, 7))
        (group,) = await groups.describe(volume, stream)
        assert (group.name, group.members, group.epoch) == ("g", [], 0)
        assert [(o.topic, o.partition, o.offset, o.lag) for o in group.offsets] == [
            ("x", 0, 0, 0),
            ("x", 1, 7, 3),
        ]
        a = Client(volume.groups, stream, "a", "x")
        await a.join()
        await volume.groups.join(stream, "other", "m", ["x"], program="prog 1")
        found = await groups.describe(volume, stream)
        assert [g.name for g in found] == ["g", "other"]
        assert found[1].members == [groups.MemberView("m", "prog 1", [("x", n) for n in range(4)])]
        with pytest.raises(NotFound):
            await groups.describe(volume, stream, "nobody")


async def test_commits_are_checked_all_or_none() -> None:
    async with opened() as (volume, stream):
        bad: Any
        for bad in (("x", 4, 0), ("nope", 0, 0)):
            with pytest.raises(NotFound):
                await commit(volume, stream, ("x", 0, 1), bad)
        for bad in (("x", 0, -1), ("..", 0, 0), ("x", 0, 0, "m" * 5000)):
            with pytest.raises(Invalid):
                await commit(volume, stream, bad)
        assert await groups.describe(volume, stream) == []


async def test_commits_of_members_are_fenced() -> None:
    async with opened() as (volume, stream):
        a, b = (Client(volume.groups, stream, name, "x") for name in "ab")
        await a.join()
        first = a.last.epoch
        await commit(volume, stream, ("x", 3, 1), member="a", epoch=first)
        await b.join()
        await a.beat()
        await commit(volume, stream, ("x", 3, 2), member="a", epoch=first)  # not let go yet
        with pytest.raises(Stale):
            await commit(volume, stream, ("x", 3, 9), member="b", epoch=b.last.epoch)
        await a.beat()
        with pytest.raises(Stale):
            await commit(volume, stream, ("x", 3, 9), member="a", epoch=a.last.epoch)
        await b.beat()
        await commit(volume, stream, ("x", 3, 3), member="b", epoch=b.last.epoch)
        with pytest.raises(Stale):
            await commit(volume, stream, ("x", 3, 9), member="c", epoch=b.last.epoch)
        with pytest.raises(Stale):
            await commit(volume, stream, ("x", 0, 9), member="a", epoch=a.last.epoch + 1000)
        # What comes back to a is not what it once held.
        await volume.groups.leave(stream, "g", "b", b.last.epoch)
        await a.beat()
        assert numbers(a) == [0, 1, 2, 3]
        with pytest.raises(Stale):
            await commit(volume, stream, ("x", 3, 2), member="a", epoch=first)
        (group,) = await groups.describe(volume, stream, "g")
        assert [o.offset for o in group.offsets] == [3]


async def test_a_group_is_deleted_when_nobody_is_in_it() -> None:
    async with opened() as (volume, stream):

        async def delete(name: str) -> None:
            await volume.run(
                SYSTEM, lambda unit: groups.delete_group(unit, stream, name), durable=True
            )

        await commit(volume, stream, ("x", 1, 4), ("x", 2, 4))
        a = Client(volume.groups, stream, "a", "x")
        await a.join()
        with pytest.raises(Conflict):
            await delete("g")
        await volume.groups.leave(stream, "g", "a", a.last.epoch)
        await delete("g")
        with pytest.raises(NotFound):
            await delete("g")
        start, end = keys.prefix_range(keys.group_offsets(stream))
        assert await volume.storage.engine.scan(start, end) == []
