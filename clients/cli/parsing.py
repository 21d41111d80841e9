"""What people write on the command line, as values: sizes, durations, columns, topics, times.

Used as Typer's `parser=`, so a wrong text is a usage error (exit code 2) that names the option.
`format_value` is the inverse of `parse_value`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import datetime, timedelta
from typing import Any

import typer

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTPE])(I?)(B?)|B)?", re.IGNORECASE)
_POWERS = "KMGTPE"

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[wdhms]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[wdhms])")
_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


def parse_size(text: str) -> int:
    """Bytes: `10GiB`, `100MiB`, `4K`, `1048576`. KiB and K are 1024, KB is 1000, and so on."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a size: write 10GiB, 100MiB or bytes")
    number, power, is_binary, is_bytes = match.groups()
    base = 1000 if is_bytes and not is_binary else 1024
    factor = base ** (_POWERS.index(power.upper()) + 1) if power else 1
    return int(number) * factor if number.isdigit() else round(float(number) * factor)


def parse_quota(text: str) -> int:
    """A size, or `none`, which is 0."""
    return 0 if text.lower() == "none" else parse_size(text)


def parse_duration(text: str) -> timedelta:
    """`30d`, `12h`, `15m`, `90s`, `500ms`, `2w`, or several as `1d12h`."""
    text = text.strip().lower()
    if not _DURATION.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a duration: write 30d, 12h, 15m, 90s or 500ms")
    try:
        parts = [_UNITS[unit] * float(number) for number, unit in _DURATION_PART.findall(text)]
        return sum(parts, timedelta())
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long a duration") from None


def format_duration(duration: timedelta) -> str:
    """As `parse_duration` reads it, in the largest units: `30d`, `1h30m`."""
    rest = round(duration / _UNITS["ms"])
    written = ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit] // _UNITS["ms"])
        written += f"{count}{unit}" if count else ""
    return written or "0s"


def parse_value(text: str) -> Any:
    """A column's value: JSON, else the text itself; `{"base64": "…"}` means bytes."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text
    if isinstance(value, dict) and value.keys() == {"base64"}:
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (TypeError, binascii.Error):
            return value
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def format_value(value: Any) -> str:
    """A column's value in words that `parse_value` reads as the same value."""
    from .outputs import to_json

    if isinstance(value, str) and value.isprintable() and parse_value(value) == value:
        return value
    return to_json(value)


def parse_columns(assignments: list[str]) -> dict[str, Any]:
    """`["km=12", "model=ES8"]` as columns."""
    columns = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{assignment!r} is not COLUMN=VALUE")
        columns[name] = parse_value(value)
    return columns


def parse_names(text: str) -> list[str]:
    """Names separated by commas."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise typer.BadParameter(f"{text!r} is not a list of names: write a,b")
    return names


def split_topic(text: str) -> tuple[str, str]:
    """Path and topic of `PATH:TOPIC`; the topic is empty where none is named."""
    path, colon, topic = text.rpartition(":")
    return (path, topic) if colon and "/" not in topic else (text, "")


def parse_topic(text: str) -> tuple[str, str]:
    """Path and topic of `PATH:TOPIC`, both given."""
    path, topic = split_topic(text)
    if not path or not topic:
        raise typer.BadParameter(
            f"{text!r} names no topic: write PATH:TOPIC, and TOPIC with letters, digits, `.`, `_`"
            " and `-` only"
        )
    return path, topic


def parse_start(text: str) -> str | int | datetime:
    """Where to begin: `earliest`, `latest`, an offset, or a time such as 2026-01-31T12:00."""
    if text in ("earliest", "latest"):
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no place to start: write earliest, latest, an offset or a time"
        ) from None
