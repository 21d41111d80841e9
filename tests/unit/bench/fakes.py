"""Sides that do no work: their figures are told to them, and they write down when it was asked."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dataplatform_bench.processes import Failed
from dataplatform_bench.sides import Driver, MakeDriver, Side, Sizes, Way, way

WORK = "get"


class FakeDriver(Driver):
    """Writes its name to `log` in every turn; then gives `figure`, fails, hangs, or dies."""

    def __init__(self, name: str, log: Path, figure: float | str) -> None:
        if figure == "no driver":
            raise RuntimeError("no driver")
        self._name = name
        self._log = log
        self._figure = figure

    def ways(self) -> Sequence[Way]:
        return (way(WORK, "fake", "–", self.measure),)

    def measure(self, sizes: Sizes) -> float:
        with self._log.open("a") as log:
            log.write(f"{self._name}\n")
        if self._figure == "hang":
            threading.Event().wait()
        if self._figure == "die":
            os._exit(1)
        if isinstance(self._figure, str):
            raise ValueError(self._figure)
        return self._figure * sizes.scale

    def close(self) -> None:
        with self._log.open("a") as log:
            log.write(f"{self._name} closed\n")


class FakeSide(Side):
    works = frozenset((WORK,))

    def __init__(
        self, name: str, log: Path, figure: float | str = 1.0, missing: str | None = None
    ) -> None:
        self.name = name
        self.stops = 0
        self._log = log
        self._figure = figure
        self._missing = missing

    def missing(self) -> str | None:
        return self._missing

    def start(self, directory: Path) -> Sequence[MakeDriver]:
        assert directory.is_dir()
        if self._figure == "no server":
            raise Failed("no server")
        return (partial(FakeDriver, self.name, self._log, self._figure),)

    def stop(self) -> None:
        self.stops += 1
