"""Turns of the loop, shared among groups of connections: a loud one does not make them long.

Requests that a handler answers at once are carried out as they are read. A few clients that send as
fast as they can would fill a turn of the loop with milliseconds of such work, and everybody else's
request waits for the turn's end. So while there is contention each group begins requests for
QUANTUM_S per turn; what is left waits, in its connection, for the next turn, and connections that
got nothing come first there. Without contention nothing is measured and nothing waits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

QUANTUM_S = 0.0005
"""Some five requests. Less costs throughput, since fewer replies share a write; more is waited for
by everybody else."""


class Waiting(Protocol):
    """A connection whose requests wait for its turn."""

    def take_turn(self) -> bool:
        """Begin what may begin; whether anything did."""


class Turns:
    """`call_soon` puts off until the next turn. `now_s` measures what requests take."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.is_contended = False
        self.now_s = now_s
        self._call_soon = call_soon
        self._spent_s: dict[int, float] = {}
        self._waiting: deque[Waiting] = deque()
        self._is_scheduled = False

    def may_begin(self, group: int) -> bool:
        """Whether the group has something left of this turn. Ask only while `is_contended`."""
        return self._spent_s.get(group, 0.0) < QUANTUM_S

    def spent(self, group: int, seconds: float) -> None:
        self._spent_s[group] = self._spent_s.get(group, 0.0) + seconds
        self._schedule()

    def wait(self, connection: Waiting) -> None:
        """Call its `take_turn` in the next turn."""
        if connection not in self._waiting:
            self._waiting.append(connection)
        self._schedule()

    def forget(self, connection: Waiting) -> None:
        if connection in self._waiting:
            self._waiting.remove(connection)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._is_scheduled = False
        self._spent_s.clear()
        waiting, self._waiting = self._waiting, deque()
        served: list[Waiting] = []
        for connection in waiting:
            if connection.take_turn():
                served.append(connection)
        # Who got something waits behind those who did not.
        for connection in served:
            if connection in self._waiting:
                self._waiting.remove(connection)
                self._waiting.append(connection)
