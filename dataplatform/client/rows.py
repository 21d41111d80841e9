"""Rows as bytes: keys, columns, and pages of rows (platform.proto, "Rows").

A page is read by one `msgpack.Unpacker` over all of its bytes: 1–2 µs a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack

from ..base.errors import Invalid
from ..base.limits import KIB
from .garbage import collector_paused
from .values import Key, Row

SMALL_BYTES = 16 * KIB
"""A page of so few rows that the garbage collector hardly shows."""


def key_bytes(key: Key) -> bytes:
    """A row key as it is stored."""
    if isinstance(key, str):
        try:
            return key.encode()
        except UnicodeEncodeError:
            raise Invalid("the key is not UTF-8, pass bytes", key=key) from None
    if isinstance(key, bytes):
        return key
    if isinstance(key, (bytearray, memoryview)):
        return bytes(key)
    raise Invalid("a row key is str or bytes", key=key, type=type(key).__name__)


def key_value(key: bytes) -> Key:
    """A stored row key as users see it."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key


def pack_columns(columns: Mapping[str, Any]) -> bytes:
    """Columns as a request carries them."""
    try:
        packed: bytes = msgpack.packb(
            columns if type(columns) is dict else dict(columns), datetime=True
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise _unpackable(columns, error) from error
    return packed


def pack_row(key: Key, columns: Mapping[str, Any]) -> bytes:
    """Key and columns, as `PutMany` carries them."""
    return pack_key(key_bytes(key)) + pack_columns(columns)


def pack_key(key: bytes) -> bytes:
    """A key, as `PutMany` carries it."""
    size = len(key)
    if size < 256:
        return b"\xc4" + size.to_bytes(1, "big") + key  # bin 8
    packed: bytes = msgpack.packb(key)
    return packed


def _unpackable(columns: Mapping[str, Any], error: Exception) -> Invalid:
    if not isinstance(columns, Mapping):
        return Invalid("columns are a mapping of names to values", type=type(columns).__name__)
    for name, value in columns.items():
        if not isinstance(name, str):
            return Invalid("a column's name is a str", column=name)
        try:
            msgpack.packb(value, datetime=True)
        except (TypeError, ValueError, OverflowError) as reason:
            return Invalid(
                "a column's value is not one that MessagePack knows",
                column=name,
                type=type(value).__name__,
                reason=reason,
            )
    return Invalid("the columns cannot be packed", reason=error)


def unpack_page(page: bytes | memoryview) -> list[Row]:
    """The rows of a page."""
    unpacker = msgpack.Unpacker(
        max_buffer_size=0, timestamp=3, use_list=True, strict_map_key=False, raw=False
    )
    unpacker.feed(page)
    if len(page) < SMALL_BYTES:
        return _rows(unpacker)
    with collector_paused():
        return _rows(unpacker)


def _rows(unpacker: Iterable[Any]) -> list[Row]:
    rows: list[Row] = []
    append = rows.append
    make = tuple.__new__
    objects = iter(unpacker)
    for key, (version, expires_ms, columns) in zip(objects, objects, strict=True):
        try:
            name: Key = key.decode()
        except UnicodeDecodeError:
            name = key
        append(make(Row, (name, columns, version, expires_ms)))
    return rows
