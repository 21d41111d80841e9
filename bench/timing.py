"""How long things take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    watch = Stopwatch()
    started = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - started


def median_us(call: Callable[[int], object], count: int) -> float:
    """The median time of `count` calls, each timed alone, in microseconds."""
    times = []
    for number in range(count):
        started = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def rate(call: Callable[[int], object], count: int) -> float:
    """Calls per second, one after the other."""
    with timed() as watch:
        for number in range(count):
            call(number)
    return count / watch.seconds
