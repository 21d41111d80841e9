"""A worker as its keeper sees it: a child process, and the line to it.

A worker is a program of its own, not a fork: it starts from the code that is installed at that
moment, and nothing of the keeper's memory is in it.

Standard library only: the keeper imports this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from . import link

# -P: what lies in the current directory is no module of ours.
COMMAND = (sys.executable, "-P", "-m", "dataplatform_clients.fuse.process")


class Worker:
    """Times are of `time.monotonic`."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.connection = connection
        self.started_s = time.monotonic()
        self.is_loaded = False
        self.is_serving = False  # it was told to go
        self.is_ready = False
        self.deadline_s: float | None = None  # it is killed if it has not done by then what it must
        self.is_overdue = False  # and was

    @classmethod
    def spawn(
        cls, command: Sequence[str], options: int, handover: int, *, is_first: bool
    ) -> Worker:
        """Start one, and tell it to load. It gets copies of the two descriptors."""
        ours, theirs = link.pair()
        with theirs:
            arguments = [*command, str(theirs.fileno())]
            # A session of its own: Ctrl-C in a terminal is for the keeper alone.
            pid = os.posix_spawn(arguments[0], arguments, os.environ, setsid=True)
        worker = cls(pid, ours)
        worker._say(link.BEGIN_FIRST if is_first else link.BEGIN, options, handover)
        return worker

    def go(self, connection: int) -> None:
        """Your turn to serve, on this connection of the kernel."""
        self.is_serving = True
        self._say(link.GO, connection)

    def drain(self) -> None:
        self._say(link.DRAIN)

    def hear(self) -> list[bytes]:
        """What it said since; the last one is empty if it will say no more."""
        heard: list[bytes] = []
        while not heard or heard[-1]:
            try:
                heard.append(self.connection.recv(link.MESSAGE_BYTES_MAX, socket.MSG_DONTWAIT))
            except BlockingIOError:
                break
            except OSError:
                heard.append(b"")
        return heard

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def close(self) -> None:
        self.connection.close()

    def _say(self, message: bytes, *descriptors: int) -> None:
        with contextlib.suppress(OSError):  # it is dead: that is noticed elsewhere
            socket.send_fds(self.connection, [message], descriptors)


def describe(status: int) -> str:
    """How a child ended, from its wait status."""
    code = os.waitstatus_to_exitcode(status)
    return f"ended with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
