"""A directory of many entries, listed: first with nothing in the kernel's caches, then again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import caches, steps
from .crews import Crew
from .parts import Figures, Part, Plan
from .places import Place


class Listings(Part):
    works = ("listdir", "listdir-again", "scandir", "scandir-again")

    def __init__(self, plan: Plan, scratch: Path, tell: Callable[[str], None]) -> None:
        super().__init__(plan, scratch, tell)
        self._prepared: set[str] = set()

    def take(self, place: Place) -> Figures:
        count = self.plan.entries
        with Crew(place.point / "listings", 1) as crew:
            if place.name not in self._prepared:
                crew.do(steps.entries, count)
                self._prepared.add(place.name)
                caches.settle()
            figures = {}
            for work, step in (("listdir", steps.listdir), ("scandir", steps.scandir_stat)):
                caches.drop(caches.NAMES)
                figures[work] = crew.do(step, count).rate
                figures[f"{work}-again"] = crew.do(step, count).rate
        return figures
