"""Sizes and durations as people write them: on a command line, in /etc/fstab.

`10GiB`, `100MiB`, `4K`, `1048576`; `30d`, `12h`, `15m`, `90s`, `500ms`, `1d12h`. A text that is
neither is a ValueError that says what to write.
"""

from __future__ import annotations

import re
from datetime import timedelta

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


def size_of(text: str) -> int:
    """Bytes. KiB and K are 1024, KB is 1000, and so on."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 10GiB, 100MiB or bytes")
    number, power, is_binary, is_bytes = match.groups()
    base = 1000 if is_bytes and not is_binary else 1024
    factor = base ** (_POWERS.index(power.upper()) + 1) if power else 1
    return int(number) * factor if number.isdigit() else round(float(number) * factor)


def duration_of(text: str) -> timedelta:
    """In one unit or several: `90s`, `1d12h`."""
    text = text.strip().lower()
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write 30d, 12h, 15m, 90s or 500ms")
    try:
        parts = [_UNITS[unit] * float(number) for number, unit in _DURATION_PART.findall(text)]
        return sum(parts, timedelta())
    except OverflowError:
        raise ValueError(f"{text!r} is too long a duration") from None


def format_duration(duration: timedelta) -> str:
    """As `duration_of` reads it, in the largest units: `30d`, `1h30m`."""
    rest = round(duration / _UNITS["ms"])
    written = ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit] // _UNITS["ms"])
        written += f"{count}{unit}" if count else ""
    return written or "0s"
