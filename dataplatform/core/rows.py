"""Rows: what a key and its columns may be, and how rows become a page for a client.

Columns arrive and leave packed (MessagePack), and are stored packed. They are decoded once on the
way in, to be checked, and on the way out only when a filter or a choice of columns asks for it.

Pure functions: errors name what is wrong with a key or a column; `tables` adds whose it is.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NoReturn

import msgpack

from ..base.errors import Corrupt, Invalid, PlatformError
from ..base.limits import COLUMNS_MAX, ROW_BYTES_MAX, ROW_KEY_BYTES_MAX
from ..engine.base import Pair
from ..keyspace.records import ROW_HEAD

Columns = dict[str, Any]
Test = Callable[[bytes, Columns], bool]
"""What a `where` became: is this row (its key, its columns) wanted?"""

VALUE_DEPTH_MAX = 64
"""Lists and maps within each other: checking and filtering recurse."""

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1
"""What other languages, Arrow and `increment` can hold."""

_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
_TIME_FIRST_S, _TIME_LAST_S = -62_135_596_800, 253_402_300_799  # what Python's datetime holds
_UINT64_MARK = b"\xcf"

_unpack = msgpack.unpackb
_pack = msgpack.Packer().pack  # one for all: making a packer costs more than packing a row


# ---------------------------------------------------------------- checking


def check_key(key: bytes) -> None:
    if type(key) is not bytes:
        raise Invalid("a row key is not bytes", type=_word(key))
    if not key:
        raise Invalid("a row key is empty")
    if len(key) > ROW_KEY_BYTES_MAX:
        raise Invalid(
            "a row key is too long",
            bytes=len(key),
            bytes_max=ROW_KEY_BYTES_MAX,
            errno=errno.ENAMETOOLONG,
        )


def unpack_columns(packed: bytes) -> Columns:
    """The columns that a client sent; INVALID if they cannot be a row's."""
    check_size(packed)
    try:
        columns = _unpack(packed)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise _unreadable("columns are not one MessagePack map", error) from error
    check_columns(columns, packed)
    return columns  # type: ignore[no-any-return]


def _unreadable(message: str, error: Exception) -> Invalid:
    if isinstance(error, msgpack.StackError):
        return Invalid("a value is nested too deep", depth_max=VALUE_DEPTH_MAX)
    return Invalid(message, reason=str(error) or type(error).__name__)


def check_size(packed: bytes) -> None:
    if len(packed) > ROW_BYTES_MAX:
        raise Invalid(
            "a row is too large", bytes=len(packed), bytes_max=ROW_BYTES_MAX, errno=errno.EFBIG
        )


def check_columns(columns: Any, packed: bytes) -> None:
    """`columns` is what `packed` says."""
    if type(columns) is not dict:
        raise Invalid("columns are not a map", type=_word(columns))
    if not _known_names.issuperset(columns):
        for name in columns:
            _check_name(name)
    if len(columns) > COLUMNS_MAX:
        check_count(columns)
    if not _PLAIN.issuperset(map(type, columns.values())) or _UINT64_MARK in packed:
        for name, value in columns.items():
            _check_value(value, name, 1)


def check_count(columns: Columns) -> None:
    if len(columns) > COLUMNS_MAX:
        raise Invalid(
            "a row has too many columns",
            columns=len(columns),
            columns_max=COLUMNS_MAX,
            errno=errno.EFBIG,
        )


_known_names: set[str] = set()
"""Short names that passed the check. Rows of a table share them, so most rows need one look."""

_KNOWN_NAMES_MAX = 10_000
_KNOWN_NAME_LENGTH_MAX = 100


def _check_name(name: Any) -> None:
    if type(name) is not str or not name or "\x00" in name:
        raise Invalid("a column's name is a text that is not empty and has no NUL", column=name)
    if len(name) <= _KNOWN_NAME_LENGTH_MAX:
        if len(_known_names) >= _KNOWN_NAMES_MAX:
            _known_names.clear()
        _known_names.add(name)


def check_name(name: str) -> None:
    if name not in _known_names:
        _check_name(name)


