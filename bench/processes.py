"""Processes that a measurement starts: servers of ours and of peers.

Each runs in a session of its own, so that Ctrl-C reaches this program alone, which then stops them
in order; what is left after the time limit is killed with its children. Its output goes to a log,
whose end is part of the message when it does not start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0
STOP_S = 60.0
LOG_TAIL_BYTES = 1000
POLL_S = 0.05


class Failed(Exception):
    """A process did not start, or a step before it went wrong."""


class Running:
    """A process that was started here, until `stop`."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = Path(command[0]).name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, is_ready: Callable[[], bool], limit_s: float = START_S) -> None:
        """Wait for the process to answer; Failed, with the end of its log, when it does not."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                code = self._process.returncode
                raise Failed(f"{self._name} ended with exit code {code}: {self._tail()}")
            if is_ready():
                return
            time.sleep(POLL_S)
        raise Failed(f"{self._name} did not answer within {limit_s:.0f} s: {self._tail()}")

    def ended(self, limit_s: float) -> bool:
        """Whether it has ended by itself, within the limit."""
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, limit_s: float = STOP_S) -> int:
        """SIGTERM, then after the limit SIGKILL, to it and its children; the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _tail(self) -> str:
        text = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return " ".join(text.split()) or "it said nothing"


def run(command: Sequence[str], limit_s: float = START_S) -> str:
    """A command that ends by itself; its output. Failed when it fails or takes too long."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} did not end within {limit_s:.0f} s") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise Failed(f"{name} ended with exit code {done.returncode}: {text[-LOG_TAIL_BYTES:]}")
    return text


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over: stopping what was started takes a moment,
    and who is impatient must not leave half of it behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda found, _: noted.append(found)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if noted:
        signal.raise_signal(noted[0])
