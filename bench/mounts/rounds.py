"""Runs the parts: place after place, round after round, each round beginning with another place.

What is started is stopped, whatever happens. A place that does not start or fails is named with the
reason, and the others go on.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..proc import peak_resident_bytes
from ..processes import Failed, uninterrupted
from . import caches, quiet, room
from .bulk import Bulk, BulkTogether
from .fio import RandomBlocks
from .growth import Growth
from .listings import Listings
from .mariadb import SysBench
from .metadata import Metadata, MetadataTogether
from .parts import Part, Plan
from .places import Place
from .postgres import PgBench
from .records import About, Record
from .sqlite import SQLiteWriters

PARTS: tuple[type[Part], ...] = (
    *(Metadata, Listings, Bulk, RandomBlocks, MetadataTogether, BulkTogether),
    *(PgBench, SysBench, SQLiteWriters, Growth),
)
MEMORY = ("mount-memory", "server-memory")

Tell = Callable[[str], None]


@contextmanager
def started(places: Sequence[Place], directory: Path, tell: Tell) -> Iterator[list[Place]]:
    """Those that start; stopped at the end, the last one first."""
    stack = ExitStack()
    running = []
    try:
        for place in places:
            if (reason := place.missing()) is not None:
                tell(f"without {place.name}: {reason}")
                continue
            tell(f"starting {place.name}")
            below = directory / place.name
            below.mkdir()
            stack.callback(place.stop)
            try:
                place.start(below)
            except (Failed, OSError) as error:
                tell(f"without {place.name}: it did not start: {error}")
                continue
            running.append(place)
        yield running
    finally:
        with uninterrupted():
            stack.close()


def measured(
    places: Sequence[Place],
    works: Sequence[str],
    plan: Plan,
    rounds: int,
    directory: Path,
    tell: Tell,
) -> Iterator[Record]:
    """The record, again after every part, as far as it is. Each part begins with empty stores,
    below `directory`: what one has left in them is no burden to the next, nor to the disk."""
    record = Record(machine(), rounds)
    record.places = {place.name: About(place.title, place.durability) for place in places}
    for kind in PARTS:
        if not set(kind.works) & set(works):
            continue
        below = directory / kind.__name__
        scratch = below / "scratch"
        scratch.mkdir(parents=True)
        part = kind(plan, scratch, tell)
        with started(places, below, tell) as running:
            for turn in range(rounds if part.is_repeated else 1):
                first = turn % max(len(running), 1)
                for place in (*running[first:], *running[:first]):
                    _take(part, place, turn, record, tell)
                    _note_memory(place, record)
        if isinstance(part, Growth):
            record.growth |= part.samples
        yield record
        shutil.rmtree(below)


def _take(part: Part, place: Place, turn: int, record: Record, tell: Tell) -> None:
    if any(record.figure(work, place.name).problem for work in part.works):
        return  # it has failed before
    tell(f"{type(part).__name__} on {place.name}, round {turn + 1}")
    try:
        room.check(part.scratch)
        if not place.is_served():
            place.remount()
        caches.settle()
        if part.plan.patience_s and not quiet.wait(part.plan.patience_s):
            tell("  other programs are busy")
        figures = part.take(place)
    except (Failed, OSError) as error:
        tell(f"  failed: {error}")
        for work in part.works:
            record.figure(work, place.name).problem = f"failed: {error}"[:300]
        return
    for work in part.works:
        figure = record.figure(work, place.name)
        if work in figures:
            figure.values.append(figures[work])
    tell("  " + ", ".join(f"{work} {value:,.4g}" for work, value in figures.items()))


def _note_memory(place: Place, record: Record) -> None:
    """The most that its processes ever had; a new mount has new ones."""
    for work, pids in zip(MEMORY, (place.mount_pids(), place.server_pids()), strict=True):
        if pids:
            figure = record.figure(work, place.name)
            figure.values = [max([*figure.values, _peak(pids) / 1e6])]


def _peak(pids: Iterable[int]) -> float:
    total = 0
    for pid in pids:
        try:
            total += peak_resident_bytes(pid)
        except (OSError, ProcessLookupError):
            continue  # it has just ended
    return total


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} CPUs, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}"
