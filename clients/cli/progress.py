"""Progress of long work: a bar on standard error, on a terminal only, and only after a second."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

DELAY_S = 1.0
"""Work that takes no longer needs no bar (interface.md)."""


class Progress:
    """`with Progress("put", total) as progress: progress.advance(n)`. Without a total it only
    counts; `unit` is what it counts."""

    def __init__(self, label: str, total: int | None = None, unit: str = "bytes") -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._done = 0
        self._lock = threading.Lock()
        self._bar: Bar | None = None
        self._timer: threading.Timer | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._timer = threading.Timer(DELAY_S, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._bar is not None:
                self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """So much more is done."""
        self._done += count
        self._update()

    def expect(self, total: int) -> None:
        """So much there is to do."""
        self._total = total
        self._update()

    def tell(self, label: str, done: int) -> None:
        """What is being done, and how much of it is done in all."""
        self._label, self._done = label, done
        self._update()

    def _update(self) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], **self._state())

    def _state(self) -> dict[str, Any]:
        return {"description": self._label, "completed": self._done, "total": self._total}

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        counts = (
            [DownloadColumn(binary_units=True), TransferSpeedColumn()]
            if self._unit == "bytes"
            else [MofNCompleteColumn(), TextColumn(self._unit)]
        )
        with self._lock:
            if self._is_over:
                return
            bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                *counts,
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            bar.add_task(self._label, total=self._total, completed=self._done)
            bar.start()
            self._bar = bar
