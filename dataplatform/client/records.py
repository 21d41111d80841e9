"""Record batches: Kafka's RecordBatch v2 (D7). The only module that knows aiokafka.

Records are framed by aiokafka's C codec. Compression is done here, with the `lz4` library at its
fast level: aiokafka would take level 9, which is forty times slower, and another package for it.

    field                   bytes  at
    base offset             8      0    set by the server
    length                  4      8    of what follows
    partition leader epoch  4      12
    magic                   1      16   2
    CRC-32C                 4      17   of what follows
    attributes              2      21   bits 0–2 the compression: 0 none, 3 LZ4
    last offset delta       4      23
    first timestamp         8      27   milliseconds
    max timestamp           8      35
    producer id             8      43
    producer epoch          2      51
    base sequence           4      53
    records                 4      57
    the records                    61   compressed together
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import lz4.frame
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from ..base.errors import Corrupt, Invalid
from .garbage import collector_paused
from .messages import whole_number
from .paths import checked
from .values import NO_HEADERS as NONE
from .values import Record

HEADER_BYTES = 61
MAGIC = 2
NO_PRODUCER = -1
_LENGTH_END = 12
_CRC = 17
_ATTRIBUTES = 21
_LENGTHS = struct.Struct(">qi")
_COMPRESSION_MASK = 0x07
_LZ4 = 3
RECORD_OVERHEAD_BYTES = 30
"""At most, of framing beside key, value and headers (aiokafka counts 21 and three lengths)."""

TIMESTAMP_MAX = 2**62 - 1
"""Milliseconds: a batch holds differences of two timestamps in 64 bits."""

Bytes = bytes | bytearray | memoryview | str
Headers = Mapping[str, bytes | None]
NO_HEADERS: list[tuple[str, bytes | None]] = []


# ----------------------------------------------------------------------------------- encoding


def as_bytes(value: Bytes | None) -> bytes | None:
    """A key or value as it is stored: text as UTF-8."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return checked(value, "record").encode()
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise Invalid("a record's key and value are bytes or str", type=type(value).__name__)


def as_timestamp(timestamp: int | datetime | None, now_ms: int) -> int:
    """Milliseconds since the epoch. A datetime without a time zone is local time."""
    if timestamp is None:
        return now_ms
    try:
        if isinstance(timestamp, datetime):
            return int(timestamp.astimezone(UTC).timestamp() * 1000)
        time_ms = int(timestamp)
    except (TypeError, ValueError, OverflowError):
        raise Invalid("a timestamp is milliseconds or a datetime", timestamp=timestamp) from None
    return whole_number("timestamp", time_ms, -TIMESTAMP_MAX, TIMESTAMP_MAX)


def as_headers(headers: Headers | None) -> list[tuple[str, bytes | None]]:
    if not headers:
        return NO_HEADERS
    if not isinstance(headers, Mapping):
        raise Invalid("headers are a mapping of names to values", type=type(headers).__name__)
    return [(checked(name, "header"), as_bytes(value)) for name, value in headers.items()]


class BatchBuilder:
    """Records of one batch, one after the other."""

    __slots__ = ("_builder", "append", "count")

    def __init__(self, size_bytes_max: int) -> None:
        self._builder: Any = DefaultRecordBatchBuilder(
            MAGIC, 0, 0, NO_PRODUCER, NO_PRODUCER, NO_PRODUCER, size_bytes_max
        )
        # (offset, timestamp, key, value, headers); None when it would be too large for the batch.
        self.append = self._builder.append
        self.count = 0

    def add(
        self,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]] = NO_HEADERS,
    ) -> bool:
        """False when the batch is full; its first record always fits."""
        if self.append(self.count, timestamp, key, value, headers) is None:
            return False
        self.count += 1
        return True

    def add_many(self, timestamp: int, values: Iterator[bytes | None]) -> bytes | bool | None:
        """Values without keys until the batch is full. True at the end of `values`, otherwise the
        value that did not fit."""
        append, count = self.append, self.count
        headers = NO_HEADERS
        try:
            for value in values:
                if append(count, timestamp, None, value, headers) is None:
                    return value
                count += 1
        finally:
            self.count = count
        return True

    @property
    def size_bytes(self) -> int:
        """Before compression."""
        size: int = self._builder.size()
        return size

    def build(
        self,
        compression: str = "lz4",
        producer_id: int = NO_PRODUCER,
        epoch: int = NO_PRODUCER,
        base_sequence: int = NO_PRODUCER,
    ) -> bytes | bytearray:
        """The batch as it goes to the server. The builder is of no use afterwards."""
        self._builder.set_producer_state(producer_id, epoch, base_sequence)
        batch: bytearray = self._builder.build()
        return _compressed(batch) if compression == "lz4" else batch


