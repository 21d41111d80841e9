"""Records that say where they are from: a header is put behind those that they have.

Batches are taken apart no further than that takes (core/encoding.py has their form): keys, values,
times and headers stay the bytes that they were. The header `dp-origin` is `/east/p/s:topic/3/41`:
cluster and path, topic, partition and offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import lz4.frame

from ...base.errors import Corrupt
from ...base.limits import BATCH_BYTES_MAX, MIB
from .. import batches
from ..encoding import BATCH_BYTES, varint

HEADER = "dp-origin"

_NAME = varint(len(HEADER)) + HEADER.encode()
_LZ4 = 3
_TIMESTAMP_TYPE = 0x08
_PLAIN_BYTES_MAX = 512
_COUNTS = [bytes((n + 2,)) for n in range(0x7E)]
"""One header more."""

WHOLE_BYTES_MAX = 4 * MIB
"""Of records that stay one batch."""

UNPACKED_BYTES_MAX = 8 * BATCH_BYTES_MAX
"""Of a batch that is fetched: it says nothing before it is unpacked."""


def partition_for(cluster: str, path: str, topic: str, partition: int, partitions: int) -> int:
    """To which partition the records of a source's partition go."""
    return crc32(f"{cluster}{path}:{topic}/{partition}".encode()) % partitions


def with_origins(
    data: bytes | memoryview, origin: str, offset: int
) -> tuple[list[bytes], int, int]:
    """Batches for the records from `offset` on of those that were fetched, the offset behind them,
    and how many records they hold. `origin`: cluster, path, topic and partition. CORRUPT."""
    made: list[bytes] = []
    count = 0
    prefix = origin.encode() + b"/"
    for batch in batches.parse(data):
        base = int.from_bytes(batch.data[:8], "big", signed=True)
        end = base + batch.records
        if end <= offset:
            continue
        if base > offset:
            raise Corrupt("there is a gap among the records that were fetched", offset=offset)
        skip = offset - base
        made += _remade(batch, prefix, base, skip)
        count += batch.records - skip
        offset = end
    return made, offset, count


def _remade(batch: batches.Batch, prefix: bytes, base: int, skip: int) -> Iterator[bytes]:
    head = batches.HEAD.unpack_from(batch.data)
    attributes, first_ms, max_ms = head[5], head[7], head[8]
    records = _unpacked(batch.data[batches.HEAD_BYTES :], attributes & batches.CODEC_MASK)
    whole = None
    if not skip and len(records) + batch.records * (len(prefix) + 40) <= WHOLE_BYTES_MAX:
        whole = _whole(records, batch.records, prefix, base)
    some = _with_headers(records, batch.records, prefix, base, skip)
    for packed, count in _some(some) if whole is None else [(whole, batch.records)]:
        kept = attributes & _TIMESTAMP_TYPE
        if len(packed) > _PLAIN_BYTES_MAX:
            kept |= _LZ4
            packed = lz4.frame.compress(packed, compression_level=0)
        yield batches.build(
            packed, records=count, attributes=kept, first_ms=first_ms, max_ms=max_ms
        )


def _unpacked(records: memoryview, codec: int) -> bytes:
    if codec == 0:
        return bytes(records)
    if codec != _LZ4:
        raise Corrupt("records are packed in a way that is not known here", codec=codec)
    try:
        unpacker = lz4.frame.LZ4FrameDecompressor()
        unpacked: bytes = unpacker.decompress(records, max_length=UNPACKED_BYTES_MAX)
    except RuntimeError as error:
        raise Corrupt("records cannot be unpacked", reason=error) from error
    if not unpacker.eof:
        raise Corrupt("records are too large, or cut off", bytes=len(unpacked))
    return unpacked


def _whole(records: bytes, count: int, prefix: bytes, base: int) -> bytes | None:
    """All records of a batch, numbered as they are. None: they have to be looked at one by one.

    What nearly every record looks like (numbers of one or two bytes) is read right here: calling
    somebody for each of its six numbers takes three times as long.
    """
    parts: list[bytes] = []
    at = 0
    try:
        for number in range(base, base + count):
            length = records[at]
            at += 1
            if length >= 0x80:
                second = records[at]
                at += 1
                if second >= 0x80:
                    return None
                length = length & 0x7F | second << 7
            if length & 1:
                return None
            end = at + (length >> 1)
            place = at + 1  # behind the attributes
            while records[place] >= 0x80:
                place += 1
            place += 1  # behind the time
            while records[place] >= 0x80:
                place += 1
            place += 1  # behind the number
            for _ in (0, 1):  # key and value
                length = records[place]
                place += 1
                if length >= 0x80:
                    second = records[place]
                    place += 1
                    if second >= 0x80:
                        return None
                    length = length & 0x7F | second << 7
                if not length & 1:
                    place += length >> 1
                elif length != 1:
                    return None
            headers = records[place]
            if headers >= 0x7E or headers & 1:
                return None
            origin = b"%b%d" % (prefix, number)
            tail = b"%b%b%b" % (_NAME, varint(len(origin)), origin)
            size = end - at + len(tail)
            parts += (varint(size), records[at:place], _COUNTS[headers], records[place + 1 : end])
            parts.append(tail)
            at = end
    except IndexError:
        return None
    return b"".join(parts) if at == len(records) else None


def _with_headers(
    records: bytes, count: int, prefix: bytes, base: int, skip: int
) -> Iterator[tuple[bytes, bytes]]:
    """Of each record what stands before its offset, and what stands behind it."""
    at = 0
    try:
        for number in range(count):
            length, at = _varint(records, at)
            end = at + length
            if number < skip:
                at = end
                continue
            _, times_end = _varint(records, at + 1)  # after the attributes: the time
            delta, offset_end = _varint(records, times_end)
            if delta != number or end > len(records):
                raise Corrupt("records are not numbered as they should be", offset=base + number)
            length, key_end = _varint(records, offset_end)
            key_end += max(length, 0)
            length, value_end = _varint(records, key_end)
            value_end += max(length, 0)
            headers, headers_at = _varint(records, value_end)
            origin = b"%b%d" % (prefix, base + number)
            behind = b"".join(
                (
                    records[offset_end:value_end],
                    varint(headers + 1),
                    records[headers_at:end],
                    _NAME,
                    varint(len(origin)),
                    origin,
                )
            )
            yield records[at:times_end], behind
            at = end
    except IndexError as error:
        raise Corrupt("records are cut off", offset=base) from error


def _some(records: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, int]]:
    """Records numbered from 0, as many as a batch should hold at a time; and how many."""
    parts: list[bytes] = []
    number = size = 0
    for before, behind in records:
        delta = varint(number)
        length = len(before) + len(delta) + len(behind)
        parts += (varint(length), before, delta, behind)
        number, size = number + 1, size + length
        if size >= BATCH_BYTES:
            yield b"".join(parts), number
            parts, number, size = [], 0, 0
    if number:
        yield b"".join(parts), number


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Zigzag; and what follows. IndexError beyond the end."""
    byte = data[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    number, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at + 1
        shift += 7
        if shift > 63:
            raise IndexError(at)
