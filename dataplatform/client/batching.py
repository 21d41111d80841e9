"""Records gathered into batches per partition: the part of a producer that only decides.

A batch is open (records join it), then ready (in the order in which it goes out), then under way,
then done. A partition has at most one that is open. Nothing here waits or sends; `Producer` holds
its lock around every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base.errors import PlatformError
from ..base.limits import BATCH_BYTES_MAX, KIB, MIB
from .records import BatchBuilder

if TYPE_CHECKING:
    from .producers import Producer

REQUEST_BYTES = 4 * MIB
"""Batches of one request: they share a commit. Half of them may come from one partition."""

SEQUENCES = 2**31
"""Kafka's sequence numbers wrap to 0 behind 2³¹ - 1."""

RECORD_BYTES_MAX = BATCH_BYTES_MAX - KIB


@dataclass(slots=True, eq=False)
class Partition:
    """Where batches go, and the sequence number of the next record there."""

    producer: Producer
    topic: str
    number: int
    sequence: int = 0
    open: Batch | None = None


class Batch:
    """Records on their way to one partition."""

    __slots__ = (
        "base_offset",
        "builder",
        "count",
        "encoded",
        "error",
        "is_done",
        "number",
        "partition",
        "since_s",
        "size_bytes",
        "time_ms",
    )

    def __init__(self, partition: Partition, builder: BatchBuilder, since_s: float) -> None:
        self.partition = partition
        self.builder = builder
        self.since_s = since_s
        self.number = 0
        self.count = 0
        self.size_bytes = 0
        self.encoded: bytes | bytearray = b""
        self.is_done = False
        self.base_offset = -1
        self.time_ms = 0
        self.error: PlatformError | None = None


SPENT = BatchBuilder(0)
"""Stands for the builder of a batch that is encoded, so that its memory is free."""


class Batches:
    """All batches of a producer that are not done."""

    def __init__(
        self, batch_bytes: int, linger_s: float, is_ready: Callable[[Partition], None]
    ) -> None:
        """`is_ready` is told of every partition of which a batch is going to leave."""
        self._is_ready = is_ready
        self.batch_bytes = batch_bytes
        self.linger_s = linger_s
        self.unfinished: dict[int, Batch] = {}  # ready or under way, by number, oldest first
        self.unfinished_bytes = 0
        self._open: set[Batch] = set()
        self._ready: deque[Batch] = deque()
        self._number = 0

    def open(self, partition: Partition, now_s: float) -> Batch:
        """The open batch of a partition."""
        batch = partition.open
        if batch is None:
            builder = BatchBuilder(self.batch_bytes)
            batch = partition.open = Batch(partition, builder, now_s)
            self._open.add(batch)
        return batch

    def make_ready(self, batch: Batch) -> None:
        """No more records join it; it goes out behind those that are ready."""
        if batch.partition.open is batch:
            batch.partition.open = None
            self._open.discard(batch)
        batch.count = batch.builder.count
        batch.size_bytes = batch.builder.size_bytes
        self._number += 1
        batch.number = self._number
        self.unfinished[batch.number] = batch
        self.unfinished_bytes += batch.size_bytes
        self._ready.append(batch)
        self._is_ready(batch.partition)

    def make_partition_ready(self, partition: Partition) -> None:
        if partition.open is not None:
            self.make_ready(partition.open)

    def make_all_ready(self) -> int:
        """The number of the last batch: when all up to it are done, so is all that was sent."""
        for batch in list(self._open):
            self.make_ready(batch)
        return self._number

    def due(self, now_s: float) -> dict[Partition, list[Batch]]:
        """The batches of the next request, taken in order."""
        for batch in [b for b in self._open if now_s >= b.since_s + self.linger_s]:
            self.make_ready(batch)
        taken: dict[Partition, list[Batch]] = {}
        size = 0
        while self._ready and (not taken or size + self._ready[0].size_bytes <= REQUEST_BYTES):
            batch = self._ready.popleft()
            size += batch.size_bytes
            taken.setdefault(batch.partition, []).append(batch)
        return taken

    def next_due_s(self, now_s: float) -> float | None:
        """How long until an open batch is due; None: there is none."""
        if not self._open:
            return None
        first = min(batch.since_s for batch in self._open)
        return max(first + self.linger_s - now_s, 0.0)

    def done(self, batch: Batch) -> None:
        batch.is_done = True
        batch.builder = SPENT
        batch.encoded = b""
        self.unfinished.pop(batch.number, None)
        self.unfinished_bytes -= batch.size_bytes

    def is_done_up_to(self, number: int) -> bool:
        first = next(iter(self.unfinished), None)
        return first is None or first > number

    def drop_waiting(self) -> Iterator[Batch]:
        """Take every batch that is not under way."""
        self.make_all_ready()
        while self._ready:
            yield self._ready.popleft()
