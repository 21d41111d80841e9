"""Watching a slow peer: when it is too slow, and when it is not."""

from __future__ import annotations

from collections.abc import Callable

from dataplatform.transport.watches import Pace, Watch


class Peer:
    """Moves as many bytes between two looks as it is told."""

    def __init__(self) -> None:
        self.moved = 0
        self.pressed = False
        self.excused = False
        self.too_slow = 0
        self.pauses_s: list[float] = []
        self._look: Callable[[], None] | None = None
        Watch(
            Pace(bytes_per_s_min=10, within_s=30, pressed_s=5),
            self._later,
            lambda: self.moved,
            lambda: self.pressed,
            self._end,
            lambda: self.excused,
        )

    def _later(self, delay_s: float, look: Callable[[], None]) -> None:
        self.pauses_s.append(delay_s)
        self._look = look

    def _end(self) -> None:
        self.too_slow += 1

    @property
    def is_watched(self) -> bool:
        return self._look is not None

    def move(self, size_bytes: int) -> None:
        """And be looked at."""
        self.moved += size_bytes
        look, self._look = self._look, None
        assert look is not None
        look()


def test_it_is_looked_at_often_and_judged_by_the_whole() -> None:
    peer = Peer()
    for size_bytes in (300, 0, 0, 0, 0, 0):  # just enough for half a minute
        peer.move(size_bytes)
        assert peer.is_watched
    assert peer.pauses_s == [5] * 7
    for _ in range(5):
        peer.move(49)
        assert peer.is_watched
    peer.move(49)
    assert (peer.too_slow, peer.is_watched) == (1, False)


def test_while_others_wait_every_look_counts() -> None:
    peer = Peer()
    peer.pressed = True
    peer.move(50)
    assert peer.is_watched
    peer.move(49)
    assert (peer.too_slow, peer.is_watched) == (1, False)


def test_what_it_moved_earlier_does_not_help_in_the_next_round() -> None:
    peer = Peer()
    peer.move(10_000)
    for _ in range(5):
        peer.move(0)
    assert peer.is_watched
    for _ in range(6):
        peer.move(0)
    assert peer.too_slow == 1


def test_who_is_kept_from_moving_is_excused_and_begins_anew() -> None:
    peer = Peer()
    peer.excused = peer.pressed = True
    for _ in range(20):
        peer.move(0)
    assert peer.is_watched
    peer.excused = peer.pressed = False
    for _ in range(5):
        peer.move(0)
        assert peer.is_watched
    peer.move(0)
    assert peer.too_slow == 1
