"""PostgreSQL on the mount: it works, recovers from its own death, and does not notice the server's.

Data checksums are on, every page is read back, and each transaction that pgbench was told of is
there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.servers import ServerProcess

from .databases import Postgres
from .mounts import Mount, mounted, wait_until
from .programs import run, started

SCALE = 1
SECONDS = 5
CLIENTS = 4

Process = subprocess.Popen[bytes]


@contextmanager
def _postgres(place: Path, local: Path) -> Iterator[Postgres]:
    Postgres.binaries()
    postgres = Postgres(place / "pg", local)
    postgres.create()
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.end()


def _killed_again_and_again(place: Path, local: Path, rounds: int, seconds: int) -> None:
    with _postgres(place, local) as postgres:
        postgres.prepare(SCALE)
        log = local / "transactions"
        for number in range(rounds):
            command = postgres.pgbench(600, CLIENTS, log.with_name(f"transactions.{number}"))
            with started(command, local / "pgbench.log", cwd=local, user=postgres.USER) as pgbench:
                _runs_for(pgbench, local, number, seconds)
                postgres.kill()
                pgbench.wait(60)
            postgres.start()
            postgres.verify(log)
        postgres.verify_pages()
        assert not postgres.complaints()


def _runs_for(pgbench: Process, local: Path, number: int, seconds: int) -> None:
    """Until it has acknowledged some transactions for each of the seconds."""

    def acknowledged() -> bool:
        assert pgbench.poll() is None, (local / "pgbench.log").read_text()[-3000:]
        logs = local.glob(f"transactions.{number}.*")
        return sum(path.stat().st_size for path in logs) > 8192 * seconds

    wait_until(acknowledged, 60 + 10 * seconds, "transactions")


@pytest.mark.timeout(240)
def test_it_recovers_from_its_own_death(place: Path, local: Path) -> None:
    _killed_again_and_again(place, local, rounds=2, seconds=2)


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_it_recovers_from_its_own_death_often(place: Path, local: Path) -> None:
    _killed_again_and_again(place, local, rounds=20, seconds=20)


def _server_dies(own: ServerProcess, local: Path, rounds: int, seconds: int) -> None:
    with mounted(own) as mount:
        assert isinstance(mount, Mount)
        with _postgres(mount.mountpoint, local) as postgres:
            postgres.prepare(SCALE)
            log = local / "transactions"
            command = postgres.pgbench(seconds * (rounds + 1), CLIENTS, log)
            output = local / "pgbench.log"
            with started(command, output, cwd=local, user=postgres.USER) as pgbench:
                for _ in range(rounds):
                    _advances(pgbench, local, log)
                    own.kill()
                    own.start()
                _advances(pgbench, local, log)
                code = pgbench.wait(120 + seconds * (rounds + 1))
            said = output.read_text()
            assert code == 0, said[-3000:]
            assert "number of failed transactions: 0" in said, said[-3000:]
            postgres.verify(log)
            assert not postgres.complaints()
            postgres.verify_pages()


def _advances(pgbench: Process, local: Path, log: Path) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in local.glob(log.name + ".*"))

    before = size()
    wait_until(lambda: size() > before or pgbench.poll() is not None, 60, "more transactions")


@pytest.mark.timeout(240)
def test_it_does_not_notice_that_the_server_was_killed(own: ServerProcess, local: Path) -> None:
    _server_dies(own, local, rounds=2, seconds=4)


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_it_does_not_notice_many_deaths_of_the_server(own: ServerProcess, local: Path) -> None:
    _server_dies(own, local, rounds=20, seconds=20)


@pytest.mark.timeout(240)
def test_its_vacuum_tablespaces_and_backup(place: Path, local: Path) -> None:
    with _postgres(place, local) as postgres:
        space = place / "space"
        space.mkdir()
        run(["chown", f"{postgres.USER}:", space])
        postgres.ask(f"create tablespace other location '{space}'")
        postgres.ask(
            "create table t tablespace other as"
            " select n, md5(n::text) as v, repeat(md5(n::text), 100) as long"
            " from generate_series(1, 20000) n"
        )
        postgres.ask("create index on t (v); create unique index on t (n)")
        for statement in ("delete from t where n % 3 = 0", "vacuum full t", "checkpoint"):
            postgres.ask(statement)
        kept = [n for n in range(1, 20001) if n % 3]
        assert postgres.ask("select count(*), sum(n) from t") == f"{len(kept)}|{sum(kept)}"
        backup = local / "backup"
        mapping = f"--tablespace-mapping={space}={local / 'space'}"
        postgres.tool("pg_basebackup", *postgres.reach, "-D", str(backup), "-c", "fast", mapping)
        postgres.tool("pg_verifybackup", str(backup))
        postgres.verify_pages()
