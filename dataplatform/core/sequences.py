"""Idempotent producers: what a partition remembers of each, and what that says of a batch (KIP-98).

A producer numbers its records per partition. What is remembered is, for the last five appends, the
run of sequences that it covered and the offset that it got: an append repeated after a lost reply
falls into such a run and gets the offset of then; a new one must follow the last run without a gap.

A run is a whole part of an append, whose batches lie one behind the other, so a part of many
batches is remembered as one.
"""

from __future__ import annotations

from typing import NamedTuple

from ..base.errors import Conflict, Stale
from ..keyspace.records import Producer
from .batches import SEQUENCE_MASK, Batch

RUNS_MAX = 5
"""Appends that a producer may have under way per partition, as max.in.flight in Kafka."""

IDLE_NS = 7 * 24 * 3600 * 10**9
"""A producer that appended nothing for so long is forgotten (transactional.id.expiration.ms)."""


class Stored(NamedTuple):
    """Where a repeated batch was stored the first time."""

    base_offset: int
    append_time_ms: int


def find_stored(known: Producer | None, batch: Batch) -> Stored | None:
    """Where the batch was stored before; None if it is the next one to store.

    STALE if a newer instance of the producer took over (its epoch is higher), CONFLICT if the
    batch is not the next one.
    """
    if known is None or batch.producer_epoch > known.epoch:
        _expect(batch, 0, "a new producer's first sequence in a partition must be 0")
        return None
    if batch.producer_epoch < known.epoch:
        raise Stale(
            "the producer was replaced by a newer instance: init a new producer",
            producer_id=batch.producer_id,
            epoch=batch.producer_epoch,
            current_epoch=known.epoch,
        )
    for first, last, base_offset, append_time_ms in reversed(known.batches):
        skipped = (batch.base_sequence - first) & SEQUENCE_MASK
        if skipped + batch.records <= ((last - first) & SEQUENCE_MASK) + 1:
            return Stored(base_offset + skipped, append_time_ms)
    _expect(
        batch,
        (known.batches[-1][1] + 1) & SEQUENCE_MASK,
        "a producer's sequences have a gap, or an append older than the last five came again",
    )
    return None


def _expect(batch: Batch, expected: int, message: str) -> None:
    if batch.base_sequence != expected:
        raise Conflict(
            message,
            producer_id=batch.producer_id,
            sequence=batch.base_sequence,
            expected=expected,
        )


def remember(
    known: Producer | None, batch: Batch, base_offset: int, now_ns: int, *, same_part: bool
) -> Producer:
    """After storing the batch. `same_part`: its producer's last run is of the same part."""
    last = batch.last_sequence
    if known is None or known.epoch != batch.producer_epoch:
        known = Producer(batch.producer_epoch, [])
    known.time_ns = now_ns
    run = known.batches[-1] if known.batches else None
    if same_part and run is not None and _ends_at(run, base_offset):
        run[1] = last
    else:
        known.batches.append([batch.base_sequence, last, base_offset, now_ns // 1_000_000])
        del known.batches[:-RUNS_MAX]
    return known


def _ends_at(run: list[int], offset: int) -> bool:
    first, last, base_offset, _ = run
    return base_offset + ((last - first) & SEQUENCE_MASK) + 1 == offset
