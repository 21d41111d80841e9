"""The head of a Kafka RecordBatch v2: checked and numbered, its records never decoded (D7).

Source: Kafka protocol guide, "Record Batch" (KIP-98, magic 2); `DefaultRecordBatch.java`. All
integers are big-endian.

    at  bytes  field                  here
     0    8    base offset            ours: set when it is stored or read
     8    4    length                 of everything behind this field
    12    4    partition leader epoch -1: there are no leaders here
    16    1    magic                  2
    17    4    CRC-32C                of everything behind this field: what we check and keep
    21    2    attributes             bits 0–2 codec, 3 timestamp type, 4 transactional, 5 control
    23    4    last offset delta      records - 1
    27    8    base timestamp (ms)
    35    8    max timestamp (ms)
    43    8    producer id            -1: not idempotent
    51    2    producer epoch
    53    4    base sequence
    57    4    record count
    61         records                one stream of them, compressed with the codec

Whatever lies before the attributes is outside the CRC and can be made from the base offset, the
length and the CRC: `front`. So a segment holds a batch from its attributes on (its *body*), and the
checksum of that extent is the batch's own CRC: bytes are summed once on their way in.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

from ..base.errors import Corrupt, Invalid
from ..base.limits import BATCH_BYTES_MAX

HEAD = Struct(">qiibIhiqqqhii")
HEAD_BYTES = HEAD.size
BODY_START = 21
"""Where the attributes stand: the CRC covers everything from here on."""

_FRONT = Struct(">qiibI")
_BODY_HEAD = Struct(">hiqqqhii")
_LENGTH_START = 12
"""The length field counts what follows it."""

_BASE_OFFSET = Struct(">q")

MAGIC = 2
CODEC_MASK = 0x07
CODEC_LAST = 4  # none, gzip, snappy, lz4, zstd
TRANSACTIONAL = 0x10
CONTROL = 0x20
ATTRIBUTES_KNOWN = 0x0F
"""Codec and timestamp type; the others are a broker's business."""

RECORD_BYTES_MIN = 7
"""A record without key, value and headers: its length, attributes, two deltas and three lengths, of
a byte each. Records are never decoded here, but what they can be at most bounds the offsets that a
wrong count uses up; unpacked they may amount to BATCH_BYTES_MAX of such records."""

NO_PRODUCER = -1
SEQUENCE_MASK = 0x7FFF_FFFF
"""Sequences run from 0 to 2^31 - 1, then from 0 again."""

NO_TIMESTAMP = -1

assert HEAD_BYTES == 61
assert _FRONT.size == BODY_START


class Batch(NamedTuple):
    """A checked batch. `data` is all of it, as the producer sent it."""

    data: memoryview
    records: int
    crc: int
    max_timestamp_ms: int
    producer_id: int
    producer_epoch: int
    base_sequence: int

    @property
    def length(self) -> int:
        return len(self.data)

    @property
    def body(self) -> memoryview:
        return self.data[BODY_START:]

    @property
    def last_sequence(self) -> int:
        return (self.base_sequence + self.records - 1) & SEQUENCE_MASK


def parse(data: bytes | memoryview) -> list[Batch]:
    """One or several batches, one behind the other, all checked.

    INVALID if there is none, if bytes are missing or left over, and if a batch is not what the
    table above says, or larger than BATCH_BYTES_MAX.
    """
    view = memoryview(data)
    total = len(view)
    if not total:
        raise Invalid("there is no record batch to append")
    found: list[Batch] = []
    at = 0
    while at < total:
        batch = _parse_one(view, at, total)
        found.append(batch)
        at += len(batch.data)
    return found


