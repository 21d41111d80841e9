"""A big file, written with one fsync at the end, read after a new mount, and read again."""

from __future__ import annotations

from . import caches, steps
from .crews import Crew
from .metadata import MANY
from .parts import Figures, Part
from .places import Place

MEGA = 1e6


class Bulk(Part):
    processes = 1
    works: tuple[str, ...] = ("sequential-write", "sequential-read-cold", "sequential-read")

    def take(self, place: Place) -> Figures:
        calls = self.plan.bulk_mib // self.processes
        directory = place.point / f"bulk{self.processes}"
        with Crew(directory, self.processes) as crew:
            written = crew.do(steps.write_bulk, calls)
        caches.settle()
        place.remount()
        caches.drop(caches.ALL)
        with Crew(directory, self.processes) as crew:
            cold = crew.do(steps.read_bulk, calls)
            warm = crew.do(steps.read_bulk, calls)
            crew.do(steps.clean, 1)
        rates = [one.rate / MEGA for one in (written, cold, warm)]
        return dict(zip(self.works, rates, strict=True))


class BulkTogether(Bulk):
    processes = MANY
    works = tuple(f"{work}-{MANY}" for work in Bulk.works)
