"""Values as JSON: how a row reads in `dp table get --json` and in a mounted table's files.

JSON lacks some values that a row may hold. They are spelled so that people can read them:

    bytes              their text where they are UTF-8, otherwise {"base64": "AAH/"}
    timestamp          its text in ISO 8601
    NaN, infinities    {"float": "nan"}

Reading takes {"base64": …}, {"float": …} and {"timestamp": "2026-01-31T12:00:00Z"} for what they
say, but a text is a text. So what was written loses the types of bytes that are UTF-8 and of
timestamps, unless there is something to compare it with: `restore` keeps the old value of whatever
still reads the same.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

_PLAIN = (type(None), bool, int, str)


# ----------------------------------------------------------------------------------- writing


def to_json(value: Any) -> str:
    """One line of JSON. TypeError for what no row holds."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError):
        return _ENCODER.encode(spelled(value))


def literal(value: Any) -> Any:
    """What the JSON encoder asks about: bytes, times and mappings, as it knows them."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text(bytes(value))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no value of a row: {type(value).__name__}")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=literal)


def spelled(value: Any) -> Any:
    """What the encoder cannot ask about: NaN and infinities, names in maps that are no text."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {_name(k): spelled(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [spelled(v) for v in value]
    return value


def _name(key: Any) -> str:
    key = _text(key) if isinstance(key, bytes) else key
    return key if isinstance(key, str) else to_json(key)


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


# ----------------------------------------------------------------------------------- reading


def from_json(text: str | bytes | bytearray) -> Any:
    """The value that a JSON text says. ValueError if it is none."""
    return meant(parse(text))


def parse(text: str | bytes | bytearray) -> Any:
    """A JSON text as Python reads it, spelled values still as spelled. ValueError."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def meant(value: Any) -> Any:
    """What a value means in which others may be spelled."""
    if isinstance(value, list):
        return [meant(v) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (name, spelling), *_ = value.items()
        if name in _READERS and isinstance(spelling, str):
            try:
                return _READERS[name](spelling)
            except (ValueError, binascii.Error):
                pass
    return {k: meant(v) for k, v in value.items()}


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _float(text: str) -> float:
    number = float(text)
    if math.isfinite(number):
        raise ValueError("JSON has numbers of its own for those")
    return number


def _timestamp(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without a zone")
    return time


_READERS = {"base64": _bytes, "float": _float, "timestamp": _timestamp}


def restore(parsed: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that `parsed` means, where it is a row's text that somebody has edited: a column
    that reads as it did has the value that it had."""
    return {
        name: before[name] if name in before and _reads_as(value, before[name]) else meant(value)
        for name, value in parsed.items()
    }


def _reads_as(value: Any, before: Any) -> bool:
    """Whether `value` is what the text of `before` says. False also where that does not matter."""
    return type(before) not in _PLAIN and _ENCODER.encode(value) == to_json(before)
