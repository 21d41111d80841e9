"""PostgreSQL and MariaDB with their data in a directory, as they are installed, unmodified."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from .mounts import wait_until
from .programs import find, need, need_user, run, started

READY_S = 90.0
STOP_S = 120.0


def _kill_and_wait(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the first process; the others notice that it died, and end."""
    try:
        others = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        others = []
    process.kill()
    process.wait(STOP_S)
    _, alive = psutil.wait_procs(others, timeout=STOP_S)
    assert not alive, f"still there: {alive}"


class Postgres:
    """A cluster with data checksums in `data`; sockets and logs in `local`."""

    USER = "postgres"

    def __init__(self, data: Path, local: Path) -> None:
        self.data = data
        self.local = local
        self.log = local / "postgres.log"
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def binaries(cls) -> Path:
        need_user(cls.USER)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            pytest.skip("missing: postgres (apt-get install postgresql)")
        return found[-1].parent

    def tool(self, name: str, *words: str, limit_s: float = 120.0, succeeds: bool = True) -> str:
        command = [self.binaries() / name, *words]
        done = run(command, user=self.USER, cwd=self.local, limit_s=limit_s, succeeds=succeeds)
        return done.stdout + done.stderr

    @property
    def reach(self) -> list[str]:
        return ["-h", str(self.local), "-U", self.USER]

    def create(self) -> None:
        entry = need_user(self.USER)
        self.data.mkdir()
        os.chown(self.data, entry.pw_uid, entry.pw_gid)
        self.tool("initdb", "-D", str(self.data), "--data-checksums", "-E", "UTF8", "-A", "trust")

    def start(self) -> None:
        settings = (f"unix_socket_directories={self.local}", "listen_addresses=")
        options = [word for setting in settings for word in ("-c", setting)]
        command = [self.binaries() / "postgres", "-D", self.data, *options]
        self._process = self._stack.enter_context(
            started(command, self.log, cwd=self.local, user=self.USER)
        )
        wait_until(self._is_ready, READY_S, f"PostgreSQL ready, see {self.log}")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        command = [self.binaries() / "pg_isready", "-q", *self.reach]
        return run(command, user=self.USER, succeeds=False).returncode == 0

    def kill(self) -> None:
        assert self._process is not None
        _kill_and_wait(self._process)

    def stop(self) -> None:
        self.tool("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-w")
        assert self._process is not None
        assert self._process.wait(STOP_S) == 0

    def end(self) -> None:
        self._stack.close()

    def ask(self, query: str) -> str:
        return self.tool("psql", *self.reach, "-XAtq", "-c", query).strip()

    # ---- pgbench

    def prepare(self, scale: int) -> None:
        self.tool("pgbench", *self.reach, "-i", "-q", "-s", str(scale))

    def pgbench(self, seconds: int, clients: int, log: Path) -> list[str]:
        """Its command line: each transaction that was acknowledged is a line of its log."""
        return [
            str(self.binaries() / "pgbench"),
            *self.reach,
            *("-n", "-T", str(seconds), "-c", str(clients), "-j", "2"),
            *("-l", f"--log-prefix={log}"),
        ]

    def verify(self, log: Path) -> int:
        """Sums agree and every acknowledged transaction is there; how many."""
        sums = self.ask(
            "select (select sum(abalance) from pgbench_accounts),"
            "(select sum(tbalance) from pgbench_tellers),"
            "(select sum(bbalance) from pgbench_branches),"
            "(select coalesce(sum(delta), 0) from pgbench_history)"
        ).split("|")
        assert len(set(sums)) == 1, sums
        acknowledged = sum(
            path.read_bytes().count(b"\n") for path in log.parent.glob(log.name + ".*")
        )
        stored = int(self.ask("select count(*) from pgbench_history"))
        assert stored >= acknowledged > 0
        return stored

    def verify_pages(self) -> None:
        """Every page's checksum, every index beside its table. Ends stopped."""
        self.ask("create extension if not exists amcheck")
        self.tool("pg_amcheck", *self.reach, "--heapallindexed", "postgres")
        self.tool("pg_dumpall", *self.reach, "-f", str(self.local / "dump.sql"))
        self.stop()
        checked = self.tool("pg_checksums", "--check", "-D", str(self.data))
        assert "Bad checksums:  0" in checked, checked

    def complaints(self) -> list[str]:
        """What its log says of failed reads, writes and pages."""
        words = ("PANIC", "could not", "invalid page", "Input/output error", "corrupt")
        harmless = ("could not receive data from client", "could not send data to client")
        lines = self.log.read_text().splitlines()
        return [
            line
            for line in lines
            if any(word in line for word in words) and not any(word in line for word in harmless)
        ]


class MariaDB:
    """An instance with Debian's binaries and their defaults; data in `data`."""

    USER = "mysql"

    def __init__(self, data: Path, local: Path) -> None:
        need("mariadbd", "mariadb-install-db", "mariadb")
        need_user(self.USER)
        self.data = data
        self.socket = local / "my.sock"
        self.log = local / "mariadb.log"
        self._local = local
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        entry = need_user(self.USER)
        self.data.mkdir()
        os.chown(self.data, entry.pw_uid, entry.pw_gid)
        run(
            [
                *("mariadb-install-db", "--no-defaults", f"--user={self.USER}"),
                *(f"--datadir={self.data}", "--auth-root-authentication-method=normal"),
                "--skip-test-db",
            ]
        )

    def start(self) -> None:
        program = find("mariadbd")
        assert program is not None
        command = [
            *(program, "--no-defaults", f"--user={self.USER}", f"--datadir={self.data}"),
            *(f"--socket={self.socket}", "--skip-networking"),
            f"--pid-file={self._local / 'my.pid'}",
        ]
        self._process = self._stack.enter_context(started(command, self.log, cwd=self._local))
        wait_until(self._is_ready, READY_S, f"MariaDB ready, see {self.log}")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        return run([*self.client, "-e", "select 1"], succeeds=False).returncode == 0

    @property
    def client(self) -> list[str]:
        return ["mariadb", "--no-defaults", "-uroot", f"--socket={self.socket}", "-BN"]

    def ask(self, query: str, database: str = "mysql") -> str:
        return run([*self.client, database, "-e", query]).stdout.strip()

    def kill(self) -> None:
        assert self._process is not None
        _kill_and_wait(self._process)

    def stop(self) -> None:
        run(["mariadb-admin", "--no-defaults", "-uroot", f"--socket={self.socket}", "shutdown"])
        assert self._process is not None
        assert self._process.wait(STOP_S) == 0, self.log.read_text()[-3000:]

    def end(self) -> None:
        self._stack.close()

    def sysbench(self, command: str, seconds: int = 0, threads: int = 4) -> list[str]:
        need("sysbench")
        return [
            *("sysbench", "oltp_read_write", "--db-driver=mysql", "--mysql-user=root"),
            *(f"--mysql-socket={self.socket}", "--mysql-db=bench", "--tables=2"),
            *("--table-size=2000", f"--threads={threads}", f"--time={seconds}", command),
        ]

    def verify(self) -> None:
        tables = self.ask("show tables", "bench").split()
        assert tables
        for table in tables:
            said = self.ask(f"check table {table} extended", "bench").splitlines()
            assert all(line.endswith("\tOK") for line in said), said

    def complaints(self) -> list[str]:
        words = ("[ERROR]", "corrupt", "Input/output", "Cannot ")
        return [line for line in self.log.read_text().splitlines() if any(w in line for w in words)]
