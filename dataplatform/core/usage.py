"""How much a volume holds, and what it may still take: by its quota, and by the disk below.

Buffered writes are not counted before they are flushed.
"""

from __future__ import annotations

from typing import NamedTuple

from ..engine.base import Room
from .volumes import Volume


class Usage(NamedTuple):
    """Bytes; `capacity` is 0 if nobody knows, and then `available` is, too."""

    used: int
    entries: int
    quota: int  # 0: none
    capacity: int
    available: int


def usage_of(volume: Volume, room: Room | None) -> Usage:
    """`room`: of the disk below, if it is known."""
    used, entries = volume.state.used_bytes, volume.state.entries
    quota = volume.settings.quota_bytes
    if not quota:
        return Usage(used, entries, 0, *(room or (0, 0)))
    left = max(0, quota - used)
    return Usage(used, entries, quota, quota, min(left, room.available_bytes) if room else left)
