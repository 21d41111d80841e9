"""Record batches: Kafka's RecordBatch v2 (D7). The only module that knows aiokafka.

Records are framed by aiokafka's C codec. What it does slowly is done here: compression, with the
`lz4` library (aiokafka would take level 9, forty times slower, and another package for it), and
checksums, with `crc32c` (which has the processor do it, fourteen times faster).

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

Within the server's batches offsets have no gaps: `core/batches` refuses others.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice, pairwise, repeat
from operator import attrgetter, length_hint
from typing import Any, NamedTuple

import lz4.frame
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from crc32c import crc32c

from ..base.errors import Corrupt, Invalid
from ..base.limits import MIB
from . import columns
from .columns import Columns
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
_CHECKSUM = struct.Struct(">I")
_TIMES = struct.Struct(">hiq")  # attributes, last offset delta, first timestamp
_COUNT = struct.Struct(">i")
_COMPRESSION_MASK = 0x07
_APPEND_TIME = 0x08
_CONTROL = 0x20
_LZ4 = 3
_LZ4_LEVEL = -3
"""Faster than LZ4's usual 0, up to twice where there is little to gain; what it packs is three
percent larger where there is much."""

_LZ4_RATIO_MAX = 255
UNPACKED_BYTES_MAX = 128 * MIB
"""Records of one batch. Ours have BATCH_BYTES_MAX at most; what others packed may have more."""

COLUMNS_FROM = 100
"""Records of a batch for which it is worth looking whether they are all of one shape."""

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
        memoryview(batch)[HEADER_BYTES:], compression_level=_LZ4_LEVEL, block_linked=False
    )
    if len(packed) + HEADER_BYTES >= len(batch):
        return batch
    header = batch[:HEADER_BYTES]
    struct.pack_into(">i", header, 8, HEADER_BYTES - _LENGTH_END + len(packed))
    attributes = struct.unpack_from(">h", header, _ATTRIBUTES)[0]
    struct.pack_into(">h", header, _ATTRIBUTES, attributes | _LZ4)
    crc = crc32c(packed, crc32c(memoryview(header)[_ATTRIBUTES:]))
    struct.pack_into(">I", header, _CRC, crc)
    return b"".join((header, packed))


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


class Decoded:
    """Records of one partition, each made when it is taken from the iterator `rest`: most are let
    go of before the next is wanted, so that they share their memory and give the garbage collector
    nothing to do.

    `rest` takes one of `_left` for each record, so that what is left there tells how far it got.
    """

    __slots__ = ("_left", "_offsets", "rest")

    def __init__(self, rest: Iterator[Record], offsets: Sequence[int], left: Iterator[Any]) -> None:
        self.rest = rest
        self._offsets = offsets
        self._left = left

    def has_rest(self) -> bool:
        return length_hint(self._left) > 0

    def next_offset(self) -> int | None:
        """Behind the last record taken; None: there is none."""
        taken = len(self._offsets) - length_hint(self._left)
        return self._offsets[taken - 1] + 1 if taken else None

    def take(self, records_max: int | None = None) -> list[Record]:
        """The next records, all of them unless limited."""
        with collector_paused():
            return list(self.rest if records_max is None else islice(self.rest, records_max))

    def skip(self, records: int) -> None:
        next(islice(self.rest, records, records), None)

    def drop(self) -> None:
        """Leave nothing, also to who holds `rest`."""
        self.skip(length_hint(self._left))


def decoded(records: list[Record]) -> Decoded:
    """Records that are there already."""
    rest = iter(records)
    return Decoded(rest, [record.offset for record in records], rest)


def open_batches(
    data: bytes | memoryview, topic: str, partition: int, from_offset: int = 0
) -> Decoded:
    """The records of all batches in `data`, from `from_offset` on. Corrupt when a CRC is wrong."""
    with collector_paused():
        found = [_open(view, topic, partition) for view in batches(data)]
    offsets = _joined([batch.offsets for batch in found])
    left = iter(offsets)
    rests = [batch.records(topic, partition, left) for batch in found]
    opened = Decoded(rests[0] if len(rests) == 1 else chain.from_iterable(rests), offsets, left)
    if offsets and offsets[0] < from_offset:
        opened.skip(bisect_left(offsets, from_offset))
    return opened


def decode(
    data: bytes | memoryview, topic: str, partition: int, from_offset: int = 0
) -> list[Record]:
    """As `open_batches`, all at once."""
    return open_batches(data, topic, partition, from_offset).take()


class Values(NamedTuple):
    """The values of one batch, each made when it is taken."""

    offsets: range
    values: Iterable[bytes | None]


def open_values(batch: memoryview, topic: str, partition: int) -> Values:
    """Of one of `batches`, for those who need nothing else of its records. Corrupt."""
    found = _open(batch, topic, partition)
    return Values(found.offsets, found.columns.values)


def _joined(runs: list[range]) -> Sequence[int]:
    if all(before.stop == behind.start for before, behind in pairwise(runs)):
        return range(runs[0].start, runs[-1].stop) if runs else ()
    return list(chain.from_iterable(runs))


class _Batch(NamedTuple):
    offsets: range
    columns: Columns
    headers: Iterable[Mapping[str, bytes | None]]

    def records(self, topic: str, partition: int, left: Iterator[int]) -> Iterator[Record]:
        """The first column ends first, before an offset is taken from `left` in vain."""
        count = len(self.offsets)
        rows = zip(repeat(topic, count), repeat(partition), left, *self.columns, self.headers)
        return map(tuple.__new__, repeat(Record), rows)  # as Record._make, in C


_timestamp, _key, _value, _headers = map(attrgetter, ("timestamp", "key", "value", "headers"))


def _open(view: memoryview, topic: str, partition: int) -> _Batch:
    base, length = _LENGTHS.unpack_from(view)
    try:
        return _checked(view, base)
    except Exception as error:  # of whatever type the codecs have for bytes that are not theirs
        raise Corrupt(
            "a record batch is damaged",
            topic=topic,
            partition=partition,
            offset=base,
            bytes=length + _LENGTH_END,
            reason=error,
        ) from error


def _unpacked(body: memoryview) -> bytes:
    """ValueError for a few bytes that would fill the memory."""
    if len(body) * _LZ4_RATIO_MAX <= UNPACKED_BYTES_MAX:
        return bytes(lz4.frame.decompress(body))
    unpacking = lz4.frame.LZ4FrameDecompressor()
    unpacked = unpacking.decompress(body, UNPACKED_BYTES_MAX)
    if not unpacking.eof:
        raise ValueError(f"its records unpack to more than {UNPACKED_BYTES_MAX >> 20} MiB")
    return bytes(unpacked)


def _checked(view: memoryview, base: int) -> _Batch:
    if view[16] != MAGIC:
        raise ValueError("it is of another version")
    if crc32c(view[_ATTRIBUTES:]) != _CHECKSUM.unpack_from(view, _CRC)[0]:
        raise ValueError("its CRC is wrong")
    attributes, _, first_timestamp = _TIMES.unpack_from(view, _ATTRIBUTES)
    count: int = _COUNT.unpack_from(view, HEADER_BYTES - _COUNT.size)[0]
    if attributes & _CONTROL:
        return _Batch(range(base, base), Columns((), (), ()), ())
    offsets = range(base, base + count)
    compression = attributes & _COMPRESSION_MASK
    body: Any = view[HEADER_BYTES:]
    body = _unpacked(body) if compression == _LZ4 else bytes(body)
    if count >= COLUMNS_FROM and compression in (0, _LZ4) and not attributes & _APPEND_TIME:
        found = columns.read(body, count, first_timestamp)
        if found is not None:
            return _Batch(offsets, found, repeat(NONE))
    header = bytearray(view[:HEADER_BYTES])
    if compression == _LZ4:
        struct.pack_into(">h", header, _ATTRIBUTES, attributes & ~_COMPRESSION_MASK)
    records = list(DefaultRecordBatch(b"".join((header, body))))
    headers: list[Any] = list(map(_headers, records))
    return _Batch(
        offsets,
        Columns(map(_timestamp, records), map(_key, records), map(_value, records)),
        [dict(h) if h else NONE for h in headers] if any(headers) else repeat(NONE),
    )