def _compressed(batch: bytearray) -> bytes | bytearray:
    """The batch with its records compressed, or as it is if that gains nothing."""
    packed = lz4.frame.compress(
        memoryview(batch)[HEADER_BYTES:], block_linked=False, store_size=False
    )
    if len(packed) + HEADER_BYTES >= len(batch):
        return batch
    header = batch[:HEADER_BYTES]
    struct.pack_into(">i", header, 8, HEADER_BYTES - _LENGTH_END + len(packed))
    attributes = struct.unpack_from(">h", header, _ATTRIBUTES)[0]
    struct.pack_into(">h", header, _ATTRIBUTES, attributes | _LZ4)
    checked_part = bytes(header[_ATTRIBUTES:]) + packed
    struct.pack_into(">I", header, _CRC, calc_crc32c(checked_part))
    whole: bytes = bytes(header[:_ATTRIBUTES]) + checked_part
    return whole


def encode_one(
    timestamp: int,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
    compression: str = "none",
) -> bytes | bytearray:
    """A batch of one record."""
    builder = BatchBuilder(1)
    builder.add(timestamp, key, value, headers)
    return builder.build(compression)


# ----------------------------------------------------------------------------------- decoding


def batches(data: bytes | memoryview) -> Iterator[memoryview]:
    """The batches that stand one after the other in `data`."""
    view = memoryview(data)
    at = 0
    while at < len(view):
        if len(view) - at < HEADER_BYTES:
            raise Corrupt("a record batch is cut short", bytes=len(view) - at)
        length = _LENGTHS.unpack_from(view, at)[1] + _LENGTH_END
        if length < HEADER_BYTES or at + length > len(view):
            raise Corrupt("a record batch is cut short", bytes=len(view) - at, length=length)
        yield view[at : at + length]
        at += length


def next_offset(batch: memoryview) -> int:
    """The offset behind the last record of a batch."""
    base: int = _LENGTHS.unpack_from(batch)[0]
    delta: int = struct.unpack_from(">i", batch, 23)[0]
    return base + delta + 1


def decode(
    data: bytes | memoryview, topic: str, partition: int, from_offset: int = 0
) -> list[Record]:
    """The records of all batches in `data`, from `from_offset` on. Corrupt when a CRC is wrong."""
    records: list[Record] = []
    make, none = tuple.__new__, NONE
    for view in batches(data):
        batch = _checked(view, topic, partition)
        if batch.is_control_batch:
            continue
        with collector_paused():
            records += [
                make(Record, (topic, partition, r.offset, r.timestamp, r.key, r.value, h or none))
                for r in batch
                for h in (r.headers and dict(r.headers),)
            ]
    if records and records[0].offset < from_offset:
        records = [record for record in records if record.offset >= from_offset]
    return records


def _checked(view: memoryview, topic: str, partition: int) -> Any:
    """aiokafka's reader of a batch whose CRC is right, with the records uncompressed."""
    base = _LENGTHS.unpack_from(view)[0]
    if view[16] != MAGIC:
        raise Corrupt("not a record batch", topic=topic, partition=partition, offset=base)
    stored: int = struct.unpack_from(">I", view, _CRC)[0]
    raw = bytes(view)
    if calc_crc32c(raw[_ATTRIBUTES:]) != stored:
        raise Corrupt(
            "a record batch has a wrong CRC", topic=topic, partition=partition, offset=base
        )
    attributes = struct.unpack_from(">h", raw, _ATTRIBUTES)[0]
    compression = attributes & _COMPRESSION_MASK
    if compression == _LZ4:
        header = bytearray(raw[:HEADER_BYTES])
        struct.pack_into(">h", header, _ATTRIBUTES, attributes & ~_COMPRESSION_MASK)
        raw = bytes(header) + lz4.frame.decompress(view[HEADER_BYTES:])
    return DefaultRecordBatch(raw)
