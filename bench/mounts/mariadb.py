"""MariaDB and sysbench: its OLTP read-write transactions, with InnoDB as it is by default."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..processes import Failed, run
from . import caches
from .databases import PREPARE_S, Database, program, succeeds
from .parts import Figures, Part, Plan
from .places import Place

TABLES = 4
ROWS = 25_000
THREADS = 4
TPS = re.compile(r"transactions:\s+\d+\s+\(([0-9.]+) per sec\.\)")
SERVERS = "/usr/sbin"


class MariaDB(Database):
    name = "mariadb"
    user = "mysql"

    def __init__(self, data: Path, scratch: Path) -> None:
        super().__init__(data, scratch)
        self._socket = scratch / "mariadb.sock"

    def create(self) -> None:
        self.own(self.data)
        self.own(self.scratch)
        install = program("mariadb-install-db", package="mariadb-server")
        options = (f"--user={self.user}", "--auth-root-authentication-method=normal")
        run([install, "--no-defaults", f"--datadir={self.data}", *options], PREPARE_S)
        with self.served():
            mariadb = program("mariadb", package="mariadb-client")
            account = [mariadb, "--no-defaults", f"--socket={self._socket}", "--user=root"]
            run([*account, "--execute=create database sbtest"], PREPARE_S)
            run(self._sysbench("prepare"), PREPARE_S)

    def command(self) -> list[str]:
        server = program("mariadbd", SERVERS, package="mariadb-server")
        options = (f"--socket={self._socket}", f"--user={self.user}", "--skip-networking")
        return [server, "--no-defaults", f"--datadir={self.data}", *options]

    def answers(self) -> bool:
        admin = program("mariadb-admin", package="mariadb-client")
        return succeeds([admin, "--no-defaults", f"--socket={self._socket}", "--user=root", "ping"])

    def transactions_per_s(self, run_s: int) -> float:
        command = self._sysbench("run", f"--threads={THREADS}", f"--time={run_s}")
        return transactions_per_s(run(command, 120.0 + run_s))

    def _sysbench(self, step: str, *options: str) -> list[str]:
        sysbench = program("sysbench", package="sysbench")
        account = ("--db-driver=mysql", f"--mysql-socket={self._socket}", "--mysql-user=root")
        size = (f"--tables={TABLES}", f"--table-size={ROWS}")
        return [sysbench, "oltp_read_write", *account, *size, *options, step]


def transactions_per_s(output: str) -> float:
    """What sysbench says."""
    found = TPS.search(output)
    if found is None:
        raise Failed(f"sysbench's output is not understood: {output[-200:]}")
    return float(found[1])


class SysBench(Part):
    works = ("sysbench",)

    def __init__(self, plan: Plan, scratch: Path, tell: Callable[[str], None]) -> None:
        super().__init__(plan, scratch, tell)
        self._databases: dict[str, MariaDB] = {}

    def take(self, place: Place) -> Figures:
        if place.name not in self._databases:
            database = MariaDB(place.point / "mariadb", self.scratch / f"my-{place.name}")
            database.create()
            self._databases[place.name] = database
            caches.settle()
        with self._databases[place.name].served():
            return {
                "sysbench": self._databases[place.name].transactions_per_s(self.plan.database_s)
            }
