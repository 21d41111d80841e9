"""How far the rotation of a volume's key has come; see `encryption`."""

from __future__ import annotations

FIRST, LAST = b"\x00", b"\xff"
"""All keys of a volume lie between."""


class Rotation:
    """Of one volume, since it was opened or its key was rotated."""

    __slots__ = ("damaged", "next", "renewed", "segments_left", "tries")

    def __init__(self) -> None:
        self.next: bytes | None = FIRST  # values before it are done; None: all are
        self.renewed = 0
        self.damaged = 0
        self.segments_left = 0
        self.tries: dict[int, int] = {}  # of segments: how often they were moved
