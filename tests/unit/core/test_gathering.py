"""Records that are gathered stay what they were, say where they are from, and lose nothing."""

from __future__ import annotations

import random

import pytest

from dataplatform.base.errors import Corrupt
from dataplatform.core import batches
from dataplatform.core.encoding import batches_of
from dataplatform.core.gathering import origins
from dataplatform.core.gathering.origins import partition_for, with_origins

Lines = list[tuple[int, bytes, bytes, tuple[tuple[str, bytes], ...]]]


def lines(rng: random.Random, count: int) -> Lines:
    sizes = (0, 1, 5, 60, 63, 64, 127, 200, 9000, 20_000)
    return [
        (
            10_000 + rng.choice((0, 1, 5, -3, 70_000)),
            rng.randbytes(rng.choice(sizes)),
            rng.randbytes(rng.choice((0, 3, 63, 64, 300))),
            tuple((f"h{n}", rng.randbytes(n * 20)) for n in range(rng.choice((0, 0, 1, 3)))),
        )
        for _ in range(count)
    ]


def stored(given: Lines, base: int) -> bytes:
    """As it is fetched: each batch with its offset."""
    out = []
    for data in batches_of(given):
        (batch,) = batches.parse(data)
        out.append(batches.numbered(batch, base))
        base += batch.records
    return b"".join(out)


@pytest.mark.parametrize("is_slow", [False, True])
def test_as_they_were_but_for_their_origin(
    monkeypatch: pytest.MonkeyPatch, seed: int, is_slow: bool
) -> None:
    if is_slow:
        monkeypatch.setattr(origins, "_whole", lambda *given: None)
    rng = random.Random(seed)
    for _ in range(30):
        base = rng.choice((0, 7, 10**12))
        given = lines(rng, rng.choice((1, 2, 100, 300)))
        skip = rng.choice((0, 0, 1, len(given) // 2))
        made, after, count = with_origins(stored(given, base), "/east/p:t/3", base + skip)
        assert (after, count) == (base + len(given), len(given) - skip)
        found = _decoded(made)
        assert len(found) == count
        for number, ((time_ms, value, key, headers), got) in enumerate(
            zip(given[skip:], found, strict=True), base + skip
        ):
            assert got[:3] == (time_ms, key, value)
            expected = [*headers, ("dp-origin", b"/east/p:t/3/%d" % number)]
            assert got[3] == expected


def _decoded(made: list[bytes]) -> list[tuple[int, bytes, bytes, list[tuple[str, bytes]]]]:
    from aiokafka.record.default_records import DefaultRecordBatch

    found = []
    for data in made:
        batches.parse(data)  # it can be appended
        for record in DefaultRecordBatch(data):
            found.append((record.timestamp, record.key or b"", record.value, list(record.headers)))
    return found


def test_both_ways_make_the_same(seed: int) -> None:
    rng = random.Random(seed)
    given = [
        (1000 + n, rng.randbytes(rng.randrange(300)), b"k", (("a", b"b"),) if n % 2 else ())
        for n in range(200)
    ]
    data = stored(given, 50)
    quick, *_ = with_origins(data, "/e/s:t/0", 50)
    whole = origins._whole
    try:
        origins._whole = lambda *more: None  # type: ignore[assignment]
        slow, *_ = with_origins(data, "/e/s:t/0", 50)
    finally:
        origins._whole = whole
    assert quick == slow


def test_what_is_damaged_is_refused(seed: int) -> None:
    rng = random.Random(seed)
    data = stored(lines(rng, 5), 0)
    (batch,) = batches.parse(data)
    head = batches.HEAD.unpack_from(batch.data)
    packed = bytes(batch.data[batches.HEAD_BYTES :])
    for change in (packed[:-1], packed[: len(packed) // 2], b"\xff" * len(packed), b""):
        broken = batches.build(
            change or b"\x00" * 40,
            records=batch.records,
            attributes=head[5] if change else 0,
            first_ms=head[7],
            max_ms=head[8],
        )
        with pytest.raises(Corrupt):
            with_origins(broken, "/e/s:t/0", 0)
    with pytest.raises(Corrupt, match="gap"):
        with_origins(stored(lines(rng, 2), 10), "/e/s:t/0", 5)


def test_a_partition_goes_to_one_partition() -> None:
    places = [("east", f"/s{n}", "t", p) for n in range(100) for p in range(4)]
    targets = [partition_for(*place, 8) for place in places]
    assert targets == [partition_for(*place, 8) for place in places]
    assert set(targets) == set(range(8))
