"""Row keys as file names: `KEY.json`.

A key is any bytes, a name is not. What cannot stand in a name is written as `%` and two capital
hexadecimal digits: slashes, control characters, `%` itself, bytes that are no UTF-8, and a dot at
the beginning, since `ls` and `*` skip names with one. A key has exactly one name, and a name means
exactly one key: other spellings (`%2f`, `%41`) name nothing.

Names that do not end in `.json`, or begin with a dot, never stand for a row: they are what editors
write beside the file that they edit.
"""

from __future__ import annotations

import re

from dataplatform.base.limits import NAME_BYTES_MAX

SUFFIX = ".json"

_ESCAPED = re.compile("^\\.|[/%\x00-\x1f\x7f\udc80-\udcff]")
_ESCAPES = re.compile("%([0-9A-F]{2})")


def names_row(name: str) -> bool:
    """Whether the name is of the form that names of rows have."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def name_of(key: bytes) -> str | None:
    """The file of a row. None: the name would be too long, so there is no such file."""
    name = _ESCAPED.sub(_escape, _text(key)) + SUFFIX
    return name if len(_bytes(name)) <= NAME_BYTES_MAX else None


def key_of(name: str) -> bytes | None:
    """The key that the name stands for; None if it stands for none."""
    if not names_row(name):
        return None
    key = _bytes(_ESCAPES.sub(_unescape, name[: -len(SUFFIX)]))
    return key if name_of(key) == name else None


def _escape(match: re.Match[str]) -> str:
    (byte,) = _bytes(match[0])
    return f"%{byte:02X}"


def _unescape(match: re.Match[str]) -> str:
    return _text(bytes((int(match[1], 16),)))


def _text(data: bytes) -> str:
    """As Python has file names: bytes that are no UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
