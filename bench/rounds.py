"""Runs the works: every side in turn, round after round, so that all meet the same machine.

What is started is stopped, whatever happens. A side that cannot be started, or that fails, is
named with the reason, and the others go on; only ours must run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .processes import Failed, uninterrupted
from .results import Figure, Result
from .sides import OURS, Side, Sizes
from .workers import Worker
from .works import WORKS

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of one side, and the worker that takes it."""

    side: str
    worker: Worker
    number: int

    @property
    def work(self) -> str:
        return self.worker.labels[self.number].work


@dataclass(slots=True)
class Field:
    """All that take part."""

    contestants: list[Contestant] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


@contextmanager
def entered(
    sides: Sequence[Side], works: Sequence[str], directory: Path, tell: Tell
) -> Iterator[Field]:
    """The sides that take part in the works, started; stopped at the end, the last one first."""
    made = Field()
    stack = ExitStack()
    try:
        for side in sides:
            if not side.works & set(works):
                continue
            reason = side.missing()
            if reason is None:
                tell(f"starting {side.name}")
                reason = _enter(side, directory / side.name, stack, made)
            if reason is not None and side.name == OURS:
                raise Failed(reason)
            if reason is not None:
                made.missing[side.name] = reason
        yield made
    finally:
        with uninterrupted():
            stack.close()


def _enter(side: Side, directory: Path, stack: ExitStack, made: Field) -> str | None:
    """Why it does not take part, or None when it does."""
    directory.mkdir()
    stack.callback(side.stop)
    try:
        for make in side.start(directory):
            worker = Worker(make)
            stack.callback(worker.close)
            made.contestants += [
                Contestant(side.name, worker, number) for number in range(len(worker.labels))
            ]
    except (Failed, OSError) as error:
        return f"it did not start: {error}"
    return None


def measured(
    works: Sequence[str],
    contestants: Sequence[Contestant],
    rounds: int,
    sizes: Sizes,
    tell: Tell,
) -> Iterator[Result]:
    """The result of each work, when all sides have done it."""
    for name in works:
        taking_part = [one for one in contestants if one.work == name]
        if not taking_part:
            continue
        figures = {id(one): Figure(one.side, one.worker.labels[one.number]) for one in taking_part}
        turns = rounds * WORKS[name].turns
        for turn in range(turns):
            tell(f"{name}: turn {turn + 1} of {turns}")
            # There and back: none is always the one after the same other.
            for one in taking_part if turn % 2 == 0 else reversed(taking_part):
                _take_turn(one, figures, sizes)
        yield Result(name, WORKS[name], list(figures.values()))


def _take_turn(one: Contestant, figures: Mapping[int, Figure], sizes: Sizes) -> None:
    figure = figures[id(one)]
    if figure.problem:
        return
    os.sync()  # what the one before has written is no burden to this one
    try:
        figure.values.append(one.worker.measure(one.number, sizes))
    except (Failed, OSError) as error:
        figure.problem = f"failed: {error}"
