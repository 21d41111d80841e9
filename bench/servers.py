"""A server of our own on a directory that is thrown away, over its Unix socket, or TCP too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dataplatform

from .processes import Failed, Running


@dataclass(frozen=True, slots=True)
class Server:
    address: str
    pid: int
    data: Path


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Server]:
    """A server on DIRECTORY/data, stopped by SIGTERM at the end. Failed when it does not start, or
    does not end with exit code 0. `options` come after those that it gets here."""
    data, socket = directory / "data", directory / "dp.sock"
    address = f"dp+unix://{socket}"
    running = Running(
        [
            # -P: what lies in the current directory is no module of ours.
            *(sys.executable, "-P", "-m", "dataplatform_server", "start", "--data", str(data)),
            *("--socket", str(socket), "--listen", "none", "--grpc", "none", "--http", "none"),
            *("--log-level", "warning"),
            *options,
        ],
        directory / "server.log",
    )
    code = 0
    try:
        running.wait_until(lambda: _answers(address))
        yield Server(address, running.pid, data)
    finally:
        code = running.stop()
    if code != 0:
        raise Failed(f"the server ended with exit code {code}")


def _answers(address: str) -> bool:
    try:
        with dataplatform.connect(address, patience_s=1.0) as dp:
            dp.ping()
    except dataplatform.PlatformError:
        return False
    return True
