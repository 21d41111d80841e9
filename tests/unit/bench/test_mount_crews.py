"""Processes that do a step together, and the steps on a local directory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dataplatform_bench.mounts import steps
from dataplatform_bench.mounts.crews import Crew, Lap, pace
from dataplatform_bench.processes import Failed


def test_the_pace_of_all_is_from_the_first_begin_to_the_last_end() -> None:
    together = pace([Lap(10, 0.0, 1.0), Lap(10, 1.0, 3.0)])
    assert together.rate == pytest.approx(20 / 3)
    assert together.least_share == pytest.approx(5 / 7.5)


def test_the_steps_leave_and_find_what_they_say(tmp_path: Path) -> None:
    with Crew(tmp_path, 2) as crew:
        for step in (
            *(steps.create, steps.rename, steps.mkdir, steps.create_written, steps.read),
            *(steps.stat, steps.stat_again, steps.write_synced, steps.overwrite_synced),
        ):
            assert crew.do(step, 5).rate > 0
        assert sorted(os.listdir(tmp_path)) == ["0", "1"]
        assert {f"{kind}{n}" for kind in "dw" for n in range(5)} <= set(os.listdir(tmp_path / "1"))
        crew.do(steps.unlink, 5)
        crew.do(steps.clean, 1)
    assert os.listdir(tmp_path) == []


def test_listing_and_bulk_steps(tmp_path: Path) -> None:
    with Crew(tmp_path, 1) as crew:
        crew.do(steps.entries, 20)
        crew.do(steps.listdir, 20)
        crew.do(steps.scandir_stat, 20)
        with pytest.raises(Failed, match="20 entries instead of 21"):
            crew.do(steps.listdir, 21)
        assert crew.do(steps.write_bulk, 2).rate > 0
        crew.do(steps.read_bulk, 2)


def test_a_step_that_fails_says_which(tmp_path: Path) -> None:
    with Crew(tmp_path, 1) as crew, pytest.raises(Failed, match="unlink: FileNotFoundError"):
        crew.do(steps.unlink, 1)


def hang(directory: Path, count: int) -> int:
    time.sleep(60)
    return count


def test_a_step_that_hangs_costs_its_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    with Crew(tmp_path, 2) as crew, pytest.raises(Failed, match="too long"):
        crew.do(hang, 1, limit_s=0.2)
    assert time.monotonic() - began < 20
