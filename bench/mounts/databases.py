"""Databases with their data directory in a place: each under its own user, unmodified."""

from __future__ import annotations

import os
import pwd
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..processes import Failed, Running, run

PREPARE_S = 600.0
START_S = 120.0
COMPLAINTS = ("PANIC", "FATAL", "ERROR:", "[ERROR]", "terminated by signal")
"""Of PostgreSQL's log, and of MariaDB's."""


class Database(ABC):
    """One in `data`; sockets and logs stand in `scratch`, on the local disk."""

    name: str
    user: str

    def __init__(self, data: Path, scratch: Path) -> None:
        self.data = data
        self.scratch = scratch

    def own(self, path: Path) -> None:
        """A directory of the database's user, made."""
        path.mkdir(exist_ok=True)
        try:
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid)
        except (KeyError, PermissionError) as error:
            raise Failed(f"no directory for the user {self.user}: {error}") from None
        path.chmod(0o700)

    @abstractmethod
    def create(self) -> None:
        """Make the data directory and load it."""

    @abstractmethod
    def command(self) -> list[str]:
        """What serves it."""

    @abstractmethod
    def answers(self) -> bool: ...

    @contextmanager
    def served(self) -> Iterator[None]:
        log = self.scratch / f"{self.name}.log"
        running = Running(self.command(), log)
        try:
            running.wait_until(self.answers, START_S)
            yield
        except Failed as error:
            raise Failed(f"{error}; {self.name}: {complaints(log)}") from None
        finally:
            running.stop()


def complaints(log: Path) -> str:
    """What a database's log has of errors, the last of them."""
    lines = log.read_text(errors="replace").splitlines()
    found = [line for line in lines if any(word in line for word in COMPLAINTS)]
    return " | ".join(found[-3:]) or "nothing in its log"


def program(name: str, *folders: str, package: str) -> str:
    """A program of the system, also where it is not in PATH."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    if found is None:
        raise Failed(f"no {name}: apt-get install {package}")
    return found


def as_user(user: str, *command: str) -> list[str]:
    """In the same process, without a shell or a session in between."""
    setpriv = program("setpriv", package="util-linux")
    return [setpriv, f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *command]


def succeeds(command: list[str], limit_s: float = 10.0) -> bool:
    try:
        run(command, limit_s)
    except Failed:
        return False
    return True
