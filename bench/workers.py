"""A driver in a process of its own: a hanging peer costs a time limit, not the run.

The worker leads a session of its own, so that Ctrl-C goes to this program alone and a kill takes
along the processes that a driver has started.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

from .processes import Failed
from .sides import Label, MakeDriver, Sizes

START_S = 120.0
TURN_S = 300.0
"""For one turn with what it prepares before its first one."""
CLOSE_S = 30.0

_processes = multiprocessing.get_context("spawn")


class Worker:
    """A driver, started. After a Failed that was a time limit, every call fails."""

    def __init__(self, make: MakeDriver, limit_s: float = START_S) -> None:
        self._connection, theirs = _processes.Pipe()
        self._process = _processes.Process(target=_serve, args=(theirs, make))
        self._process.start()
        theirs.close()
        self.labels: list[Label] = []
        try:
            self.labels = self._answer(limit_s)
        except BaseException:
            self.kill()
            raise

    def measure(self, number: int, sizes: Sizes, limit_s: float = TURN_S) -> float:
        """One turn of the way with this number; its figure. Raises Failed."""
        if not self._process.is_alive():
            raise Failed("its client has ended")
        self._connection.send((number, sizes))
        value: float = self._answer(limit_s)
        return value

    def close(self) -> None:
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(CLOSE_S)
        self.kill()

    def kill(self) -> None:
        """End it with all that it has started."""
        with suppress(ProcessLookupError):
            if self._process.pid is not None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # where it has not come to leading a session yet
        self._process.join()

    def _answer(self, limit_s: float):  # type: ignore[no-untyped-def]
        if not self._connection.poll(limit_s):
            self.kill()
            raise Failed(f"no answer within {limit_s:.0f} s")
        try:
            is_good, answer = self._connection.recv()
        except EOFError:
            raise Failed("its client died") from None
        if not is_good:
            raise Failed(answer)
        return answer


def _serve(connection: Connection, make: MakeDriver) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        driver = make()
        ways = driver.ways()
        connection.send((True, [way.label for way in ways]))
    except Exception as error:
        connection.send((False, _words(error)))
        return
    try:
        while (asked := _next(connection)) is not None:
            number, sizes = asked
            try:
                connection.send((True, ways[number].measure(sizes)))
            except Exception as error:
                connection.send((False, _words(error)))
    finally:
        driver.close()


def _next(connection: Connection) -> tuple[int, Sizes] | None:
    try:
        asked: tuple[int, Sizes] | None = connection.recv()
    except EOFError:
        return None  # the program that measures is gone
    return asked


def _words(error: Exception) -> str:
    if os.environ.get("DP_DEBUG"):
        traceback.print_exception(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
