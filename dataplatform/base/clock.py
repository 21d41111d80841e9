"""Time and randomness are handed in (D12): one seed replays a test, crashes included."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol


class Clock(Protocol):
    def now_ns(self) -> int:
        """Wall-clock time in nanoseconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never run backwards, for intervals."""


class SystemClock:
    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until told: `advance(seconds)`."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._ns = start_ns

    def now_ns(self) -> int:
        return self._ns

    def monotonic(self) -> float:
        return self._ns / 1e9

    def advance(self, seconds: float) -> None:
        assert seconds >= 0
        self._ns += int(seconds * 1e9)


class StoppedClock:
    """A clock whose time of day stands still; intervals go on."""

    def __init__(self, clock: Clock, now_ns: int) -> None:
        self._ns = now_ns
        self.monotonic = clock.monotonic

    def now_ns(self) -> int:
        return self._ns


class Entropy(Protocol):
    def token(self, size: int) -> bytes:
        """`size` random bytes."""


class SystemEntropy:
    def token(self, size: int) -> bytes:
        return os.urandom(size)


class SeededEntropy:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - for tests that are replayed

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)
