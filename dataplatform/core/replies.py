"""Request ids: a retry after a lost reply changes nothing (D5).

As in NFSv4.1 sessions (RFC 8881 §2.10.6): a client session has slots, a slot has one request under
way, numbered upwards, and the last reply of each slot is stored in the commit that it answers. So
what is kept is bounded by the number of slots, and needs no search: a request whose number equals
the slot's is a retry and gets the stored reply; a lower one is STALE.

The rows of a session are read once, on its first request in this open volume; from then on memory
is exact, because every change passes here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ..base.errors import Denied, Invalid, Stale
from ..base.limits import SLOTS_MAX
from ..engine.base import Engine, scan_all
from ..keyspace import keys
from ..keyspace.records import StoredReply
from .containment import Contained
from .units import SYSTEM, Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume

SESSIONS_CACHED_MAX = 1000
"""Sessions whose slots are held in memory; others are read again when they come back."""

SESSION_BYTES = 16

SESSION_AGE_NS = 3600 * 10**9
"""A client that was away for so long gets no second chance for a lost reply."""

SWEEP_MAX = 1000
"""Rows that one sweep deletes."""


class Replies:
    """The stored replies of one volume."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions: OrderedDict[bytes, dict[int, StoredReply]] = OrderedDict()

    async def find(self, request: Request) -> tuple[bool, Any]:
        """(True, result) if this very request was committed before."""
        if request.session is None:
            return False, None
        if len(request.session) != SESSION_BYTES or request.slot >= SLOTS_MAX:
            raise Invalid(
                "a request id has a session of 16 bytes and a slot below the limit",
                slots_max=SLOTS_MAX,
            )
        slots = self._sessions.get(request.session)
        if slots is None:
            slots = await self._load(request.session)
        else:
            self._sessions.move_to_end(request.session)
        stored = slots.get(request.slot)
        if stored is None:
            return False, None
        if stored.owner and stored.owner != request.principal.owner:
            # Who overhears an id must neither get the reply nor use up the slot.
            raise Denied("the request id belongs to somebody else", slot=request.slot)
        if stored.sequence < request.sequence:
            return False, None
        if stored.sequence == request.sequence:
            if stored.method != request.method:
                raise Invalid("the request id was used for another request", slot=request.slot)
            return True, stored.result
        raise Stale(
            "an older request of this slot arrived late",
            slot=request.slot,
            sequence=request.sequence,
        )

    def knows(self, session: bytes) -> bool:
        """Whether the session asked for a change of this volume since it was opened."""
        return session in self._sessions

    async def _load(self, session: bytes) -> dict[int, StoredReply]:
        slots: dict[int, StoredReply] = {}
        start, end = keys.prefix_range(keys.replies(session))
        async for key, value in scan_all(self._engine, start, end):
            slots[int.from_bytes(key[-4:], "big")] = StoredReply.unpack(value)
        self._sessions[session] = slots
        while len(self._sessions) > SESSIONS_CACHED_MAX:
            self._sessions.popitem(last=False)
        return slots

    def record(
        self, request: Request, now_ns: int, result: Any, batch: dict[bytes, bytes | None]
    ) -> StoredReply | None:
        """Add the reply to the batch that it answers; `find` has seen the request."""
        if request.session is None:
            return None
        stored = StoredReply(
            request.sequence, now_ns, result, request.method, request.principal.owner
        )
        batch[keys.reply(request.session, request.slot)] = stored.pack()
        return stored

    def remember(self, request: Request, stored: StoredReply | None) -> None:
        """The batch was committed."""
        if stored is not None and request.session is not None:
            slots = self._sessions.get(request.session)
            if slots is not None:
                slots[request.slot] = stored

    async def run_once(self, volume: Volume) -> int:
        """Sweep the replies of sessions that wrote nothing for an hour; how many rows."""
        before_ns = volume.clock.now_ns() - SESSION_AGE_NS
        old: list[bytes] = []
        damage = Contained()
        async for key, value in scan_all(self._engine, *keys.prefix_range(keys.REPLY)):
            with damage:
                if StoredReply.unpack(value).time_ns < before_ns:
                    old.append(key)
            if len(old) >= SWEEP_MAX:
                break
        if not old:
            damage.raise_first()
            return 0

        async def work(unit: Unit) -> None:
            unit.quiet = True
            for key in old:
                value = await unit.get(key)
                if value is not None and StoredReply.unpack(value).time_ns < before_ns:
                    unit.delete(key)
            unit.on_commit(lambda _: self._forget(old))

        await volume.run(SYSTEM, work, durable=False)
        damage.raise_first()
        return len(old)

    def forget_all(self) -> None:
        """None is stored any more."""
        self._sessions.clear()

    def _forget(self, rows: list[bytes]) -> None:
        for key in rows:
            self._sessions.pop(key[1 : 1 + SESSION_BYTES], None)
