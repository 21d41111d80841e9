"""PostgreSQL and pgbench: its own transactions on tables of scale 10."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..peers.tools import free_port
from ..processes import Failed, run
from . import caches
from .databases import PREPARE_S, Database, as_user, program, succeeds
from .parts import Figures, Part, Plan
from .places import Place

SCALE = 10
CLIENTS = (1, 8)
TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


class Postgres(Database):
    name = "postgres"
    user = "postgres"

    def __init__(self, data: Path, scratch: Path) -> None:
        super().__init__(data, scratch)
        self._port = str(free_port())
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self._folders = [str(folder) for folder in folders]

    def create(self) -> None:
        self.own(self.data)
        self.own(self.scratch)
        options = ("--auth=trust", "--no-instructions", "--locale=C.UTF-8")
        run(self._as_user("initdb", f"--pgdata={self.data}", *options), PREPARE_S)
        with self.served():
            run(self._client("createdb", "bench"), PREPARE_S)
            load = ("--initialize", f"--scale={SCALE}", "--quiet", "bench")
            run(self._client("pgbench", *load), PREPARE_S)

    def command(self) -> list[str]:
        sockets = ("-k", str(self.scratch), "-p", self._port, "-c", "listen_addresses=")
        return self._as_user("postgres", "-D", str(self.data), *sockets)

    def answers(self) -> bool:
        return succeeds(self._client("pg_isready", "--quiet"))

    def transactions_per_s(self, clients: int, run_s: int) -> float:
        threads = min(clients, 2)
        options = (f"--client={clients}", f"--jobs={threads}", f"--time={run_s}")
        return transactions_per_s(run(self._client("pgbench", *options, "bench"), 120.0 + run_s))

    def checkpoint(self) -> None:
        run(self._client("psql", "--command=checkpoint", "bench"), PREPARE_S)

    def _as_user(self, name: str, *arguments: str) -> list[str]:
        found = program(name, *self._folders, package="postgresql")
        return as_user(self.user, found, *arguments)

    def _client(self, name: str, *arguments: str) -> list[str]:
        return self._as_user(name, "-h", str(self.scratch), "-p", self._port, *arguments)


def transactions_per_s(output: str) -> float:
    """What pgbench says."""
    found = TPS.search(output)
    if found is None:
        raise Failed(f"pgbench's output is not understood: {output[-200:]}")
    return float(found[1])


class PgBench(Part):
    works = tuple(f"pgbench-{clients}" for clients in CLIENTS)

    def __init__(self, plan: Plan, scratch: Path, tell: Callable[[str], None]) -> None:
        super().__init__(plan, scratch, tell)
        self._databases: dict[str, Postgres] = {}

    def take(self, place: Place) -> Figures:
        if place.name not in self._databases:
            database = Postgres(place.point / "postgres", self.scratch / f"pg-{place.name}")
            database.create()
            self._databases[place.name] = database
            caches.settle()
        figures = {}
        with self._databases[place.name].served():
            for clients in CLIENTS:
                self._databases[place.name].checkpoint()
                figures[f"pgbench-{clients}"] = self._databases[place.name].transactions_per_s(
                    clients, self.plan.database_s
                )
        return figures
