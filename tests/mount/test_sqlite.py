"""SQLite on the mount: WAL and rollback journals, writers on one mount, killed at any moment.

What was committed is there, sums agree, `integrity_check` says ok.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.servers import ServerProcess

from .mounts import Mount, mounted, wait_until
from .sqlite_writer import ACCOUNTS, AMOUNT, create

WRITERS = 3
TRANSACTIONS = 60
ROOT = Path(__file__).parents[2]
WRITE_S = 200.0

JOURNALS = ["wal", "delete", "truncate", "persist"]


class _Writer:
    def __init__(self, database: Path, journal: str, number: int, count: int, out: Path) -> None:
        self.number = number
        self.out = out / f"committed.{number}"
        with self.out.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.mount.sqlite_writer"),
                    *(str(database), journal, str(number), str(count)),
                ],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.PIPE,
            )

    @property
    def committed(self) -> list[int]:
        return [int(line) for line in self.out.read_text().split("\n")[:-1]]

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> None:
        _, said = self._process.communicate(timeout=WRITE_S)
        assert self._process.returncode == 0, said.decode()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=WRITE_S)


def _commit(writers: list[_Writer], count: int) -> None:
    """Wait for so many more transactions."""

    def done() -> int:
        for writer in writers:
            if not writer.is_running:
                writer.finish()  # says what stopped it
        return sum(len(writer.committed) for writer in writers)

    wanted = done() + count
    wait_until(lambda: done() >= wanted, WRITE_S, "commits")


def _verify(database: Path, writers: list[_Writer]) -> None:
    connection = sqlite3.connect(database)
    assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    (total,) = connection.execute("select sum(amount) from accounts").fetchone()
    assert total == ACCOUNTS * AMOUNT
    for writer in writers:
        query = "select number, filler from rows where writer = ? order by number"
        rows = connection.execute(query, (writer.number,)).fetchall()
        stored = [number for number, _ in rows]
        assert stored[: len(writer.committed)] == writer.committed
        assert len(stored) <= len(writer.committed) + 1
        for number, filler in rows:
            assert filler == bytes([number % 256]) * (number * 37 % 5000)
    connection.close()


@pytest.mark.parametrize("journal", JOURNALS)
def test_three_writers(place: Path, local: Path, journal: str) -> None:
    database = place / "db"
    create(str(database), journal)
    writers = [_Writer(database, journal, n, TRANSACTIONS, local) for n in range(WRITERS)]
    for writer in writers:
        writer.finish()
        assert len(writer.committed) == TRANSACTIONS
    _verify(database, writers)


def _killed(place: Path, local: Path, journal: str, rng: random.Random, rounds: int) -> None:
    database = place / "db"
    create(str(database), journal)
    writers: list[_Writer] = []
    for number in range(rounds):
        with ExitStack() as stack:
            started = [
                _Writer(database, journal, number * WRITERS + n, 100_000, local)
                for n in range(WRITERS)
            ]
            for writer in started:
                stack.callback(writer.kill)
            writers += started
            _commit(started[:1], rng.randrange(1, 30))
            started[0].kill()
            _commit(started[1:], 5)  # the others go on: they recover what it left half done
        _verify(database, writers)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_writers_are_killed(place: Path, local: Path, journal: str, seed: int) -> None:
    _killed(place, local, journal, random.Random(seed), rounds=3)


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("journal", JOURNALS)
def test_writers_are_killed_often(place: Path, local: Path, journal: str, seed: int) -> None:
    _killed(place, local, journal, random.Random(seed), rounds=60)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_the_server_is_killed(own: ServerProcess, local: Path, journal: str) -> None:
    with mounted(own) as mount:
        assert isinstance(mount, Mount)
        database = mount.mountpoint / "db"
        create(str(database), journal)
        writers = [_Writer(database, journal, n, TRANSACTIONS, local) for n in range(WRITERS)]
        for count in (10, 40):
            _commit(writers, count)
            own.kill()
            own.start()
        for writer in writers:
            writer.finish()
        _verify(database, writers)
