"""Sides in turn: the order, what happens to one that fails, and that all are stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from dataplatform_bench.processes import Failed
from dataplatform_bench.results import Result
from dataplatform_bench.rounds import Tell, entered, measured
from dataplatform_bench.sides import OURS, Sizes
from dataplatform_bench.workers import Worker
from dataplatform_bench.works import WORKS

from .fakes import WORK, FakeDriver, FakeSide


class Run:
    """A measurement of fake sides."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "log"
        self.tell: Tell = lambda text: None
        self._directory = directory / "sides"
        self._directory.mkdir()

    def side(self, name: str, figure: float | str = 1.0, missing: str | None = None) -> FakeSide:
        return FakeSide(name, self.log, figure, missing)

    def __call__(self, *sides: FakeSide, rounds: int = 2) -> tuple[Result, dict[str, str]]:
        with entered(sides, [WORK], self._directory, self.tell) as field:
            sizes = Sizes(0.5)
            (result,) = measured([WORK], field.contestants, rounds, sizes, self.tell)
        return result, field.missing

    @property
    def turns(self) -> list[str]:
        return [line for line in self.log.read_text().split("\n") if line]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_sides_take_turns_there_and_back(run: Run) -> None:
    sides = [run.side(OURS, 4.0), run.side("redis", 2.0)]
    result, missing = run(*sides)
    turns = 2 * WORKS[WORK].turns
    there, back = [OURS, "redis"], ["redis", OURS]
    expected = [name for turn in range(turns) for name in (there, back)[turn % 2]]
    assert run.turns == [*expected, "redis closed", "ours closed"]
    assert [figure.values for figure in result.figures] == [[2.0] * turns, [1.0] * turns]
    assert not missing
    assert [side.stops for side in sides] == [1, 1]


@pytest.mark.parametrize("figure", ["broken", "die"])
def test_a_side_that_fails_is_named_and_the_others_go_on(run: Run, figure: str) -> None:
    sides = [run.side(OURS), run.side("redis", figure)]
    result, _ = run(*sides)
    ours, theirs = result.figures
    assert ours.median == 0.5
    assert theirs.median is None
    assert theirs.problem.startswith("failed: ")
    assert run.turns.count("redis") == 1  # it is not asked again
    assert [side.stops for side in sides] == [1, 1]


@pytest.mark.parametrize("figure", ["no server", "no driver"])
def test_a_side_that_does_not_start_is_named_and_stopped(run: Run, figure: str) -> None:
    sides = [run.side(OURS), run.side("redis", figure)]
    result, missing = run(*sides)
    assert figure in missing["redis"]
    assert [one.side for one in result.figures] == [OURS]
    assert [side.stops for side in sides] == [1, 1]


def test_a_side_that_is_not_installed_is_named_and_not_started(run: Run) -> None:
    absent = run.side("redis", missing="install it so")
    _, missing = run(run.side(OURS), absent)
    assert missing == {"redis": "install it so"}
    assert absent.stops == 0


def test_ours_must_run(run: Run) -> None:
    with pytest.raises(Failed, match="no server"):
        run(run.side(OURS, "no server"))


def test_an_interruption_stops_all(run: Run) -> None:
    sides = [run.side(OURS), run.side("redis")]

    def interrupt(text: str) -> None:
        if "turn 2" in text:
            raise KeyboardInterrupt

    run.tell = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(*sides)
    assert [side.stops for side in sides] == [1, 1]
    assert run.turns[-2:] == ["redis closed", "ours closed"]


def test_a_worker_that_hangs_is_ended_at_the_time_limit(tmp_path: Path) -> None:
    worker = Worker(partial(FakeDriver, "hanging", tmp_path / "log", "hang"))
    with pytest.raises(Failed, match="no answer within"):
        worker.measure(0, Sizes(), limit_s=0.1)
    with pytest.raises(Failed, match="has ended"):
        worker.measure(0, Sizes(), limit_s=0.1)
    worker.close()
