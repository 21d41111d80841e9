"""What the disk itself gives, in the same run: every figure of ours is read beside these."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path


def sync_write_s(directory: Path, *, size_bytes: int = 100, rounds: int = 200) -> float:
    """Median seconds of one append + fdatasync."""
    descriptor = os.open(directory / "sync", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    times = []
    try:
        for _ in range(rounds):
            started = time.perf_counter()
            os.write(descriptor, b"x" * size_bytes)
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
    return statistics.median(times)


def buffered_rates(directory: Path, *, size_bytes: int = 256 << 20) -> tuple[float, float]:
    """(write, read) in bytes/s through the page cache, 1 MiB calls."""
    path = directory / "buffered"
    block = os.urandom(1 << 20)
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size_bytes >> 20):
            file.write(block)
    written = size_bytes / (time.perf_counter() - started)
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
    read = size_bytes / (time.perf_counter() - started)
    path.unlink()
    return written, read
