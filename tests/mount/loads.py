"""The load program beside a test: started, watched, ended, and its journal verified."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from . import load
from .mounts import wait_until

ROOT = Path(__file__).parents[2]
PROGRESS_S = 60.0


class Running:
    """`with Running(directory, journal, seed) as running:`; ends well, or the test fails.

    `allowed`: a message with which the program may end early; then it `has_failed`.
    """

    def __init__(
        self, directory: Path, journal: Path, seed: int, allowed: str | None = None
    ) -> None:
        self.has_failed = False
        self._allowed = allowed
        self._said = ""
        self._directory = directory
        self._journal = journal
        self._seed = seed
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Running:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.mount.load"),
                *(str(self._directory), str(self._journal), str(self._seed)),
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def progress(self, count: int, limit_s: float = PROGRESS_S) -> None:
        """Wait for so many more confirmed changes."""
        assert self._process is not None
        process = self._process
        wanted = load.count(self._journal) + count

        def done() -> bool:
            if process.poll() is not None:
                self._ended()
                return True
            return load.count(self._journal) >= wanted

        wait_until(done, limit_s, f"{count} more confirmed changes")

    def count(self) -> int:
        return load.count(self._journal)

    def _ended(self) -> None:
        """By itself or by us: without an error, but for the one that is allowed."""
        assert self._process is not None
        if not self.has_failed:
            self._said = self._process.communicate(timeout=PROGRESS_S)[1]
        if self._process.returncode != 0:
            self.has_failed = True
            is_allowed = self._allowed is not None and self._allowed in self._said
            assert is_allowed, f"the program saw an error:\n{self._said}"

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(PROGRESS_S)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._ended()
        load.verify(self._directory, self._journal)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()
