"""What people write on the command line, as values: sizes, durations, columns, topics, times.

Used as Typer's `parser=`, so a wrong text is a usage error (exit code 2) that names the option.
`format_value` is the inverse of `parse_value`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import typer

from ..quantities import duration_of, size_of


def parse_size(text: str) -> int:
    """Bytes: `10GiB`, `100MiB`, `4K`, `1048576`. KiB and K are 1024, KB is 1000, and so on."""
    try:
        return size_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_quota(text: str) -> int:
    """A size, or `none`, which is 0."""
    return 0 if text.lower() == "none" else parse_size(text)


def parse_entries(text: str) -> int:
    """A count, `10k` or `2M` for thousands and millions, or `none`, which is 0."""
    lowered = text.lower()
    factor = {"k": 1000, "m": 1_000_000}.get(lowered[-1:], 1)
    digits = lowered if factor == 1 else lowered[:-1]
    if lowered == "none":
        return 0
    if not digits.isascii() or not digits.isdigit():
        raise typer.BadParameter(f"{text!r} is not a count: write 1000000, 10k, 2M or none")
    return int(digits) * factor


def parse_iops(text: str) -> int:
    """A count per second, or `none`, which is 0."""
    if text.lower() == "none":
        return 0
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise typer.BadParameter(f"{text!r} is no count: write 500, or `none`")
    return int(text)


def parse_duration(text: str) -> timedelta:
    """`30d`, `12h`, `15m`, `90s`, `500ms`, `2w`, or several as `1d12h`."""
    try:
        return duration_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_ttl(text: str) -> timedelta:
    """A duration, or `none`, which is 0."""
    return timedelta() if text.lower() == "none" else parse_duration(text)


def parse_keep(text: str) -> timedelta:
    """A duration, or `default`, which is 0."""
    return timedelta() if text.lower() == "default" else parse_duration(text)


def parse_rows(text: str) -> int:
    """A count, or `default`, which is 0."""
    return 0 if text.lower() == "default" else parse_entries(text)


def parse_value(text: str) -> Any:
    """A column's value: JSON, else the text itself; `{"base64": "…"}` means bytes."""
    from dataplatform.client.literals import from_json

    try:
        return from_json(text)
    except ValueError:
        return text


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
