"""The seam of the loads: a part goes to a place, does its works, and returns their figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .places import Place

Figures = Mapping[str, float]
"""By name of the work."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done in a turn."""

    files: int = 1000
    entries: int = 10_000
    syncs: int = 400
    bulk_mib: int = 512
    fio_s: int = 4
    fio_mib: int = 256
    database_s: int = 10
    patience_s: float = 0.0
    """How long to wait before a turn for other programs to rest."""
    growth_minutes: float = 0.0
    """How long a store is watched while databases write to it."""
    growth_bytes_max: int = 30_000_000_000
    """A store that grows so big is not watched any longer."""


class Part(ABC):
    """Some works that are done together."""

    works: tuple[str, ...]
    is_repeated = True
    """In every round; a long one is done once."""

    def __init__(self, plan: Plan, scratch: Path, tell: Callable[[str], None]) -> None:
        """`scratch` is a directory of the local disk, for sockets and logs."""
        self.plan = plan
        self.scratch = scratch
        self.tell = tell

    @abstractmethod
    def take(self, place: Place) -> Figures:
        """One turn. Raises processes.Failed."""
