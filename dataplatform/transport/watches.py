"""Watching a peer that holds something of ours while it moves bytes: is it getting on with it?

It is looked at after `pressed_s`, again and again. Too slow is one that fell short of
`bytes_per_s_min` over all of `within_s`, or, while others wait for what it holds, since the last
look alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """What is asked of a peer."""

    bytes_per_s_min: int
    pressed_s: float
    within_s: float


class Watch:
    """One watch over one peer; it goes on for as long as its timer is not cancelled."""

    __slots__ = (
        "_first",
        "_is_excused",
        "_is_pressed",
        "_later",
        "_left_s",
        "_moved",
        "_pace",
        "_pause_s",
        "_previous",
        "_too_slow",
    )

    def __init__(
        self,
        pace: Pace,
        later: Callable[[float, Callable[[], None]], None],
        moved: Callable[[], int],
        is_pressed: Callable[[], bool],
        too_slow: Callable[[], None],
        is_excused: Callable[[], bool] = lambda: False,
    ) -> None:
        """`later` calls a function after so many seconds. `moved` counts the peer's bytes.
        `is_pressed`: whether others wait; `is_excused`: whether it is kept from moving any.
        `too_slow` ends the watch."""
        self._pace = pace
        self._later = later
        self._moved = moved
        self._is_pressed = is_pressed
        self._too_slow = too_slow
        self._is_excused = is_excused
        self._pause_s = min(pace.within_s, pace.pressed_s)
        self._begin(moved())

    def _begin(self, moved: int) -> None:
        self._first = self._previous = moved
        self._left_s = self._pace.within_s
        self._later(self._pause_s, self._look)

    def _look(self) -> None:
        moved = self._moved()
        self._left_s -= self._pause_s
        is_over = self._left_s <= 0
        if self._is_excused():
            self._begin(moved)
        elif (self._is_less(moved - self._previous, self._pause_s) and self._is_pressed()) or (
            is_over and self._is_less(moved - self._first, self._pace.within_s)
        ):
            self._too_slow()
        elif is_over:
            self._begin(moved)
        else:
            self._previous = moved
            self._later(self._pause_s, self._look)

    def _is_less(self, moved: int, seconds: float) -> bool:
        return moved < self._pace.bytes_per_s_min * seconds
