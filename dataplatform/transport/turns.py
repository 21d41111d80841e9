"""Turns of the loop, shared among groups of connections: a loud one does not make them long.

Requests that a handler answers at once are carried out as they are read. A few clients that send as
fast as they can would fill a turn of the loop with milliseconds of such work, and everybody else's
request waits for the turn's end. So while there is contention each group begins requests for
QUANTUM_S per turn, and has work of WEIGHT_MAX under way at most: what was begun ends some time, and
hundreds of replies in one turn would be waited for just as well. What is left waits, in its
connection, for a later turn; connections of a group come one after the other. Without contention
nothing is measured and nothing waits.

What has been under way for LONG_S does not count any more: it waits for something else than this
loop (an acknowledgement, a limit), and must not keep what it waits for from beginning.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

QUANTUM_S = 0.001
"""Some ten requests. Less costs throughput, since fewer replies share a write; more is waited for
by everybody else."""

WEIGHT_MAX = 16
"""Of the work that a group has under way: small requests, or WEIGHT_BYTES of larger ones each. Less
costs throughput, since fewer commits share a sync; more may end in one turn."""

WEIGHT_BYTES = 128 * 1024
"""A quarter of a millisecond, copied and checked."""

LONG_S = 0.1


class Waiting(Protocol):
    """A connection whose requests wait for its turn."""

    def take_turn(self) -> bool:
        """Begin what may begin; whether anything did."""


class Work:
    """A request under way."""

    __slots__ = ("_turns", "began_s", "group", "weight")

    def __init__(self, turns: Turns, group: int, weight: int, began_s: float) -> None:
        self._turns = turns
        self.group = group
        self.weight = weight
        self.began_s = began_s

    def end(self) -> None:
        self._turns._ended(self)


class Admission(Waiting):
    """Of a single request that stands in no connection of ours: `await` its `wait`."""

    def __init__(self, turns: Turns, group: int) -> None:
        self._turns = turns
        self._group = group
        self._admitted: asyncio.Future[None] | None = None

    async def wait(self) -> Work:
        """Until the request may begin, which it does then: `end` the work."""
        turns = self._turns
        while turns.is_contended and not turns.may_begin(self._group):
            self._admitted = asyncio.get_running_loop().create_future()
            turns.wait(self, self._group)
            try:
                await self._admitted
            finally:
                turns.forget(self)
        return turns.begun(self._group)

    def take_turn(self) -> bool:
        assert self._admitted is not None
        if not self._admitted.done():
            self._admitted.set_result(None)
        return True


class _Group:
    """What a group has spent of this turn, has under way, and who of it waits."""

    __slots__ = ("running", "spent_s", "waiting", "weight")

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.weight = 0
        self.running: OrderedDict[Work, None] = OrderedDict()  # the oldest first
        self.waiting: OrderedDict[Waiting, None] = OrderedDict()

    def drop(self, work: Work) -> None:
        del self.running[work]
        self.weight -= work.weight


def weight_of(size_bytes: int) -> int:
    return 1 + size_bytes // WEIGHT_BYTES


class Turns:
    """`call_soon` puts off until the next turn, `call_later` for some seconds. `now_s` measures
    what requests take."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.now_s = now_s
        self._is_contended = False
        self._call_soon = call_soon
        self._call_later = call_later
        self._groups: dict[int, _Group] = {}
        self._waits_in: dict[Waiting, int] = {}
        self._is_scheduled = False
        self._is_timed = False

    @property
    def is_contended(self) -> bool:
        return self._is_contended

    @is_contended.setter
    def is_contended(self, is_contended: bool) -> None:
        self._is_contended = is_contended
        if self._waits_in:
            self._schedule()

    @property
    def waiting(self) -> int:
        """Connections that wait for their turn."""
        return len(self._waits_in)

    def may_begin(self, group: int) -> bool:
        """Whether the group has something left of this turn. Ask only while `is_contended`."""
        known = self._groups.get(group)
        if known is None:
            return True
        return known.spent_s < QUANTUM_S and not self._is_full(known)

    def _is_full(self, group: _Group) -> bool:
        if group.weight < WEIGHT_MAX:
            return False
        before_s = self.now_s() - LONG_S
        while group.running:
            oldest = next(iter(group.running))
            if oldest.began_s > before_s:
                break
            group.drop(oldest)
        return group.weight >= WEIGHT_MAX

    def spent(self, group: int, seconds: float) -> None:
        self._group(group).spent_s += seconds
        self._schedule()

    def begun(self, group: int, weight: int = 1) -> Work:
        """A request is under way; `end` it."""
        work = Work(self, group, weight, self.now_s())
        known = self._group(group)
        known.running[work] = None
        known.weight += weight
        return work

    def _ended(self, work: Work) -> None:
        group = self._groups.get(work.group)
        if group is None or work not in group.running:
            return  # it took long
        group.drop(work)
        if group.waiting:
            self._schedule()

    def wait(self, connection: Waiting, group: int) -> None:
        """Call its `take_turn` when its group may begin something."""
        before = self._waits_in.get(connection)
        if before != group:
            if before is not None:
                self.forget(connection)
            self._waits_in[connection] = group
            self._group(group).waiting[connection] = None
        self._come_again(self._groups[group])

    def forget(self, connection: Waiting) -> None:
        group = self._waits_in.pop(connection, None)
        if group is not None:
            self._groups[group].waiting.pop(connection, None)

    def _group(self, group: int) -> _Group:
        known = self._groups.get(group)
        if known is None:
            known = self._groups[group] = _Group()
        return known

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._next_turn)

    def _look_again(self) -> None:
        """Whether what is under way takes long."""
        if not self._is_timed:
            self._is_timed = True
            self._call_later(LONG_S, self._looked)

    def _looked(self) -> None:
        self._is_timed = False
        if self._waits_in:
            self._schedule()

    def _next_turn(self) -> None:
        self._is_scheduled = False
        for number, group in list(self._groups.items()):
            group.spent_s = 0.0
            for _ in range(len(group.waiting)):
                if self._is_contended and not self.may_begin(number):
                    self._come_again(group)
                    break
                connection, _ = group.waiting.popitem(last=False)
                del self._waits_in[connection]
                connection.take_turn()
            if not group.running and not group.waiting and not group.spent_s:
                del self._groups[number]

    def _come_again(self, group: _Group) -> None:
        """For whoever waits in it."""
        if group.weight >= WEIGHT_MAX:
            self._look_again()
        else:
            self._schedule()
