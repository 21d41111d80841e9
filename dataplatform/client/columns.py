"""Batches whose records all have the same shape, read by columns instead of one by one.

Records of one producer are mostly alike: as long as each other, or nearly always so, without
headers. Then every byte of their framing stands at the same place of each record, and a slice with
the record's length as its step has that byte of all of them. All of these columns are compared with
what they must be, so this finds exactly what a reader of single records finds, in a third of its
time; where a column differs, the batch is of another shape and nothing is said about it.

    a record (KIP-98)       bytes, all numbers zigzag varints
    length                  1–5    of what follows
    attributes              1      0
    timestamp delta         1–10   one byte here: up to 63 ms
    offset delta            1–5    0, 1, 2 …
    key length, key                -1: none
    value length, value            -1: none
    headers                 1–5    0 here
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, repeat
from operator import itemgetter
from struct import Struct
from typing import NamedTuple

OFFSETS = ((1, 0, 1 << 6), (2, 1 << 6, 1 << 13), (3, 1 << 13, 1 << 20))
"""Bytes of an offset delta, its first value, the value behind its last."""

VARINT_BYTES_MAX = 5
"""Of a length: 32 bits."""

TIMESTAMP_MAX = (1 << 63) - 1 - 63
"""The latest to which each delta of one byte can be added; the reader of single records has 64 bits
and goes on with the earliest."""

_MORE = 0x80
_first = itemgetter(0)
_ZIGZAG = [(n >> 1) ^ -(n & 1) for n in range(_MORE)]
_LOW = bytes(2 * n | _MORE for n in range(64))  # of 2n, seven bits at a time, more follow
_MIDDLE = b"".join(bytes((n,)) * 64 for n in range(128))
_MIDDLE_MORE = b"".join(bytes((n | _MORE,)) * 64 for n in range(128))


class Columns(NamedTuple):
    """What the records of a batch hold, in their order."""

    timestamps: Iterable[int]
    keys: Iterable[bytes | None]
    values: Iterable[bytes | None]


class _Shape(NamedTuple):
    """Of the record that stands at `start`."""

    start: int
    timestamp: int  # where its delta is
    offset: int
    key: int
    key_length: int  # -1: none
    value: int
    value_length: int
    size: int


def read(body: bytes, records: int, first_timestamp: int) -> Columns | None:
    """The columns of a batch's uncompressed records; None if they are not of one shape."""
    timestamps: list[Iterable[int]] = []
    keys: list[Iterable[bytes | None]] = []
    values: list[Iterable[bytes | None]] = []
    start = done = 0
    if abs(first_timestamp) > TIMESTAMP_MAX:
        return None
    try:
        for width, first, end in OFFSETS:
            count = min(records, end) - first
            if count <= 0:
                break
            shape = _shape(body, start)
            if shape is None or not _is_alike(body, shape, width, first, count):
                return None
            timestamps.append(_timestamps(body, shape, count, first_timestamp))
            found_keys, found_values = _contents(body, shape, count)
            keys.append(found_keys)
            values.append(found_values)
            start += count * shape.size
            done += count
    except (IndexError, ValueError):  # it ends too soon, or has no shape at all
        return None
    if done != records or start != len(body):
        return None
    return Columns(chain.from_iterable(timestamps), chain(*keys), chain(*values))


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """The number that stands there, and where it ends. ValueError for more bytes than any of ours
    has: a number that is written with needless ones is for the reader of single records to judge.
    """
    number = 0
    for shift in range(0, 7 * VARINT_BYTES_MAX, 7):
        byte = body[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < _MORE:
            return number >> 1 ^ -(number & 1), at
    raise ValueError("a number of too many bytes")


def _shape(body: bytes, start: int) -> _Shape | None:
    length, timestamp = _varint(body, start)
    timestamp += 1  # behind the attributes
    size = timestamp - 1 + length - start
    _, offset = _varint(body, timestamp)
    _, at = _varint(body, offset)
    key_length, key = _varint(body, at)
    value_length, value = _varint(body, key + max(key_length, 0))
    end = value + max(value_length, 0) + 1  # behind the number of headers
    if (
        min(key_length, value_length) < -1
        or offset - timestamp != 1
        or body[timestamp - 1] != 0
        or body[end - 1] != 0
        or end != start + size
    ):
        return None
    return _Shape(start, timestamp, offset, key, key_length, value, value_length, size)


def _is_alike(body: bytes, shape: _Shape, width: int, first: int, count: int) -> bool:
    """Whether `count` records are of that shape, their offset deltas counting from `first`."""
    start, size = shape.start, shape.size
    end = start + count * size
    if end > len(body):
        return False
    framing = chain(
        range(start, shape.timestamp),
        range(shape.offset + width, shape.key),
        range(shape.key + max(shape.key_length, 0), shape.value),
        (start + size - 1,),
    )
    if any(body[at:end:size] != body[at : at + 1] * count for at in framing):
        return False
    deltas = _offset_columns(width, first, count)
    return all(body[shape.offset + n : end : size] == column for n, column in enumerate(deltas))


@lru_cache(8)
def _offset_columns(width: int, first: int, count: int) -> tuple[bytes, ...]:
    """The bytes of the offset deltas from `first` on, which is the first of that width."""
    if width == 1:
        return (bytes(range(0, 2 * count, 2)),)
    low = (_LOW * (count // 64 + 1))[:count]
    middle = first >> 6
    if width == 2:
        return low, _MIDDLE[64 * middle :][:count]
    high = b"".join(bytes((n,)) * 8192 for n in range(first >> 13, (first + count >> 13) + 1))
    return low, (_MIDDLE_MORE * (count // 8192 + 1))[:count], high[:count]


def _timestamps(body: bytes, shape: _Shape, count: int, first: int) -> Iterable[int]:
    deltas = body[shape.timestamp : shape.start + count * shape.size : shape.size]
    if deltas.count(0) == count:
        return repeat(first, count)
    if max(deltas) >= _MORE:
        raise ValueError("a timestamp delta of several bytes")
    return map(first.__add__, map(_ZIGZAG.__getitem__, deltas))


def _contents(
    body: bytes, shape: _Shape, count: int
) -> tuple[Iterable[bytes | None], Iterable[bytes | None]]:
    """Keys and values, each made when it is asked for: so they need no memory at once."""
    view = memoryview(body)[shape.start : shape.start + count * shape.size]
    key_at, value_at = shape.key - shape.start, shape.value - shape.start
    keys = _column(view, key_at, shape.key_length, shape.size)
    values = _column(view, value_at, shape.value_length, shape.size)
    return keys or repeat(None, count), values or repeat(None, count)


def _column(view: memoryview, at: int, length: int, size: int) -> Iterator[bytes] | None:
    """What stands `at` in each record; None: nothing does."""
    if length < 0:
        return None
    return map(_first, _form(at, length, size - at - length).iter_unpack(view))


@lru_cache(64)
def _form(before: int, length: int, behind: int) -> Struct:
    return Struct(f"{before}x{length}s{behind}x")
