"""RecordBatch v2: what is accepted, and what is said about the rest."""

from __future__ import annotations

import struct

import pytest
from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.base.errors import Corrupt, Invalid
from dataplatform.base.limits import BATCH_BYTES_MAX
from dataplatform.core import batches
from tests.streaming import LZ4, NONE, build_batch, decode


def patched(batch: bytes, at: int, form: str, value: int, *, fix_crc: bool = True) -> bytes:
    """The batch with one field changed, and by default a CRC that fits."""
    changed = bytearray(batch)
    struct.pack_into(form, changed, at, value)
    if fix_crc:
        struct.pack_into(">I", changed, 17, crc32c(bytes(changed[21:])))
    return bytes(changed)


@pytest.mark.parametrize("compression", [NONE, LZ4])
def test_several_batches_one_behind_the_other(compression: int) -> None:
    first = build_batch([b"a", b"b"], timestamps_ms=[7, 9], compression=compression)
    second = build_batch([b"c" * 300], producer=(12, 3, 44), compression=compression)
    a, b = batches.parse(first + second)
    assert (bytes(a.data), bytes(b.data)) == (first, second)
    assert (a.records, a.max_timestamp_ms, a.producer_id) == (2, 9, -1)
    assert (b.records, b.producer_id, b.producer_epoch, b.base_sequence) == (1, 12, 3, 44)
    assert b.last_sequence == 44


def test_the_base_offset_lies_outside_the_crc() -> None:
    (batch,) = batches.parse(build_batch([b"a", b"b"]))
    data = batches.numbered(batch, 1234)
    assert decode([data]) == [(1234, b"a"), (1235, b"b")]
    batches.check_stored(data, 1234, 2)


def test_front_and_body_make_the_batch_again() -> None:
    (batch,) = batches.parse(build_batch([b"a", b"b"], compression=LZ4))
    made = batches.front(77, batch.length, batch.crc) + batch.body
    assert made == batches.numbered(batch, 77)
    assert crc32c(batch.body) == batch.crc


def test_sequences_wrap() -> None:
    (batch,) = batches.parse(build_batch([b"x"] * 4, producer=(1, 0, 2**31 - 2)))
    assert batch.last_sequence == 1


GOOD = build_batch([b"value"], producer=(1, 0, 0))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no record batch"),
        (GOOD[:60], "cut off in its head"),
        (GOOD[:-1], "cut off"),
        (GOOD + b"\x00", "cut off in its head"),
        (patched(GOOD, 16, ">b", 1), "magic 2"),
        (patched(GOOD, 8, ">i", 40), "shorter than its head"),
        (patched(GOOD, 8, ">i", -5), "shorter than its head"),
        (patched(GOOD, 8, ">i", BATCH_BYTES_MAX), "too large"),
        (patched(GOOD, 17, ">I", 1, fix_crc=False), "CRC is wrong"),
        (patched(GOOD, len(GOOD) - 3, ">b", 5, fix_crc=False), "CRC is wrong"),
        (patched(GOOD, 21, ">h", 0x20), "control"),
        (patched(GOOD, 21, ">h", 0x10), "transaction"),
        (patched(GOOD, 21, ">h", 0x05), "unknown attributes"),
        (patched(GOOD, 21, ">h", 0x40), "unknown attributes"),
        (patched(GOOD, 23, ">i", 1), "does not fit"),
        (patched(GOOD, 57, ">i", 0), "does not fit"),
        (patched(patched(GOOD, 57, ">i", 0), 23, ">i", -1), "does not fit"),
        (patched(GOOD, 43, ">q", -2), "negative"),
        (patched(GOOD, 51, ">h", -1), "negative"),
        (patched(GOOD, 53, ">i", -1), "negative"),
    ],
)
def test_what_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        batches.parse(data)
    assert words in str(caught.value)


@given(st.binary(max_size=200), st.integers(0, len(GOOD)))
def test_noise_is_invalid_and_nothing_else(noise: bytes, cut: int) -> None:
    with pytest.raises(Invalid):
        batches.parse(GOOD[:cut] + b"\x7f" + noise)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(at: int, bit: int) -> None:
    flipped = bytearray(GOOD)
    flipped[at] ^= 1 << bit
    if at < 8 or 12 <= at < 16:  # base offset and leader epoch are not the producer's
        (batch,) = batches.parse(bytes(flipped))
        assert MemoryRecords(batches.numbered(batch, 0)).next_batch().validate_crc()
    else:
        with pytest.raises(Invalid):
            batches.parse(bytes(flipped))


@pytest.mark.parametrize("at", [0, 10, 20, 30, 60, len(GOOD) - 1])
def test_damage_of_a_stored_batch_is_corrupt(at: int) -> None:
    (batch,) = batches.parse(GOOD)
    stored = bytearray(batches.numbered(batch, 5))
    stored[at] ^= 1
    with pytest.raises(Corrupt):
        batches.check_stored(bytes(stored), 5, 1)


def test_a_stored_batch_in_the_wrong_place_is_corrupt() -> None:
    (batch,) = batches.parse(GOOD)
    with pytest.raises(Corrupt):
        batches.check_stored(batches.numbered(batch, 5), 6, 1)
    with pytest.raises(Corrupt):
        batches.check_stored(batches.numbered(batch, 5), 5, 2)
    with pytest.raises(Corrupt):
        batches.check_stored(b"", 5, 2)
