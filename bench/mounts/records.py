"""What was measured, so that it can be shown again without measuring: one JSON file.

A work that is measured again replaces its figures of all places, as only what was measured in one
run may be compared.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .places import Durability


@dataclass(slots=True)
class Figure:
    """One place in one work: what it gave in each turn, or why it gave nothing."""

    values: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None


@dataclass(frozen=True, slots=True)
class About:
    """A place as it is shown."""

    title: str
    durability: Durability


@dataclass(slots=True)
class Record:
    machine: str = ""
    rounds: int = 0
    places: dict[str, About] = field(default_factory=dict)
    works: dict[str, dict[str, Figure]] = field(default_factory=dict)
    """By work, then by place."""
    growth: dict[str, list[Mapping[str, float]]] = field(default_factory=dict)
    """By place: the samples of its store and its memory while databases wrote to it."""

    def figure(self, work: str, place: str) -> Figure:
        return self.works.setdefault(work, {}).setdefault(place, Figure())

    def median(self, work: str, place: str) -> float | None:
        found = self.works.get(work, {}).get(place)
        return found.median if found else None

    def update(self, newer: Record) -> None:
        self.machine = newer.machine
        self.rounds = newer.rounds
        self.places |= newer.places
        self.works |= newer.works
        self.growth |= newer.growth

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Record:
    stored: dict[str, Any] = json.loads(path.read_text())
    return Record(
        stored["machine"],
        stored["rounds"],
        {
            name: About(about["title"], Durability(**about["durability"]))
            for name, about in stored["places"].items()
        },
        {
            work: {place: Figure(**figure) for place, figure in figures.items()}
            for work, figures in stored["works"].items()
        },
        stored["growth"],
    )
