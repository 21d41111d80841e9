"""Batches read by columns: what a reader of single records finds, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import assume, given
from hypothesis import strategies as st

from dataplatform.client import columns, records
from dataplatform.client.records import BatchBuilder

NOW = 1_700_000_000_000
Found = list[tuple[int, bytes | None, bytes | None]]
COUNTS = st.one_of(st.integers(1, 70), st.sampled_from([63, 64, 65, 8191, 8192, 8193, 16_400]))
LENGTHS = st.none() | st.integers(0, 150)


@dataclass
class Spec:
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def body_of(specs: list[Spec]) -> bytes:
    builder = BatchBuilder(1 << 30)
    for spec in specs:
        assert builder.add(spec.timestamp, spec.key, spec.value, spec.headers)
    return bytes(builder.build("none"))[records.HEADER_BYTES :]


def filled(length: int | None, n: int) -> bytes | None:
    return None if length is None else (b"%d" % n * length)[:length]


def alike(count: int, key: int | None, value: int | None, step_ms: int) -> list[Spec]:
    return [
        Spec(NOW + (n * step_ms) % 64, filled(key, n), filled(value, n), []) for n in range(count)
    ]


def read(body: bytes, count: int) -> Found | None:
    found = columns.read(body, count, NOW)
    return None if found is None else list(zip(*found, strict=False))


@given(count=COUNTS, key=LENGTHS, value=LENGTHS, step_ms=st.integers(0, 3))
def test_records_of_one_shape(count: int, key: int | None, value: int | None, step_ms: int) -> None:
    specs = alike(count, key, value, step_ms)
    expected = [(spec.timestamp, spec.key, spec.value) for spec in specs]
    assert read(body_of(specs), count) == expected


DEVIATIONS = {
    "timestamp": lambda spec: Spec(spec.timestamp + 100, spec.key, spec.value, []),
    "key": lambda spec: Spec(spec.timestamp, b"another", spec.value, []),
    "no value": lambda spec: Spec(spec.timestamp, spec.key, None, []),
    "longer": lambda spec: Spec(spec.timestamp, spec.key, spec.value + b"x", []),
    "swapped": lambda spec: Spec(spec.timestamp, spec.value, spec.key, []),
    "headers": lambda spec: Spec(spec.timestamp, spec.key, spec.value, [("h", b"")]),
}


@pytest.mark.parametrize("what", DEVIATIONS)
@given(count=st.integers(2, 200), data=st.data())
def test_one_record_of_another_shape(what: str, count: int, data: st.DataObject) -> None:
    specs = alike(count, 3, 20, 0)
    at = data.draw(st.integers(1, count - 1))
    specs[at] = DEVIATIONS[what](specs[at])
    # A segment of its own may have a shape of its own: then it is read, and rightly.
    expected = [(spec.timestamp, spec.key, spec.value) for spec in specs]
    found = read(body_of(specs), count)
    assert found is None or (found == expected and at == count - 1 == 64)


@given(at=st.integers(0, 5000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_read_as_the_reader_of_single_records_does(at: int, bit: int) -> None:
    specs = alike(100, None, 20, 1)
    body = bytearray(body_of(specs))
    assume(at < len(body))
    body[at] ^= 1 << bit
    found = read(bytes(body), 100)
    if found is not None:
        builder = BatchBuilder(1 << 20)
        for spec in specs:
            builder.add(spec.timestamp, spec.key, spec.value, spec.headers)
        head = bytes(builder.build("none"))[: records.HEADER_BYTES]
        single = [(r.timestamp, r.key, r.value) for r in DefaultRecordBatch(head + bytes(body))]
        assert found == single


@given(cut=st.integers(0, 3000), count=st.integers(1, 120))
def test_what_is_cut_short_or_counted_wrong_is_not_read(cut: int, count: int) -> None:
    body = body_of(alike(100, 2, 20, 0))
    assume(cut < len(body))
    assert read(body[:cut], 100) is None
    assert count == 100 or read(body, count) is None
    assert read(body + b"\x00", 100) is None


@pytest.mark.parametrize("needless", [1, 4, 5, 9, 20])
def test_numbers_with_needless_bytes(needless: int) -> None:
    # Of the key's length, which is its only byte in `plain`.
    plain = body_of([Spec(NOW, b"k", b"v", [])])
    zeros = b"\x80" * (needless - 1) + b"\x00"
    padded = bytes((plain[0] + 2 * needless, *plain[1:4], plain[4] | 0x80)) + zeros + plain[5:]
    found = read(padded, 1)
    head = bytearray(BatchBuilder(1 << 20).build("none")[: records.HEADER_BYTES])
    head[57:61] = (1).to_bytes(4, "big")
    try:
        single = [(r.key, r.value) for r in DefaultRecordBatch(bytes(head) + padded)]
    except Exception:  # of several types
        assert found is None
    else:
        assert found is None or [row[1:] for row in found] == single == [(b"k", b"v")]


@pytest.mark.parametrize("timestamp", [-(1 << 63), (1 << 63) - 64, (1 << 63) - 1])
def test_timestamps_at_the_end_of_time(timestamp: int) -> None:
    body = body_of(alike(100, None, 20, 1))
    found = columns.read(body, 100, timestamp)
    assert (found is None) == (timestamp != (1 << 63) - 64)
    assert found is None or max(found.timestamps) == (1 << 63) - 1


@given(st.binary(max_size=300), st.integers(1, 300))
def test_any_bytes(body: bytes, count: int) -> None:
    found = read(body, count)
    assert found is None or len(found) == count
