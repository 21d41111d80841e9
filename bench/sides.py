"""The seam: a side is something that can do works, and a driver does them as its client.

A side (`start`, `stop`) runs the servers and lives in this process. Its drivers each get a process
of their own (`workers.py`), where they connect, keep what they prepared from turn to turn, and
measure. A driver has ways: (work, label, durability, a function that returns the figure).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

OURS = "ours"
DISK = "disk"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done in one turn."""

    scale: float = 1.0

    def count(self, full: int, least: int = 100) -> int:
        """`full`, scaled, but never so few that the figure means nothing."""
        return max(least, round(full * self.scale))


Measure = Callable[[Sizes], float]


@dataclass(frozen=True, slots=True)
class Label:
    """A way as it is shown."""

    work: str
    label: str
    durability: str
    is_baseline: bool = False
    """A way of ours that another of ours is compared with, such as a small directory."""


@dataclass(frozen=True, slots=True)
class Way:
    label: Label
    measure: Measure


def way(
    work: str, label: str, durability: str, measure: Measure, *, is_baseline: bool = False
) -> Way:
    return Way(Label(work, label, durability, is_baseline), measure)


class Driver(ABC):
    """The client of a side, in a process of its own."""

    @abstractmethod
    def ways(self) -> Sequence[Way]: ...

    @abstractmethod
    def close(self) -> None: ...


MakeDriver = Callable[[], Driver]
"""Sent to another process: a class, or a `functools.partial` of one, with plain arguments."""


class Side(ABC):
    """What is measured: ours, the local disk, or a peer."""

    name: str
    works: frozenset[str]
    """What it takes part in; it is started only when one of these is asked for."""

    def missing(self) -> str | None:
        """Why it cannot run here and how to install it; None when it can."""
        return None

    @abstractmethod
    def start(self, directory: Path) -> Sequence[MakeDriver]:
        """Start its servers, which store below `directory`. Raises processes.Failed."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all that `start` has started, also when that failed half-way."""
