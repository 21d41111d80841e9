"""The audit's records as Kafka RecordBatches v2: see `core/batches` for the head.

A record, all integers zigzag varints: its length, attributes (one byte), timestamp delta, offset
delta, length of the key (-1: none), length of the value, the value, number of headers.
Source: Kafka protocol guide, "Record" (magic 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import lz4.frame

from ...base.limits import MIB
from .. import batches

Line = tuple[int, bytes]
"""Time in ms since the epoch, and the value."""

BATCH_BYTES = MIB // 2
"""Values of one batch: a reader fetches batches whole."""

_LZ4 = 3
_PLAIN_BYTES_MAX = 512
"""Values for which it is not worth to compress."""

_NO_KEY = b"\x01"
_NO_HEADERS = b"\x00"


def batches_of(lines: Iterable[Line]) -> Iterator[bytes]:
    """Batches that hold the lines, in their order."""
    some: list[Line] = []
    size = 0
    for line in lines:
        if some and size + len(line[1]) > BATCH_BYTES:
            yield _batch(some)
            some, size = [], 0
        some.append(line)
        size += len(line[1])
    if some:
        yield _batch(some)


def _batch(lines: list[Line]) -> bytes:
    first_ms = lines[0][0]
    records = bytearray()
    for offset, (time_ms, value) in enumerate(lines):
        body = b"".join(
            (
                b"\x00",
                varint(time_ms - first_ms),
                varint(offset),
                _NO_KEY,
                varint(len(value)),
                value,
                _NO_HEADERS,
            )
        )
        records += varint(len(body))
        records += body
    attributes = 0
    packed = bytes(records)
    if len(packed) > _PLAIN_BYTES_MAX:
        attributes = _LZ4
        packed = lz4.frame.compress(packed, compression_level=0)
    return batches.build(
        packed,
        records=len(lines),
        attributes=attributes,
        first_ms=first_ms,
        max_ms=max(time_ms for time_ms, _ in lines),
    )


def varint(number: int) -> bytes:
    """Zigzag, seven bits a byte, the lowest first."""
    rest = number << 1 if number >= 0 else (-number << 1) - 1
    if rest < 0x80:
        return _BYTES[rest]
    encoded = bytearray()
    while rest >= 0x80:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


_BYTES = [bytes((n,)) for n in range(0x80)]
