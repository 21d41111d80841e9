"""What the core itself appends is what Kafka's own codec reads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords

from dataplatform.core import batches
from dataplatform.core.encoding import BATCH_BYTES, batches_of
from tests.streaming import decode


@pytest.mark.parametrize("count", [1, 2, 200, 3000])
def test_batches_are_read_by_another_codec(count: int) -> None:
    rng = random.Random(count)
    lines = [
        (1_700_000_000_000 + rng.randrange(-500, 10**6), rng.randbytes(rng.randrange(0, 400)))
        for _ in range(count)
    ]
    data = b"".join(batches_of(lines))
    parsed = batches.parse(data)
    assert sum(batch.records for batch in parsed) == count
    assert max(b.max_timestamp_ms for b in parsed) == max(time_ms for time_ms, _ in lines)
    assert [value for _, value in decode([data])] == [value for _, value in lines]


def test_keys_and_headers_are_read_by_another_codec() -> None:
    headers = (("commit", b"300"), ("kind", b""), ("é", bytes(200)))
    lines = [(5, b"value", b"", ()), (6, b"", bytes(300), headers), (7, bytes(900), b"k", headers)]
    data = b"".join(batches_of(lines))
    found = list(_records(data))
    assert [(r.timestamp, r.value, r.key, tuple(r.headers)) for r in found] == lines


def test_batches_are_cut() -> None:
    data = b"".join(batches_of((0, bytes(BATCH_BYTES // 3)) for _ in range(10)))
    assert len(batches.parse(data)) == 4
    assert list(batches_of([])) == []


def _records(data: bytes) -> Iterator[Any]:
    records = MemoryRecords(data)
    while records.has_next():
        yield from records.next_batch()
