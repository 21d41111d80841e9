"""A real server process on a disk that fails on demand: a library loaded before the C library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.servers import ServerProcess

SOURCE = Path(__file__).with_name("shim.c")


def build_shim(directory: Path) -> Path:
    """Skips where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the disk cannot be made to fail below RocksDB")
    library = directory / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return library


class FailingServer(ServerProcess):
    """`plan` says what goes wrong next, `struck` whether it has."""

    def __init__(self, directory: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory)
        self._plan = directory / "fault"
        self._plan.touch()
        self._library = library
        self._patch = monkeypatch

    def start(self) -> dict[str, object]:
        with self._patch.context() as patch:
            patch.setenv("LD_PRELOAD", str(self._library))
            patch.setenv("DISK_DIRECTORY", str(self.directory / "data"))
            patch.setenv("DISK_FAULT", str(self._plan))
            return super().start()

    def plan(self, call: str, match: str, nth: int = 1, value: int = 0) -> None:
        new = self._plan.with_suffix(".new")
        new.write_text(f"{call} {match} {nth} {value}\n")
        os.replace(new, self._plan)

    def heal(self) -> None:
        self._plan.write_text("")

    @property
    def struck(self) -> bool:
        return not self._plan.read_text()