def _parse_one(view: memoryview, at: int, total: int) -> Batch:
    if total - at < HEAD_BYTES:
        raise _broken("a record batch is cut off in its head", at, bytes=total - at)
    (
        _,
        length,
        _,
        magic,
        crc,
        attributes,
        last_offset_delta,
        _,
        max_timestamp_ms,
        producer_id,
        producer_epoch,
        base_sequence,
        records,
    ) = HEAD.unpack_from(view, at)
    if magic != MAGIC:
        raise _broken("a record batch must be of magic 2 (Kafka RecordBatch v2)", at, magic=magic)
    size = length + _LENGTH_START
    if size < HEAD_BYTES:
        raise _broken("a record batch says that it is shorter than its head", at, bytes=size)
    if size > BATCH_BYTES_MAX:
        raise _broken(
            "a record batch is too large: send smaller batches",
            at,
            bytes=size,
            bytes_max=BATCH_BYTES_MAX,
        )
    if size > total - at:
        raise _broken("a record batch is cut off", at, bytes=total - at, expected=size)
    if attributes & ~ATTRIBUTES_KNOWN or attributes & CODEC_MASK > CODEC_LAST:
        raise _refused(attributes, at)
    if records <= 0 or records != last_offset_delta + 1:
        raise _broken(
            "a record batch's count does not fit its last offset",
            at,
            records=records,
            last_offset_delta=last_offset_delta,
        )
    room = size - HEAD_BYTES if not attributes & CODEC_MASK else BATCH_BYTES_MAX
    if records * RECORD_BYTES_MIN > room:
        raise _broken(
            "a record batch says that it holds more records than it can",
            at,
            records=records,
            records_max=room // RECORD_BYTES_MIN,
        )
    if producer_id < NO_PRODUCER or (
        producer_id != NO_PRODUCER and (producer_epoch < 0 or base_sequence < 0)
    ):
        raise _broken(
            "a record batch's producer id, epoch or sequence is negative",
            at,
            producer_id=producer_id,
            epoch=producer_epoch,
            sequence=base_sequence,
        )
    data = view[at : at + size]
    if crc32c(data[BODY_START:]) != crc:
        raise _broken(
            "a record batch's CRC is wrong: its bytes were damaged on the way here, send it again",
            at,
        )
    return Batch(data, records, crc, max_timestamp_ms, producer_id, producer_epoch, base_sequence)


def _broken(message: str, at: int, **facts: object) -> Invalid:
    return Invalid(message, position=at, **facts)


def _refused(attributes: int, at: int) -> Invalid:
    if attributes & CONTROL:
        return _broken("a producer cannot append control batches", at)
    if attributes & TRANSACTIONAL:
        return _broken(
            "a record batch is marked as transactional: commit it in a transaction of the "
            "platform instead, without that mark",
            at,
        )
    return _broken("a record batch has unknown attributes", at, attributes=hex(attributes))


def numbered(batch: Batch, base_offset: int) -> bytes:
    """A copy with its base offset set."""
    return b"".join((_BASE_OFFSET.pack(base_offset), batch.data[_BASE_OFFSET.size :]))


def front(base_offset: int, length: int, crc: int) -> bytes:
    """What stands before the body of a batch of `length` bytes."""
    return _FRONT.pack(base_offset, length - _LENGTH_START, -1, MAGIC, crc)


def build(packed: bytes, *, records: int, attributes: int, first_ms: int, max_ms: int) -> bytes:
    """A batch of the platform's own, of no producer: `packed` is its records, compressed with the
    codec that the attributes name."""
    body = _BODY_HEAD.pack(attributes, records - 1, first_ms, max_ms, NO_PRODUCER, -1, -1, records)
    length = HEAD_BYTES + len(packed)
    return front(0, length, crc32c(packed, crc32c(body))) + body + packed


def check_stored(data: bytes | memoryview, base_offset: int, records: int) -> None:
    """A batch read from the engine is the one that was stored. CORRUPT if not."""
    if len(data) < HEAD_BYTES:
        raise Corrupt("a stored record batch is cut off", bytes=len(data))
    stored = HEAD.unpack_from(data)
    view = memoryview(data)
    if (
        stored[0] != base_offset
        or stored[1] != len(data) - _LENGTH_START
        or stored[12] != records
        or crc32c(view[BODY_START:]) != stored[4]
    ):
        raise Corrupt("a stored record batch does not match its checksum")
