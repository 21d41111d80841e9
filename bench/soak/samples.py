"""The server's memory over time: a line of CSV every few seconds, and what they say together."""

from __future__ import annotations

import csv
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .. import proc

COLUMNS = ("seconds", "rss_bytes", "processor_s", "open_files", "data_bytes", "operations")


@dataclass(frozen=True, slots=True)
class Sample:
    seconds: float
    rss_bytes: int
    processor_s: float
    open_files: int
    data_bytes: int
    operations: int


class Sampler:
    """Takes samples and writes each to the file at once: what a broken run has seen is kept."""

    def __init__(self, file: IO[str], pid: int, data: Path, operations: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._writer = csv.writer(file)
        self._writer.writerow(COLUMNS)
        self._file = file
        self._pid = pid
        self._data = data
        self._operations = operations
        self._started = time.monotonic()

    def take(self) -> Sample:
        sample = Sample(
            seconds=round(time.monotonic() - self._started, 1),
            rss_bytes=proc.resident_bytes(self._pid),
            processor_s=proc.processor_s(self._pid),
            open_files=proc.open_files(self._pid),
            data_bytes=stored_bytes(self._data),
            operations=self._operations(),
        )
        self.samples.append(sample)
        self._writer.writerow([getattr(sample, name) for name in COLUMNS])
        self._file.flush()
        return sample


def stored_bytes(directory: Path) -> int:
    """Bytes on the disk below a directory that changes meanwhile."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


@dataclass(frozen=True, slots=True)
class Trend:
    first_quarter_bytes: float
    last_quarter_bytes: float
    slope_bytes_per_hour: float
    """Least squares over the last three quarters: the first one fills the caches."""


def trend(samples: list[Sample]) -> Trend:
    """What memory does over the run. Needs eight samples."""
    quarter = len(samples) // 4
    later = samples[quarter:]
    line = statistics.linear_regression(
        [sample.seconds for sample in later], [sample.rss_bytes for sample in later]
    )
    return Trend(
        statistics.median(sample.rss_bytes for sample in samples[:quarter]),
        statistics.median(sample.rss_bytes for sample in samples[-quarter:]),
        line.slope * 3600,
    )