def _check_value(value: Any, column: str, depth: int) -> None:
    kind = type(value)
    if kind is int:
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise Invalid("an integer has more than 64 bits with its sign", column=column)
    elif kind in _PLAIN:
        return
    elif kind is msgpack.Timestamp:
        if not _TIME_FIRST_S <= value.seconds <= _TIME_LAST_S:
            raise Invalid("a timestamp lies outside of the years 1 to 9999", column=column)
    elif kind is list:
        _check_depth(column, depth)
        for item in value:
            _check_value(item, column, depth + 1)
    elif kind is dict:
        _check_depth(column, depth)
        for name, item in value.items():
            if type(name) is not str:
                raise Invalid("a map's keys are texts", column=column, type=_word(name))
            _check_value(item, column, depth + 1)
    else:
        raise Invalid("a value is of a type that is not stored", column=column, type=_word(value))


def _check_depth(column: str, depth: int) -> None:
    if depth > VALUE_DEPTH_MAX:
        raise Invalid("a value is nested too deep", column=column, depth_max=VALUE_DEPTH_MAX)


_WORDS = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "real",
    str: "text",
    bytes: "bytes",
    list: "list",
    dict: "map",
    msgpack.Timestamp: "timestamp",
    msgpack.ExtType: "extension",
}


def _word(value: Any) -> str:
    """The type of a value, for people."""
    return _WORDS.get(type(value), type(value).__name__)


# ---------------------------------------------------------------- packing


def canonical(packed: bytes, columns: Columns) -> bytes:
    """What is stored: the bytes as they came, unless a name was given twice or a longer head
    than needed was used."""
    count = len(columns)
    if count < 16:
        if packed[0] == 0x80 | count:
            return packed
    elif packed[0] == 0xDE and int.from_bytes(packed[1:3], "big") == count:
        return packed
    return pack_columns(columns)


def pack_columns(columns: Columns) -> bytes:
    packed: bytes = _pack(columns)
    return packed


def columns_of(value: bytes) -> Columns:
    """The columns of a stored row."""
    try:
        _, _, columns = _unpack(value)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Corrupt("a stored row cannot be read", reason=error) from error
    if type(columns) is not dict:
        raise Corrupt("a stored row has no columns")
    return columns


def merged(old: Columns, fresh: Columns) -> bytes:
    """The packed columns of a row after a put onto it."""
    old.update(fresh)
    check_count(old)
    packed = pack_columns(old)
    check_size(packed)
    return packed


def merged_packed(old: bytes, fresh: bytes) -> bytes:
    """The same of a stored row and of columns that were checked and packed."""
    return merged(columns_of(old), _unpack(fresh))


def add(value: Any, amount: int | float, column: str) -> int | float:
    """The value of a counter after an increment; None (no such column) counts from 0."""
    if type(amount) is int:
        if not INTEGER_MIN <= amount <= INTEGER_MAX:
            raise Invalid("an increment has more than 64 bits with its sign", column=column)
    elif not _is_finite(amount):
        raise Invalid("an increment is not a number", column=column)
    if value is None:
        return amount
    if type(value) is not int and type(value) is not float:
        raise Invalid("the column is not a number", column=column, type=_word(value))
    total: int | float = value + amount
    if type(total) is int:
        if not INTEGER_MIN <= total <= INTEGER_MAX:
            _overflow(column)
    elif not _is_finite(total):
        _overflow(column)
    return total


def _is_finite(number: float) -> bool:
    return number - number == 0


def _overflow(column: str) -> NoReturn:
    raise Invalid("the sum is beyond 64 bits", column=column)


# ---------------------------------------------------------------- many rows


