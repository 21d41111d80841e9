"""MariaDB on the mount, with its defaults: it recovers, and notices no server's end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.servers import ServerProcess

from .databases import MariaDB
from .mounts import Mount, mounted, wait_until
from .programs import run, started

INSERTS = 1_000_000


@contextmanager
def _mariadb(place: Path, local: Path) -> Iterator[MariaDB]:
    mariadb = MariaDB(place / "my", local)
    mariadb.create()
    try:
        mariadb.start()
        mariadb.ask("create database bench")
        run(mariadb.sysbench("prepare"))
        yield mariadb
    finally:
        mariadb.end()


class _Inserts:
    """A client that inserts a row at a time; what it was told of is in a local file."""

    def __init__(self, mariadb: MariaDB, local: Path) -> None:
        mariadb.ask("create table if not exists t (id int auto_increment primary key)", "bench")
        self.told = local / "told"
        self._statements = local / "statements.sql"
        self._statements.write_text("insert into t values (); select last_insert_id();\n" * 50_000)
        self._client = [*mariadb.client, "--unbuffered", "bench"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._statements.open("rb") as statements, self.told.open("ab") as told:
            self._process = subprocess.Popen(
                self._client, stdin=statements, stdout=told, stderr=subprocess.DEVNULL
            )

    def advance(self, count: int = 20) -> None:
        before = self.count()
        wait_until(lambda: self.count() >= before + count, 60, "more rows")

    def count(self) -> int:
        return self.told.read_bytes().count(b"\n")

    def end(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)

    def verify(self, mariadb: MariaDB) -> None:
        told = [int(line) for line in self.told.read_text().split("\n")[:-1]]
        stored = set(map(int, mariadb.ask("select id from t", "bench").split()))
        assert told
        assert stored.issuperset(told), sorted(set(told) - stored)[:10]


def _killed(place: Path, local: Path, rounds: int, seconds: int) -> None:
    with _mariadb(place, local) as mariadb:
        inserts = _Inserts(mariadb, local)
        for _ in range(rounds):
            with started(mariadb.sysbench("run", 600), local / "sysbench.log"):
                inserts.start()
                inserts.advance(20 * seconds)
                mariadb.kill()
            inserts.end()
            mariadb.start()
            mariadb.verify()
            inserts.verify(mariadb)
        mariadb.stop()
        assert not mariadb.complaints()


@pytest.mark.timeout(240)
def test_innodb_recovers_from_its_own_death(place: Path, local: Path) -> None:
    _killed(place, local, rounds=1, seconds=3)


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_innodb_recovers_from_its_own_death_often(place: Path, local: Path) -> None:
    _killed(place, local, rounds=15, seconds=30)


def _server_dies(own: ServerProcess, local: Path, rounds: int, seconds: int) -> None:
    with mounted(own) as mount:
        assert isinstance(mount, Mount)
        with _mariadb(mount.mountpoint, local) as mariadb:
            inserts = _Inserts(mariadb, local)
            log = local / "sysbench.log"
            with started(mariadb.sysbench("run", seconds * (rounds + 1)), log) as sysbench:
                inserts.start()
                for _ in range(rounds):
                    inserts.advance()
                    own.kill()
                    own.start()
                inserts.advance()
                code = sysbench.wait(120 + seconds * (rounds + 1))
            assert code == 0, log.read_text()[-3000:]
            inserts.end()
            inserts.verify(mariadb)
            mariadb.verify()
            mariadb.stop()
            assert not mariadb.complaints()


@pytest.mark.timeout(240)
def test_it_does_not_notice_that_the_server_was_killed(own: ServerProcess, local: Path) -> None:
    _server_dies(own, local, rounds=1, seconds=4)


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_it_does_not_notice_many_deaths_of_the_server(own: ServerProcess, local: Path) -> None:
    _server_dies(own, local, rounds=15, seconds=20)
