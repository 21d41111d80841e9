"""The soak's trend of memory, its samples, and that its parts notice what is wrong."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from dataplatform_bench.soak.parts import Mismatch, expect
from dataplatform_bench.soak.samples import COLUMNS, Sample, Sampler, stored_bytes, trend

MB = 1_000_000


def samples(*rss_mb: float) -> list[Sample]:
    """One every ten minutes."""
    return [
        Sample(600.0 * number, int(size * MB), 0, 0, 0, 0) for number, size in enumerate(rss_mb)
    ]


def test_what_fills_up_and_stays_is_flat() -> None:
    found = trend(samples(50, 90, 100, 100, 100, 100, 100, 100))
    assert found.first_quarter_bytes == 70 * MB
    assert found.last_quarter_bytes == 100 * MB
    assert found.slope_bytes_per_hour == pytest.approx(0, abs=1)


def test_what_leaks_has_a_slope() -> None:
    found = trend(samples(50, 60, 70, 80, 90, 100, 110, 120))
    assert found.slope_bytes_per_hour == pytest.approx(60 * MB)


def test_a_sample_is_written_at_once(tmp_path: Path) -> None:
    (tmp_path / "stored").write_bytes(b"x" * 8192)
    file = io.StringIO()
    sampler = Sampler(file, os.getpid(), tmp_path, lambda: 7)
    sample = sampler.take()
    (row,) = csv.DictReader(io.StringIO(file.getvalue()))
    assert tuple(row) == COLUMNS
    assert int(row["rss_bytes"]) == sample.rss_bytes > MB
    assert (sample.operations, sample.data_bytes) == (7, stored_bytes(tmp_path))


def test_a_difference_is_a_mismatch_that_says_where() -> None:
    expect([1], [1], "there")
    with pytest.raises(Mismatch, match=r"there: '2' instead of '1'"):
        expect(2, 1, "there")
