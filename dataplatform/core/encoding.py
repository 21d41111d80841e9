"""Records of the platform's own as Kafka RecordBatches v2: see `batches` for the head.

A record, all integers zigzag varints: its length, attributes (one byte), timestamp delta, offset
delta, length of the key (-1: none), the key, length of the value, the value, number of headers; of
each header the length of its name, the name, the length of its value, the value.
Source: Kafka protocol guide, "Record" (magic 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import lz4.frame

from ..base.limits import MIB
from . import batches

Headers = tuple[tuple[str, bytes], ...]

Line = tuple[int, bytes]
"""Time in ms since the epoch, and the value."""

KeyedLine = tuple[int, bytes, bytes, Headers]
"""The same with a key and headers."""

BATCH_BYTES = MIB // 2
"""Values of one batch: a reader fetches batches whole."""

_LZ4 = 3
_PLAIN_BYTES_MAX = 512
"""Values for which it is not worth to compress."""

_NO_KEY = b"\x01"
_NO_HEADERS = b"\x00"


def batches_of(lines: Iterable[Line | KeyedLine]) -> Iterator[bytes]:
    """Batches that hold the lines, in their order."""
    some: list[Line | KeyedLine] = []
    size = 0
    for line in lines:
        if some and size + len(line[1]) > BATCH_BYTES:
            yield _batch(some)
            some, size = [], 0
        some.append(line)
        size += len(line[1])
    if some:
        yield _batch(some)


def _batch(lines: list[Line | KeyedLine]) -> bytes:
    first_ms = lines[0][0]
    records = bytearray()
    for offset, line in enumerate(lines):
        time_ms, value = line[0], line[1]
        key, headers = (_NO_KEY, _NO_HEADERS) if len(line) == 2 else _keyed(line[2], line[3])
        body = b"".join(
            (
                b"\x00",
                varint(time_ms - first_ms),
                varint(offset),
                key,
                varint(len(value)),
                value,
                headers,
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
        max_ms=max(line[0] for line in lines),
    )


def _keyed(key: bytes, headers: Headers) -> tuple[bytes, bytes]:
    parts = [varint(len(headers))]
    for name, value in headers:
        encoded = name.encode()
        parts += (varint(len(encoded)), encoded, varint(len(value)), value)
    return varint(len(key)) + key, b"".join(parts)


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
