"""Fairness among volumes: whether more than one is in use, and which one a session is busy with.

While one volume alone is in use nothing is shared, and nothing is measured. Noticing it costs each
request a comparison.
"""

from __future__ import annotations

from collections.abc import Callable

from .sessions import Session

LASTING_S = 1.0
"""How long there is contention after requests last went to different volumes."""

Later = Callable[[float, Callable[[], None]], object]


class Fairness:
    """`contended(flag)` is told of changes; `call_later` is the loop's."""

    def __init__(self, contended: Callable[[bool], None], call_later: Later) -> None:
        self._contended = contended
        self._call_later = call_later
        self._last = -1
        self._switches = 0
        self._is_contended = False

    def saw(self, session: Session, volume: int) -> None:
        """A request of the session led to the volume."""
        session.volume = volume
        if volume != self._last:
            self._switched(volume)

    def _switched(self, volume: int) -> None:
        is_first, self._last = self._last < 0, volume
        if is_first:
            return
        self._switches += 1
        if not self._is_contended:
            self._is_contended = True
            self._contended(True)
            self._look_again()

    def _look_again(self) -> None:
        seen = self._switches
        self._call_later(LASTING_S, lambda: self._looked(seen))

    def _looked(self, before: int) -> None:
        if self._switches != before:
            self._look_again()
            return
        self._is_contended = False
        self._contended(False)
