"""What the store needs while databases write to it, and what the mount's memory does meanwhile.

pgbench and sysbench take turns in the same place. Live data is what the files of both are long;
the store is what the disk has given for all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..proc import resident_bytes
from ..processes import Failed
from ..soak.samples import stored_bytes
from . import room
from .mariadb import MariaDB
from .parts import Figures, Part, Plan
from .places import Place
from .postgres import Postgres

TURN_S = 15
SETTLE_S = 60.0
CLIENTS = 8


class Growth(Part):
    works = ("store-ratio", "store-ratio-end")
    is_repeated = False

    def __init__(self, plan: Plan, scratch: Path, tell: Callable[[str], None]) -> None:
        super().__init__(plan, scratch, tell)
        self.samples: dict[str, list[Mapping[str, float]]] = {}

    def take(self, place: Place) -> Figures:
        directory = place.point / "growth"
        directory.mkdir()
        postgres = Postgres(directory / "postgres", self.scratch / f"growth-pg-{place.name}")
        mariadb = MariaDB(directory / "mariadb", self.scratch / f"growth-my-{place.name}")
        before = _stored(place)
        samples = self.samples.setdefault(place.name, [])
        began = time.monotonic()

        def sample(**rates: float) -> None:
            stored, live = _stored(place) - before, live_bytes(directory)
            samples.append(
                {
                    "seconds": round(time.monotonic() - began, 1),
                    "stored_bytes": stored,
                    "live_bytes": live,
                    "mount_bytes": sum(resident_bytes(pid) for pid in place.mount_pids()),
                    "server_bytes": sum(resident_bytes(pid) for pid in place.server_pids()),
                    **rates,
                }
            )
            self._guard(stored)

        postgres.create()
        mariadb.create()
        sample()
        with postgres.served(), mariadb.served():
            while time.monotonic() - began < self.plan.growth_minutes * 60:
                sample(pgbench_tps=postgres.transactions_per_s(CLIENTS, TURN_S))
                sample(sysbench_tps=mariadb.transactions_per_s(TURN_S))
        time.sleep(SETTLE_S)
        sample()
        ratios = [one["stored_bytes"] / max(one["live_bytes"], 1) for one in samples]
        return {"store-ratio": max(ratios), "store-ratio-end": ratios[-1]}

    def _guard(self, stored: float) -> None:
        if stored > self.plan.growth_bytes_max:
            raise Failed(f"its store grew to {stored / 1e9:.0f} GB")
        room.check(self.scratch)


def _stored(place: Place) -> int:
    return sum(stored_bytes(directory) for directory in place.stores)


def live_bytes(directory: Path) -> int:
    """How long the files are, which come and go meanwhile."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total
