"""Waiting for the machine's other programs to rest, where it is shared."""

from __future__ import annotations

import time
from pathlib import Path

LOOK_S = 1.0
BUSY_MAX = 0.15
"""Part of all processors' time that others may use in a quiet moment."""


def busy_part(before: str, after: str) -> float:
    """What part of the processors' time was used between two readings of /proc/stat (proc(5))."""
    first, second = _times(before), _times(after)
    total = sum(second) - sum(first)
    idle = sum(second[3:5]) - sum(first[3:5])  # idle, and idle while a disk works
    return 1 - idle / total if total else 0.0


def _times(stat: str) -> list[int]:
    """Of all processors together; guests are counted in user time already."""
    return [int(field) for field in stat.split("\n", 1)[0].split()[1:9]]


def wait(patience_s: float) -> bool:
    """Whether there is a quiet moment within so many seconds."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        before = Path("/proc/stat").read_text()
        time.sleep(LOOK_S)
        if busy_part(before, Path("/proc/stat").read_text()) <= BUSY_MAX:
            return True
    return False
