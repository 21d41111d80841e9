"""What the audit appends is what Kafka's own codec reads."""

from __future__ import annotations

import random

import pytest

from dataplatform.core import batches
from dataplatform.core.audit.encoding import BATCH_BYTES, batches_of
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


def test_batches_are_cut() -> None:
    data = b"".join(batches_of((0, bytes(BATCH_BYTES // 3)) for _ in range(10)))
    assert len(batches.parse(data)) == 4
    assert list(batches_of([])) == []
