"""Files and directories made, read, renamed and removed; and small writes that are synced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import caches, steps
from .crews import Crew, Pace, Step
from .parts import Figures, Part, Plan
from .places import Place

MANY = 4


class Metadata(Part):
    """One process, and then four at once with half as much each."""

    processes = 1
    works: tuple[str, ...] = (
        *("create", "create-write", "open-read", "open-read-cold", "unlink", "rename", "mkdir"),
        *("stat", "stat-cached", "write-fsync", "overwrite-fsync"),
    )

    def __init__(self, plan: Plan, scratch: Path, tell: Callable[[str], None]) -> None:
        super().__init__(plan, scratch, tell)
        self._turns = 0

    def take(self, place: Place) -> Figures:
        paces: dict[str, Pace] = {}
        files, syncs = self.plan.files, self.plan.syncs
        if self.processes > 1:
            files, syncs = files // 2, syncs // 2
        self._turns += 1
        directory = place.point / f"metadata{self.processes}-{self._turns}"
        with cleaned(directory, self.processes) as crew:

            def done(work: str, step: Step, count: int) -> None:
                paces[work] = crew.do(step, count)

            done("create", steps.create, files)
            done("rename", steps.rename, files)
            done("mkdir", steps.mkdir, files)
            done("create-write", steps.create_written, files)
            crew.do(steps.read, files)
            done("open-read", steps.read, files)
            caches.settle()
            caches.drop(caches.NAMES)
            done("open-read-cold", steps.read, files)
            caches.drop(caches.NAMES)
            done("stat", steps.stat, files)
            done("stat-cached", steps.stat_again, files)
            done("unlink", steps.unlink, files)
            done("write-fsync", steps.write_synced, syncs)
            done("overwrite-fsync", steps.overwrite_synced, syncs)
        return self.figures(paces)

    def figures(self, paces: dict[str, Pace]) -> Figures:
        return {work: one.rate for work, one in paces.items()}


class MetadataTogether(Metadata):
    processes = MANY
    works = (*(f"{work}-{MANY}" for work in Metadata.works), f"share-{MANY}")

    def figures(self, paces: dict[str, Pace]) -> Figures:
        worst = min(paces, key=lambda work: paces[work].least_share)
        self.tell(f"  the least share was in {worst}")
        rates = {f"{work}-{MANY}": one.rate for work, one in paces.items()}
        return {**rates, f"share-{MANY}": paces[worst].least_share}


@contextmanager
def cleaned(directory: Path, processes: int) -> Iterator[Crew]:
    """A crew in directories that are removed, but for a failure, after which nobody should wait
    for anything more."""
    with Crew(directory, processes) as crew:
        yield crew
        crew.do(steps.clean, 1)
