"""The durable ends of partitions, and those who wait for them to grow.

Readers of a stream see only durable records (D5). An engine shows a commit before it is durable,
so for every partition appended to since the volume was opened this holds the *watermark*: the
offset up to which everything is durable. A partition that is not listed was not appended to in
this life of the volume, and then its stored end is durable, because it survived the opening.

That stays exact because an append pins the old end before it is committed (`pin`), and moves it
only once its ticket is durable (`move`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .volumes import Volume

PartitionId = tuple[int, int, int]
"""(stream's inode, topic id, partition number)."""

LISTED_MAX = 100_000
"""Partitions whose ends are held in memory; beyond it those without appends under way go."""


@dataclass(slots=True)
class Sweep:
    """Where retention stands; lost with the process, which costs a look at some streams."""

    position: bytes = b""
    producers_s: float = float("-inf")


class Partitions:
    """In-memory ends of one volume's partitions."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._ends: dict[PartitionId, int] = {}
        self._moving: dict[PartitionId, int] = {}  # committed ends that are not yet durable
        self._waiters: dict[PartitionId, set[Waiter]] = {}
        self.closed = False
        self.sweep = Sweep()

    def find_end(self, partition: PartitionId) -> int | None:
        """The watermark; None if the stored end is durable."""
        return self._ends.get(partition)

    def pin(self, partition: PartitionId, stored_end: int) -> None:
        """An append is about to be committed; so far everything up to `stored_end` is durable.

        Harmless if the append fails. It must come before the commit: an engine may show the commit
        to readers before it says so to us.
        """
        self._ends.setdefault(partition, stored_end)

    def committed(self, partition: PartitionId, end: int, ticket: int) -> None:
        """The append was committed; readers see it when its ticket is durable."""
        self._moving[partition] = end
        self._volume.lane.when_durable(ticket, lambda: self._move(partition, end))

    def _move(self, partition: PartitionId, end: int) -> None:
        if partition not in self._ends:
            return  # forgotten with its topic
        self._ends[partition] = end
        if self._moving.get(partition) == end:
            del self._moving[partition]
            if len(self._ends) > LISTED_MAX:
                self._evict()
        self.notify(partition)

    def _evict(self) -> None:
        """Drop the older half of what is still: oldest first, as dictionaries keep order."""
        still = [p for p in self._ends if p not in self._moving]
        for partition in still[: LISTED_MAX // 2]:
            del self._ends[partition]

    def forget(self, partitions: Iterable[PartitionId]) -> None:
        """Their topic was deleted. Waiting fetches look again, and find that out."""
        for partition in partitions:
            self._ends.pop(partition, None)
            self._moving.pop(partition, None)
            self.notify(partition)

    def notify(self, partition: PartitionId) -> None:
        waiters = self._waiters.get(partition)
        if waiters:
            for waiter in waiters:
                waiter.wake()

    def listen(self, partitions: list[PartitionId]) -> Waiter:
        """Use it as a context: from its beginning no change of these partitions is missed."""
        return Waiter(self, partitions)

    def add(self, partition: PartitionId, waiter: Waiter) -> None:
        self._waiters.setdefault(partition, set()).add(waiter)

    def discard(self, partition: PartitionId, waiter: Waiter) -> None:
        waiters = self._waiters.get(partition)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[partition]

    def close(self) -> None:
        """End all waits; later ones end at once."""
        self.closed = True
        for waiters in list(self._waiters.values()):
            for waiter in waiters:
                waiter.wake()


class Waiter:
    """One fetch that waits for any of its partitions."""

    def __init__(self, partitions: Partitions, wanted: list[PartitionId]) -> None:
        self._partitions = partitions
        self._wanted = wanted
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Waiter:
        for partition in self._wanted:
            self._partitions.add(partition, self)
        if self._partitions.closed:
            self.wake()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for partition in self._wanted:
            self._partitions.discard(partition, self)

    def wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """True if something changed, False if the time ran out."""
        if not self._future.done():
            await asyncio.wait((self._future,), timeout=timeout_s)
        return self._future.done()
