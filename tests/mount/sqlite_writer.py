"""A process that writes to a SQLite database, and says which transactions were committed.

`python -m tests.mount.sqlite_writer DATABASE JOURNAL WRITER TRANSACTIONS` moves amounts between
two accounts and adds a row, in one transaction each; prints the row's number once COMMIT returned.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time

ACCOUNTS = 20
AMOUNT = 1000
BUSY_S = 60.0
THINK_S = 0.02
"""At most, between two transactions. SQLite's waiters look every tenth of a second whether the
database is free: without a pause the one that has just committed has it again before they look, and
another one may wait for a minute, on a local disk, too."""


def create(path: str, journal: str) -> None:
    database = _open(path, journal)
    database.execute("create table accounts (id integer primary key, amount integer not null)")
    database.execute("create table rows (writer integer, number integer, filler blob)")
    database.execute("create unique index numbers on rows (writer, number)")
    database.executemany(
        "insert into accounts values (?, ?)", [(n, AMOUNT) for n in range(ACCOUNTS)]
    )
    database.commit()
    database.close()


def _open(path: str, journal: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    (mode,) = database.execute(f"pragma journal_mode = {journal}").fetchone()
    assert mode == journal, mode
    database.execute("pragma synchronous = full")
    database.isolation_level = ""
    return database


def write(path: str, journal: str, writer: int, transactions: int) -> None:
    database = _open(path, journal)
    rng = random.Random(writer)
    for number in range(transactions):
        database.execute("begin immediate")
        a, b = (number * 7 + writer) % ACCOUNTS, (number * 3 + 1) % ACCOUNTS
        database.execute("update accounts set amount = amount - 1 where id = ?", (a,))
        database.execute("update accounts set amount = amount + 1 where id = ?", (b,))
        filler = bytes([number % 256]) * (number * 37 % 5000)
        database.execute("insert into rows values (?, ?, ?)", (writer, number, filler))
        database.commit()
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        time.sleep(rng.uniform(0, THINK_S))
    database.close()


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
