"""Who should read which partition: balanced, and as it was where that is possible.

As the server-side uniform assignor of KIP-848: every partition goes to one member subscribed to its
topic; no member has two more than another that could take one of them; and a partition moves only
if the balance needs it. The result depends on nothing but the arguments.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

TopicPartition = tuple[str, int]


def assign(
    partitions: Mapping[str, int],
    subscriptions: Mapping[str, frozenset[str]],
    current: Mapping[TopicPartition, str],
) -> dict[TopicPartition, str]:
    """The member of each partition. `partitions` counts those of each topic that exists;
    `subscriptions` are the topics of each member. Topics without subscribers are left out."""
    pools = _pools(partitions, subscriptions)
    loads = dict.fromkeys(sorted(subscriptions), 0)
    owned: list[dict[str, list[TopicPartition]]] = []  # per pool: what each member has
    for members, topics in pools:
        has: dict[str, list[TopicPartition]] = {member: [] for member in members}
        free: list[TopicPartition] = []
        for topic in topics:
            for number in range(partitions[topic]):
                owner = current.get((topic, number), "")  # no member has that id
                has.get(owner, free).append((topic, number))
        for member, some in has.items():
            loads[member] += len(some)
        owned.append(has)
        _give(free, has, loads)
    _balance(owned, loads)
    return {p: member for has in owned for member, some in has.items() for p in some}


def _pools(
    partitions: Mapping[str, int], subscriptions: Mapping[str, frozenset[str]]
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Topics grouped by who subscribed to them, those with fewest subscribers first."""
    pools: dict[tuple[str, ...], list[str]] = {}
    for topic in sorted(partitions):
        members = tuple(m for m in sorted(subscriptions) if topic in subscriptions[m])
        if members:
            pools.setdefault(members, []).append(topic)
    return sorted(pools.items(), key=lambda pool: (len(pool[0]), pool[0]))


def _give(
    free: Sequence[TopicPartition], has: dict[str, list[TopicPartition]], loads: dict[str, int]
) -> None:
    """Each free partition to the member that has least."""
    heap = [(loads[member], member) for member in has]
    heapq.heapify(heap)
    for partition in free:
        load, member = heap[0]
        has[member].append(partition)
        loads[member] = load + 1
        heapq.heapreplace(heap, (load + 1, member))


def _balance(owned: list[dict[str, list[TopicPartition]]], loads: dict[str, int]) -> None:
    """Move partitions, the last ones first, until no move would help.

    Each move makes the sum of the squared loads smaller, so this ends.
    """
    moved = True
    while moved:
        moved = False
        for has in owned:
            while True:
                giver = max((m for m in has if has[m]), key=lambda m: (loads[m], m), default=None)
                taker = min(has, key=lambda m: (loads[m], m))
                if giver is None or loads[giver] - loads[taker] < 2:
                    break
                has[taker].append(has[giver].pop())
                loads[giver] -= 1
                loads[taker] += 1
                moved = True
