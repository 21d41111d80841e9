"""SQLite in WAL mode with three processes that write, every transaction synced."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from .crews import Crew
from .parts import Figures, Part
from .places import Place

WRITERS = 3
BUSY_S = 60.0


def prepare(directory: Path, _: int) -> int:
    with closing(_connected(directory)) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table if not exists rows (id integer primary key, value text)")
    return 1


def write(directory: Path, run_s: int) -> int:
    """Transactions of one insert each, for so many seconds."""
    done = 0
    with closing(_connected(directory)) as database:
        database.execute("pragma synchronous=full")
        end = time.monotonic() + run_s
        while time.monotonic() < end:
            database.execute("insert into rows (value) values (?)", ("x" * 100,))
            done += 1
    return done


def _connected(directory: Path) -> sqlite3.Connection:
    """All writers share the file beside their directories; each statement is a transaction."""
    return sqlite3.connect(directory.parent / "rows.db", timeout=BUSY_S, isolation_level=None)


class SQLiteWriters(Part):
    works = ("sqlite", "sqlite-share")

    def take(self, place: Place) -> Figures:
        directory = place.point / "sqlite"
        with Crew(directory, 1) as first:
            first.do(prepare, 1)
        with Crew(directory, WRITERS) as writers:
            together = writers.do(write, self.plan.database_s // 2)
        return {"sqlite": together.rate, "sqlite-share": together.least_share}
