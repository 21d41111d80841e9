"""A manifest that forgot: tables are there, and what says that they belong to the database is not.

RocksDB reads its manifest as far as it is whole, takes the rest for the torn end of a crash, and
deletes the tables that it does not name. After a crash that is right: what such a table holds is in
the log, too, which goes only when the manifest is synced. Where the log is gone, acknowledged
commits would silently be lost: so before opening, this module looks for just that.

Source: RocksDB's ``db/version_edit.cc``; the records are framed as those of a log, see wal.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from . import wal

MANIFEST_BYTES_MAX = 8 << 20
"""A larger one is not looked at: reading it takes seconds."""

TABLE_MAGIC = bytes.fromhex("f7cff485b741e288")
"""What a whole table ends in."""

_COMPARATOR, _LOG, _NEXT_FILE, _SEQUENCE, _CURSOR, _DELETED, _NEW = 1, 2, 3, 4, 5, 6, 7
_PREVIOUS_LOG, _LOG_TO_KEEP = 9, 10
_NEW_2, _NEW_3, _NEW_4 = 100, 102, 103
_FAMILY, _FAMILY_ADDED, _FAMILY_DROPPED, _FAMILY_MAX, _GROUP = 200, 201, 202, 203, 300
_NUMBERS = (_LOG, _NEXT_FILE, _SEQUENCE, _PREVIOUS_LOG, _LOG_TO_KEEP, _FAMILY, _FAMILY_MAX, _GROUP)
_IGNORABLE = 1 << 13  # a tag with this bit is followed by a string, whatever it means
_LAST_FIELD = 1  # ends the further fields of a new file

FORGOT = "tables are there that neither the manifest nor a log knows of"


class _UnknownError(Exception):
    """The manifest says something that is not known here."""


@dataclass(slots=True)
class _Edits:
    """What the whole records of a manifest say."""

    tables: set[int] = field(default_factory=set)  # ever named, also those deleted since
    log: int = 0
    sequence: int = 0


def problem(directory: Path) -> str:
    """What is wrong with the manifest of the database in `directory` that RocksDB would not say.
    "" also where that cannot be known."""
    try:
        manifest = directory / (directory / "CURRENT").read_text().strip()
        if manifest.stat().st_size > MANIFEST_BYTES_MAX:
            return ""
        data = manifest.read_bytes()
        if wal.has_unknown_record(data):
            return "the manifest ends in what is no record"  # RocksDB 10 may wait there for ever
        edits = _read(data)
    except (OSError, ValueError, IndexError, _UnknownError):
        return ""  # RocksDB says what is wrong
    return FORGOT if _forgot(directory, edits) else ""


def _forgot(directory: Path, edits: _Edits) -> bool:
    """Whether tables are named by nothing and in no log."""
    unnamed = [
        path
        for path in directory.glob("*.sst")
        if int(path.stem) not in edits.tables and _is_whole(path)
    ]
    if not unnamed or (directory / f"{edits.log:06}.log").exists():
        return False
    first = _first_sequence(directory)
    return first is None or first > edits.sequence + 1


def _is_whole(table: Path) -> bool:
    return table.read_bytes()[-len(TABLE_MAGIC) :] == TABLE_MAGIC


def _first_sequence(directory: Path) -> int | None:
    """Of the oldest commit in the logs; None if there is none."""
    for path in sorted(directory.glob("*.log"), key=lambda path: int(path.stem)):
        for payload in wal.payloads(path.read_bytes()):
            return int.from_bytes(payload[:8], "little")
    return None


def _read(manifest: bytes) -> _Edits:
    edits = _Edits()
    for payload in wal.payloads(manifest):
        _apply(edits, _Input(payload))
    return edits


class _Input:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def skip(self) -> None:
        """A string."""
        length = self.number()
        self._at += length


def _apply(edits: _Edits, data: _Input) -> None:
    while data:
        tag = data.number()
        if tag in _NUMBERS:
            value = data.number()
            if tag == _LOG:
                edits.log = max(edits.log, value)
            elif tag == _SEQUENCE:
                edits.sequence = max(edits.sequence, value)
        elif tag in (_COMPARATOR, _FAMILY_ADDED) or tag & _IGNORABLE:
            data.skip()
        elif tag == _CURSOR:
            data.number()
            data.skip()
        elif tag == _DELETED:
            data.number()
            data.number()
        elif tag in (_NEW, _NEW_2, _NEW_3, _NEW_4):
            edits.tables.add(_new_table(data, tag))
        elif tag != _FAMILY_DROPPED:
            raise _UnknownError


def _new_table(data: _Input, tag: int) -> int:
    data.number()  # level
    number = data.number()
    if tag == _NEW_3:
        data.number()  # path
    data.number()  # size
    data.skip()  # smallest and largest key
    data.skip()
    if tag != _NEW:
        data.number()  # smallest and largest sequence
        data.number()
    while tag == _NEW_4 and data.number() != _LAST_FIELD:
        data.skip()
    return number
