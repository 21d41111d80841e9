"""Request ids: what makes repeating a write safe (RFC 8881 §2.10.6, session slots).

A session has slots; a slot has one request under way at a time, numbered upwards. The server keeps
the last reply of each slot with the data, so a slot is taken again as soon as possible: the fewer
are in use, the fewer replies are kept.
"""

from __future__ import annotations

from collections import deque

from ..api import platform_pb2 as pb
from ..base.limits import SLOTS_MAX
from .runtime import Condition

WAIT_S = 0.05  # a thread that gives a slot back does not lock, so its notice can come too early


class Slots:
    """The slots of one session. Giving and taking need no lock: deques are safe among threads."""

    def __init__(
        self,
        session: bytes,
        condition: Condition,
        *,
        first: int = 0,
        end: int = SLOTS_MAX,
        last_sequence: int = 0,
    ) -> None:
        """Slots [first, end) of the session, none of which was used beyond `last_sequence`."""
        self._session = session
        self._sequences = [last_sequence] * end
        self._free = deque(range(end - 1, first - 1, -1))  # taken from the right
        self._condition = condition
        self._waiting = 0

    async def take(self) -> pb.RequestId:
        """A new request id; waits while every slot is in use."""
        while True:
            try:
                slot = self._free.pop()
            except IndexError:
                await self._wait()
            else:
                self._sequences[slot] += 1
                return pb.RequestId(
                    session=self._session, slot=slot, sequence=self._sequences[slot]
                )

    async def _wait(self) -> None:
        async with self._condition:
            self._waiting += 1
            try:
                if not self._free:
                    await self._condition.wait(WAIT_S)
            finally:
                self._waiting -= 1

    async def give_back(self, slot: int, *, is_answered: bool) -> None:
        """Let the slot be taken again: last of all if nobody knows whether its request, which may
        still be on its way, was done."""
        self.let_go(slot, is_answered=is_answered)
        if self._waiting:
            async with self._condition:
                self._condition.notify_all()

    def let_go(self, slot: int, *, is_answered: bool) -> None:
        """`give_back` without a word to those who wait: they look for themselves soon."""
        if is_answered:
            self._free.append(slot)
        else:
            self._free.appendleft(slot)