class BulkRows:
    """Reads what `put_many` brings, step by step: key, columns, key, columns, … as MessagePack.

    `packed` holds what was read: checked columns by key. A row that comes again adds to the
    earlier one, or takes its place if `replace`. `keys` are the keys as they came, `key` is the
    one being read, for errors.
    """

    def __init__(self, data: bytes, *, replace: bool) -> None:
        self.packed: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.key = b""
        self._data = data
        self._replace = replace
        self._position = 0
        self._unpacker = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
        self._unpacker.feed(data)

    @property
    def more(self) -> bool:
        return self._position < len(self._data)

    def read(self, count: int) -> None:
        """Read at most `count` more rows. INVALID, as `unpack_columns`."""
        unpack, tell, data = self._unpacker.unpack, self._unpacker.tell, self._data
        packed_rows = self.packed
        position, size = self._position, len(data)
        key = b""
        try:
            while position < size and count:
                count -= 1
                key = b""
                key = unpack()
                if type(key) is not bytes or not 0 < len(key) <= ROW_KEY_BYTES_MAX:
                    check_key(key)
                start = tell()
                columns = unpack()
                position = tell()
                packed = data[start:position]
                if position - start > ROW_BYTES_MAX:
                    check_size(packed)
                check_columns(columns, packed)
                if key in packed_rows and not self._replace:
                    packed_rows[key] = merged(_unpack(packed_rows[key]), columns)
                else:
                    packed_rows[key] = canonical(packed, columns)
                self.keys.append(key)
        except PlatformError:
            self.key = key
            raise
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            self.key = key
            raise _unreadable("rows are not MessagePack: key, columns, …", error) from error
        self._position = position


# ---------------------------------------------------------------- pages

_KEY_START = 9  # of the row's key within the engine's key, see keyspace.keys
_EXPIRY_MARK = 10  # where a stored row has its expiry, see records.ROW_HEAD
_EXPIRY, _EXPIRY_END = 11, 19
_NEVER = b"\xcf" + bytes(8)

_HEADS = (
    (b"",) * _KEY_START
    + tuple(b"\xc4" + n.to_bytes(1, "big") for n in range(256))
    + tuple(b"\xc5" + n.to_bytes(2, "big") for n in range(256, ROW_KEY_BYTES_MAX + 1))
)
"""MessagePack's head of a row key, by the length of the engine's key."""


def moment(now_ns: int) -> bytes:
    """Now, in the form in which rows store their expiry, so that bytes can be compared."""
    return (now_ns // 1_000_000).to_bytes(8, "big")


def is_alive(value: bytes, now: bytes) -> bool:
    """Whether a stored row has not expired at that `moment`."""
    return value.startswith(_NEVER, _EXPIRY_MARK) or value[_EXPIRY:_EXPIRY_END] > now


def page(pairs: Iterable[Pair], now: bytes) -> bytes:
    """A rows page of whole rows, those expired left out; see the head of platform.proto.

    Rows go out as they are stored. This loop is the speed of a scan.
    """
    heads = _HEADS
    return b"".join(
        [
            part
            for key, value in pairs
            if value.startswith(_NEVER, _EXPIRY_MARK) or value[_EXPIRY:_EXPIRY_END] > now
            for part in (heads[len(key)], key[_KEY_START:], value)
        ]
    )


def selected(
    pairs: Sequence[Pair],
    now: bytes,
    columns: Collection[str] | None,
    test: Test | None,
    limit: int,
    hidden: Collection[str] = (),
) -> tuple[bytes, int, int]:
    """(rows page, its rows, pairs looked at) of rows that pass the test, with these columns only
    (None: all), less the hidden ones. Stops at `limit` rows."""
    parts: list[bytes] = []
    rows = looked_at = 0
    for stored_key, value in pairs:
        if rows == limit:
            break
        looked_at += 1
        if not (value.startswith(_NEVER, _EXPIRY_MARK) or value[_EXPIRY:_EXPIRY_END] > now):
            continue
        row = columns_of(value)
        key = stored_key[_KEY_START:]
        if test is not None and not test(key, row):
            continue
        rows += 1
        parts += (_HEADS[len(stored_key)], key)
        if columns is not None:
            chosen = {name: row[name] for name in columns if name in row and name not in hidden}
            parts += (value[: ROW_HEAD.size], _pack(chosen))
        elif not hidden or not row.keys() & hidden:
            parts.append(value)
        else:
            chosen = {name: item for name, item in row.items() if name not in hidden}
            parts += (value[: ROW_HEAD.size], _pack(chosen))
    return b"".join(parts), rows, looked_at
