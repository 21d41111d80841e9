"""The entry point of `dp`, and the list of modules that bring commands.

To add a command: write a module that registers with `apps.app` (see `status.py` for a short one)
and name it in `_load`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import typer

GLOBAL_OPTIONS = ("--server", "--token")


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. Nothing but `SystemExit` gets out of it."""
    try:
        from typer.main import get_command

        from . import outputs

        command = get_command(load())
        code = command.main(hoist(arguments), prog_name="dp", standalone_mode=False)
        outputs.flush()
        return code if isinstance(code, int) else 0
    except SystemExit:
        raise
    except BaseException as error:
        from .errors import report

        return report(error)


def load() -> typer.Typer:
    """The application with every command registered."""
    from . import (  # the order is that of `dp --help`
        listings,
        files,
        transfers,
        tables,
        streams,
        changes,
        volumes,
        server,
        status,
        check,
    )
    from .apps import app

    del listings, files, transfers, tables, streams, changes, volumes, server, status, check
    return app


def hoist(arguments: Sequence[str]) -> list[str]:
    """Global options moved to the front, so that they may stand anywhere before `--`."""
    front: list[str] = []
    rest = list(arguments)
    position = 0
    while position < len(rest) and rest[position] != "--":
        name, _, _ = rest[position].partition("=")
        if name not in GLOBAL_OPTIONS:
            position += 1
            continue
        length = 1 if "=" in rest[position] else 2
        front += rest[position : position + length]
        del rest[position : position + length]
    return front + rest


if __name__ == "__main__":
    main()
