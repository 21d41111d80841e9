"""Record batches: what goes in comes out, also through aiokafka's own reader and the server's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.base.errors import Corrupt, Invalid
from dataplatform.client import records
from dataplatform.client.records import BatchBuilder, decode

Spec = tuple[int, bytes | None, bytes | None, Mapping[str, bytes | None]]
NOW = 1_700_000_000_000
SPEC = st.tuples(
    st.integers(0, 2**41),
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=200),
    st.dictionaries(st.text(max_size=5), st.none() | st.binary(max_size=5), max_size=3),
)


def built(specs: list[Spec], compression: str, base_offset: int = 0, **state: int) -> bytes:
    builder = BatchBuilder(1 << 20)
    for timestamp, key, value, headers in specs:
        assert builder.add(timestamp, key, value, records.as_headers(headers))
    batch = builder.build(compression, **state)
    return base_offset.to_bytes(8, "big") + bytes(batch)[8:]


@pytest.mark.parametrize("compression", ["none", "lz4"])
@given(specs=st.lists(SPEC, min_size=1, max_size=20), base=st.integers(0, 2**40))
def test_round_trip(compression: str, specs: list[Spec], base: int) -> None:
    found = decode(built(specs, compression, base), "t", 3)
    assert [(r.timestamp, r.key, r.value, dict(r.headers)) for r in found] == specs
    assert [r.offset for r in found] == list(range(base, base + len(specs)))
    assert {(r.topic, r.partition) for r in found} == {("t", 3)}


def test_compression_is_an_lz4_frame_and_the_crc_fits() -> None:
    batch = built([(NOW, None, b"x" * 1000, {})] * 10, "lz4", producer_id=7, epoch=1)
    read = DefaultRecordBatch(batch)
    assert read.compression_type == DefaultRecordBatch.CODEC_LZ4
    assert read.validate_crc()
    assert (read.producer_id, read.producer_epoch, read.last_offset_delta) == (7, 1, 9)
    assert batch[61:65] == b"\x04\x22\x4d\x18"  # the magic number of LZ4 frames
    assert len(batch) < 300


def test_what_does_not_shrink_stays_as_it_is() -> None:
    batch = built([(NOW, None, b"x", {})], "lz4")
    assert DefaultRecordBatch(batch).compression_type == DefaultRecordBatch.CODEC_NONE


def test_several_batches_from_an_offset_on() -> None:
    first = built([(NOW, None, b"%d" % n, {}) for n in range(3)], "none", 10)
    second = built([(NOW, None, b"%d" % n, {}) for n in range(3, 6)], "lz4", 13)
    found = decode(first + second, "t", 0, from_offset=12)
    assert [(r.offset, r.value) for r in found] == [
        (12, b"2"), (13, b"3"), (14, b"4"), (15, b"5"),
    ]  # fmt: skip
    assert [records.next_offset(b) for b in records.batches(first + second)] == [13, 16]


@pytest.mark.parametrize("at", [21, 40, 61, 70])
def test_a_flipped_bit_is_corrupt(at: int) -> None:
    batch = bytearray(built([(NOW, b"key", b"value" * 5, {})], "none"))
    batch[at] ^= 1
    with pytest.raises(Corrupt, match="topic=`t`"):
        decode(bytes(batch), "t", 0)


@pytest.mark.parametrize("length", [1, 60, 62])
def test_a_batch_cut_short_is_corrupt(length: int) -> None:
    batch = built([(NOW, b"key", b"value" * 5, {})], "none")
    with pytest.raises(Corrupt):
        decode(batch[:length], "t", 0)


def test_a_full_batch_takes_no_more_but_its_first_record_always_fits() -> None:
    builder = BatchBuilder(500)
    assert builder.add(NOW, None, b"x" * 1000)
    assert not builder.add(NOW, None, b"x")
    builder = BatchBuilder(500)
    values = iter([b"%03d" % n + b"x" * 97 for n in range(10)])
    assert builder.add_many(NOW, values) == b"004" + b"x" * 97
    assert builder.count == 4
    rest = BatchBuilder(100_000)
    assert rest.add_many(NOW, values) is True
    assert rest.count == 5


def test_values_and_times_as_users_give_them() -> None:
    assert records.as_bytes("ü") == "ü".encode()
    assert records.as_bytes(memoryview(b"abc")) == b"abc"
    assert records.as_timestamp(datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), 0) == NOW
    assert records.as_timestamp(None, NOW) == NOW
    with pytest.raises(Invalid):
        records.as_bytes(5)  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        records.as_bytes("\udcff")
