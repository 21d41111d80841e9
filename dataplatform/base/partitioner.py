"""Which partition a key belongs to: as Kafka's default partitioner, so that clients agree.

Source: org.apache.kafka.common.utils.Utils.murmur2 and BuiltInPartitioner.partitionForKey.
"""

from __future__ import annotations

import struct
from functools import lru_cache

SEED = 0x9747B28C
M = 0x5BD1E995
MASK = 0xFFFFFFFF
KEYS_REMEMBERED = 65_536


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, unsigned, with Kafka's seed."""
    size = len(data)
    h = SEED ^ size
    whole = size >> 2
    for k in struct.unpack_from(f"<{whole}I", data):
        k = k * M & MASK
        k = (k ^ k >> 24) * M & MASK
        h = h * M & MASK ^ k
    rest = data[whole << 2 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * M & MASK
    h = (h ^ h >> 13) * M & MASK
    return h ^ h >> 15


@lru_cache(KEYS_REMEMBERED)
def key_hash(key: bytes) -> int:
    """The positive hash of a key; remembered, since keys come again."""
    return murmur2(key) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    return key_hash(key) % partitions
