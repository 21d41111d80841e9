"""Processes that do the same step at the same time, each in its own directory.

The one process of the plain figures is a crew of one. A step is a function of a directory and a
count that returns how many operations it did; only it is timed. A crew has a time limit for every
step: a call that never returns from a mount costs that limit, not the run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from ..processes import Failed

STEP_S = 180.0
END_S = 10.0

# The steps are started while this program has one thread, and need nothing imported again.
_processes = multiprocessing.get_context("fork")

Step = Callable[[Path, int], int]


@dataclass(frozen=True, slots=True)
class Lap:
    """What one process did in a step, in time.monotonic(), which all processes share."""

    operations: int
    began: float
    ended: float

    @property
    def rate(self) -> float:
        return self.operations / max(self.ended - self.began, 1e-9)


@dataclass(frozen=True, slots=True)
class Pace:
    """What they did together."""

    rate: float
    """Operations of all, from the first one's begin to the last one's end, per second."""
    least_share: float
    """The slowest one's rate, as a part of the mean: 1 when all are equally fast."""


def pace(laps: Sequence[Lap]) -> Pace:
    spent = max(lap.ended for lap in laps) - min(lap.began for lap in laps)
    rates = [lap.rate for lap in laps]
    return Pace(
        sum(lap.operations for lap in laps) / max(spent, 1e-9),
        min(rates) / max(sum(rates) / len(rates), 1e-9),
    )


class Crew:
    """So many processes, with the directories 0, 1, … below `directory`."""

    def __init__(self, directory: Path, count: int) -> None:
        self._members = [_Member(directory / str(number)) for number in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for member in self._members:
            member.end()

    def do(self, step: Step, count: int, limit_s: float = STEP_S) -> Pace:
        """All do it at once, `count` operations each. Raises processes.Failed."""
        deadline = time.monotonic() + limit_s
        for member in self._members:
            member.begin(step, count)
        return pace([member.lap(deadline) for member in self._members])


class _Member:
    def __init__(self, directory: Path) -> None:
        self._connection, theirs = _processes.Pipe()
        self._process: BaseProcess = _processes.Process(target=_serve, args=(theirs, directory))
        self._process.start()
        theirs.close()

    def begin(self, step: Step, count: int) -> None:
        try:
            self._connection.send((step, count))
        except OSError:
            raise Failed("a process of the crew is gone") from None

    def lap(self, deadline: float) -> Lap:
        if not self._connection.poll(max(0.0, deadline - time.monotonic())):
            raise Failed("it took too long")
        try:
            answer = self._connection.recv()
        except EOFError:
            raise Failed("a process of the crew died") from None
        if isinstance(answer, Lap):
            return answer
        raise Failed(str(answer))

    def end(self) -> None:
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(0.5)
        if self._process.is_alive() and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        # One that hangs in the kernel ends when its mount does; waiting for it would be for ever.
        self._process.join(END_S)
        self._connection.close()


def _serve(connection: Connection, directory: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(EOFError):
        while (asked := connection.recv()) is not None:
            step, count = asked
            try:
                directory.mkdir(parents=True, exist_ok=True)
                began = time.monotonic()
                operations = step(directory, count)
                connection.send(Lap(operations, began, time.monotonic()))
            except Exception as error:
                connection.send(f"{step.__name__}: {type(error).__name__}: {error}")
    os._exit(0)  # nothing of the parent's is to be closed or written a second time
