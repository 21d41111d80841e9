"""Runs `dp` command lines in processes of their own, without the start-up time of each.

A program for test_cli.py: it loads everything once and then forks for each request. A request is a
line of JSON on standard input: arguments, directory, environment, and the files that become the
standard streams. The answer is a line with the exit code.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

import dataplatform  # noqa: F401  what the commands would import
from dataplatform_clients.cli import main


def serve() -> None:
    main.load()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            become(request)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def become(request: dict[str, Any]) -> NoReturn:
    """What a shell does before it starts a command, and the interpreter at its end."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT if number else os.O_RDONLY
        os.dup2(os.open(request[name], flags), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["dp", *request["arguments"]]
    code = 1
    try:
        main.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
