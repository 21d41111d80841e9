"""The entry point of `dp`, and the list of modules that bring commands.

To add a command: write a module that registers with `apps.app` (see `status.py` for a short one)
and name it in `MODULES`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import typer

MODULES = {  # what each brings, in the order of `dp --help`
    "listings": ("ls", "stat", "tree", "du"),
    "files": ("mkdir", "cp", "mv", "rm", "ln", "touch"),
    "transfers": ("put", "get", "cat"),
    "tables": ("table",),
    "streams": ("stream",),
    "changes": ("changes",),
    "volumes": ("volume",),
    "snapshots": ("snapshot",),
    "identities": ("user", "group", "token", "whoami"),
    "clusters": ("cluster",),
    "mirrors": ("mirror",),
    "gathers": ("mirror",),
    "audit": ("audit",),
    "quotas": ("quota",),
    "acl": ("acl",),
    "server": ("server",),
    "keys": ("keys",),
    "certs": ("certs",),
    "mounts": ("mount", "umount"),
    "status": ("status", "version"),
    "check": ("check",),
    "bench": ("bench",),
}

GLOBAL_OPTIONS = ("--server", "--token", "--token-file")
GLOBAL_FLAGS = ("--stale-ok",)


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. Nothing but `SystemExit` gets out of it."""
    try:
        from typer.main import get_command

        from . import outputs

        arguments, name = hoist(arguments)
        command = get_command(load(name))
        code = command.main(arguments, prog_name="dp", standalone_mode=False)
        outputs.flush()
        return code if isinstance(code, int) else 0
    except SystemExit:
        raise
    except BaseException as error:
        from .errors import report

        return report(error)


def load(name: str = "") -> typer.Typer:
    """The application: with the command `name` alone, which is fast, or with every command where
    there is no such name: for help, completion, and for saying what is like a name typed wrong."""
    from .apps import app

    modules = [module for module, names in MODULES.items() if name in names]
    for module in modules or MODULES:
        import_module(f"{__package__}.{module}")
    return app


def hoist(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Global options moved to the front, so that they may stand anywhere before `--`; and the
    command's name, where it comes first then."""
    front: list[str] = []
    rest = list(arguments)
    position = 0
    while position < len(rest) and rest[position] != "--":
        option = rest[position].partition("=")[0]
        if option not in (*GLOBAL_OPTIONS, *GLOBAL_FLAGS):
            position += 1
            continue
        length = 1 if option in GLOBAL_FLAGS or "=" in rest[position] else 2
        front += rest[position : position + length]
        del rest[position : position + length]
    return front + rest, rest[0] if rest else ""


if __name__ == "__main__":
    main()
