"""Every command of `dp`, as something to be asked of a cell.

A command that `dp` has and that is neither in `COMMANDS` nor in `LOCAL` fails the matrix. `@`
stands for the directory of the cell, `%` for a local directory with `f`, `rows.csv` and `lines`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from typer.main import get_command

from dataplatform.base.errors import KINDS
from dataplatform_clients.cli import main

from .doors import OK


class Command(NamedTuple):
    about: str  # as in requests.py
    line: str
    changes: bool = False
    is_sure: bool = True


def reads(line: str, about: str = "things", **more: Any) -> Command:
    return Command(about, line, **more)


def changes(line: str, **more: Any) -> Command:
    return Command("things", line, changes=True, **more)


def admins(line: str, **more: Any) -> Command:
    return Command("admins", line, changes=True, **more)


COMMANDS: dict[str, Command] = {
    # ---- files and directories
    "ls": reads("ls @/d"),
    "stat": reads("stat @/f", "reach"),
    "tree": reads("tree @/d"),
    "du": reads("du @/d"),
    "mkdir": changes("mkdir @/d/new"),
    "cp": changes("cp @/f @/d/new"),
    "mv": changes("mv @/d/old @/d/new"),
    "rm": changes("rm @/d/old"),
    "ln": changes("ln @/f @/d/new"),
    "touch": changes("touch @/f"),
    "put": changes("put %/f @/d/new"),
    "get": reads("get @/f %/got"),
    "cat": reads("cat @/f"),
    "changes show": reads("changes @/d", "reach"),
    "changes publish": changes("changes publish @/d --to @/s:feed"),
    "changes unpublish": changes("changes unpublish @/d --to @/s:feed", is_sure=False),
    "changes publications": reads("changes publications", "anybody"),
    # ---- tables
    "table create": changes("table create @/d/new"),
    "table put": changes("table put @/t k n=2"),
    "table get": reads("table get @/t k"),
    "table delete": changes("table delete @/t k"),
    "table increment": changes("table increment @/t k n"),
    "table scan": reads("table scan @/t"),
    "table load": changes("table load @/t %/rows.csv --key k"),
    "table info": reads("table info @/t", "reach"),
    # ---- streams
    "stream create": changes("stream create @/d/new"),
    "stream topics": reads("stream topics @/s"),
    "stream produce": changes("stream produce @/s:a %/lines"),
    "stream consume": reads("stream consume @/s:a"),
    "stream groups": reads("stream groups @/s"),
    "stream info": reads("stream info @/s"),
    "stream topic create": changes("stream topic create @/s:b"),
    "stream topic delete": changes("stream topic delete @/s:a"),
    "stream group delete": changes("stream group delete @/s g"),
    # ---- rules, quotas, volumes
    "acl get": reads("acl get @/f", "reach"),
    "acl set": changes("acl set @/f read=u:ana"),
    "acl check": reads("acl check @/f", "reach"),
    "quota set": admins("quota set @/d --bytes 1GiB"),
    "quota get": reads("quota get @/d", "reach", is_sure=False),
    "quota ls": reads("quota ls @/d", "reach"),
    "quota remove": admins("quota remove @/d"),
    "volume create": changes("volume create @/d/vol"),
    "volume ls": reads("volume ls", "anybody"),
    "volume info": reads("volume info @/f", "reach"),
    "volume set": admins("volume set @/v --quota 1GiB"),
    "volume remove": changes("volume remove -r @/v"),
    "snapshot create": changes("snapshot create @/v new"),
    "snapshot ls": reads("snapshot ls @/v", "reach"),
    "snapshot info": reads("snapshot info @/v old", "reach"),
    "snapshot remove": changes("snapshot remove @/v old"),
    "snapshot clone": changes("snapshot clone @/v old @/d/clone"),
    "snapshot restore": changes("snapshot restore @/v old"),
    "snapshot promote": changes("snapshot promote @/c/x"),
    "snapshot schedule": changes("snapshot schedule @/v --every 1d --keep 7"),
    "volume rotate-key": admins("volume rotate-key @/v"),
    "volume lock": admins("volume lock @/v"),
    "volume unlock": admins("volume unlock @/v"),
    # ---- the server, and who is who
    "audit": admins("audit"),
    "check": admins("check @"),
    "status": reads("status", "anybody"),
    "whoami": reads("whoami", "anybody"),
    "keys rotate-master": admins("keys rotate-master"),
    "user create": admins("user create new"),
    "user ls": admins("user ls"),
    "user set": admins("user set bob --disable"),
    "user remove": admins("user remove bob"),
    "group create": admins("group create new"),
    "group ls": admins("group ls"),
    "group add": admins("group add eng bob"),
    "group drop": admins("group drop eng bob"),
    "group remove": admins("group remove eng"),
    "mirror gather": admins("mirror gather @/s:a --from /east/s:a"),
    "mirror gathers": admins("mirror gathers"),
    "mirror ungather": admins("mirror ungather @/s:a"),
    "cluster add": admins("cluster add east dp://127.0.0.1:1"),
    "cluster set": admins("cluster set east --access p"),
    "cluster ls": admins("cluster ls"),
    "cluster remove": admins("cluster remove east"),
    "mirror create": admins("mirror create @/d/new --source dp://127.0.0.1:1/v", is_sure=False),
    "mirror status": reads("mirror status", "anybody"),
    "mirror set": admins("mirror set @/v --every 10s", is_sure=False),
    "mirror pause": admins("mirror pause @/v", is_sure=False),
    "mirror resume": admins("mirror resume @/v", is_sure=False),
    "mirror promote": admins("mirror promote @/v", is_sure=False),
    "mirror remove": admins("mirror remove @/v", is_sure=False),
    "token create": admins("token create --user bob"),
    "token ls": reads("token ls", "own"),
    "token revoke": admins("token revoke --user bob"),
}

LOCAL = {
    "bench": "starts servers of its own",
    "certs client": "makes local files",
    "certs init": "makes local files",
    "certs server": "makes local files",
    "certs show": "reads a local file",
    "keys create-master": "makes a local file",
    "mount": "is a door of its own: tests/mount/test_rights.py",
    "server start": "is the server",
    "umount": "asks the local mount",
    "version": "known here",
}
"""What asks no server, and why."""


def names() -> set[str]:
    """Of every command."""
    return set(_names(get_command(main.load()), ()))


def _names(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield " ".join(path)
        return
    for name, below in command.commands.items():
        yield from _names(below, (*path, name))


class Dp:
    """The command, in a thread of this process, with a token from a file."""

    def __init__(self, address: str, tokens: dict[str, str], local: Path) -> None:
        self._address = address
        self._local = local
        self._thread = ThreadPoolExecutor(1)
        for name, token in tokens.items():
            self._file(name).write_text(token)
        (local / "f").write_text("abc")
        (local / "rows.csv").write_text("k,n\na,1\n")
        (local / "lines").write_text("one\n")

    def _file(self, token: str) -> Path:
        return self._local / f"{token}.token"

    async def ask(self, token: str, command: Command, path: str) -> tuple[str, str]:
        """`OK`, or the kind of error by the exit code; and what was said."""
        words = [
            word.replace("@", path).replace("%", str(self._local)) for word in command.line.split()
        ]
        options = ["--server", self._address, "--token-file", str(self._file(token))]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _run, [*options, *words])

    def close(self) -> None:
        self._thread.shutdown()


def _run(words: list[str]) -> tuple[str, str]:
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())),
        contextlib.redirect_stderr(said),
    ):
        try:
            code = main.run(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
    kinds = {rule.exit_code: kind.name for kind, rule in KINDS.items()}
    return OK if code == 0 else kinds.get(code, str(code)), said.getvalue().strip()
