"""Keys go where Kafka's default partitioner sends them."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.base.partitioner import murmur2, partition_of

# From org.apache.kafka.common.utils.UtilsTest.testMurmur2, which has them signed.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", VECTORS)
def test_kafkas_vectors(key: bytes) -> None:
    assert murmur2(key) == VECTORS[key] & 0xFFFFFFFF


@given(st.binary(max_size=40))
def test_as_the_reference(key: bytes) -> None:
    assert murmur2(key) == reference(key)
    assert partition_of(key, 7) == (reference(key) & 0x7FFFFFFF) % 7
