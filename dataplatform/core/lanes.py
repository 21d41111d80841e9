"""The write lane: one per volume, one unit at a time, many units to one sync.

The lane gives order: a unit sees every earlier unit and no later one. Waiting for durability
happens outside of it, so while one group of commits is being synced the next one gathers.

What may only be shown once it is durable (stream ends, the change feed) is registered with
`when_durable` and runs in commit order.

Whoever keeps something that a commit changed is told right after it; the result is held back until
they have acknowledged (`promises`), outside of the lane, too.

After a failed commit or sync the lane is broken for good (the engine is, too): nobody can know
what the disk kept, so nothing is acknowledged until the volume is opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..base.errors import Conflict, Denied, Internal, PlatformError, Unavailable
from ..keyspace import keys
from ..keyspace.records import VolumeState
from .audit.protection import WRITER
from .principals import MIRROR_PRINCIPAL
from .promises import Told
from .units import SYSTEM, Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume

T = TypeVar("T")
Work = Callable[[Unit], Awaitable[T]]

log = logging.getLogger(__name__)


class Lane:
    """The only way to change a volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._lock = asyncio.Lock()
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._last_ticket = 0
        self._broken: str | None = None
        self.going: set[int] = set()
        """Inodes that the unit under way removes with all they have: see `Keeper.keep`."""
        self.on_lazy_commit: Callable[[], None] | None = None
        """Called after a commit that nobody waits for, while somebody follows the change feed."""
        self.durable_commit = volume.state.commit
        """The last commit known to be durable: what the change feed shows."""

    @property
    def last_ticket(self) -> int:
        return self._last_ticket

    async def run(self, request: Request, work: Work[T], *, durable: bool) -> T:
        """Run `work` as one unit and commit it; its result is what `work` returned.

        The result must be MessagePack-able: it is kept with the data under the request's id, and a
        retry of the same request gets it back without running `work` again.
        """
        told: Told = ()
        async with self._lock:
            if self._broken is not None:
                raise Unavailable(self._broken, volume=self._volume.id)
            if self._volume.read_only and request.principal is not MIRROR_PRINCIPAL:
                raise self._volume.refusal()
            replies = self._volume.replies
            known, stored = await replies.find(request)
            result: T
            if known:
                result = stored
                told = self._volume.promises.outstanding(request.caller)
            else:
                unit = Unit(self._volume, request)
                try:
                    result = await work(unit)
                    if unit.writes:
                        told = await self._commit(unit, result, (request,), awaited=durable)
                finally:
                    self.going.clear()
                    self._volume.quotas.moving.clear()
            ticket = self._last_ticket
        if durable:
            await self.durable(ticket)
        if told and request is not SYSTEM and request.principal is not WRITER:
            # Nobody waits for those to be done.
            await self._volume.promises.acknowledged(told)
        return result

    async def settled(self) -> None:
        """Wait for the unit that is under way."""
        async with self._lock:
            pass

    @contextlib.asynccontextmanager
    async def between(self) -> AsyncIterator[None]:
        """A moment at which no unit is under way: what has to be in order with those, but is no
        commit itself."""
        async with self._lock:
            yield

    async def run_together(
        self, requests: Sequence[Request], work: Callable[[Unit, Sequence[int]], Awaitable[T]]
    ) -> list[T]:
        """Run one unit for several requests of one principal; the result of each, durable.

        `work` gets the indexes of those that were not done before; what it returns is the result
        of each of these. If it raises, none of them was done.
        """
        async with self._lock:
            if self._broken is not None:
                raise Unavailable(self._broken, volume=self._volume.id)
            if self._volume.read_only and requests[0].principal is not MIRROR_PRINCIPAL:
                raise self._volume.refusal()
            results: list[Any] = [None] * len(requests)
            fresh: list[int] = []
            slots: set[tuple[bytes | None, int]] = set()
            for index, request in enumerate(requests):
                known, results[index] = await self._volume.replies.find(request)
                if not known:
                    fresh.append(index)
                    if request.session is not None:
                        slots.add((request.session, request.slot))
            if fresh:
                named = [requests[index] for index in fresh]
                if len(slots) < sum(request.session is not None for request in named):
                    # A request and its own retry: one after the other, then.
                    raise Conflict("two requests of one slot at once")
                unit = Unit(self._volume, named[0])
                result = await work(unit, fresh)
                if unit.writes:  # rows only, which nobody promises
                    await self._commit(unit, result, named, awaited=True)
                for index in fresh:
                    results[index] = result
            ticket = self._last_ticket
        await self.durable(ticket)
        return results

    async def find_reply(self, request: Request) -> tuple[bool, Any]:
        """(True, result) if this very request was committed before, durable by now: for work of
        several units, which must not begin again."""
        async with self._lock:
            known, result = await self._volume.replies.find(request)
        if known:
            await self.durable()
        return known, result

    async def _commit(
        self, unit: Unit, result: object, requests: Sequence[Request], *, awaited: bool
    ) -> Told:
        """Whose acknowledgement the result waits for. DENIED to a token that allows no change,
        whatever was asked before."""
        volume = self._volume
        principal = unit.request.principal
        if principal.is_read_only:
            raise Denied("the token allows no change", user=principal.name, errno=errno.EACCES)
        quotas, engine = volume.quotas, volume.storage.engine
        holds = await quotas.settle(unit) if quotas.concern(unit) else None
        try:
            batch, state = self._seal(unit)
            record = volume.replies.record
            stored = [record(request, unit.now_ns, result, batch) for request in requests]
            try:
                ticket = await engine.commit(batch, awaited=awaited)
            except PlatformError as error:
                if engine.broken:
                    self._break(error)
                raise  # refused before anything was written, as on a full disk: nothing happened
            except BaseException as error:
                # A defect, or a cancelled writer: nobody knows whether the engine has the batch.
                self._break(Internal("a commit was cut short", error=repr(error)))
                raise
            self._last_ticket = ticket
            volume.state = state
            for request, reply in zip(requests, stored, strict=True):
                volume.replies.remember(request, reply)
            unit.committed(ticket)
            commit = unit.commit
            self.when_durable(ticket, lambda: self._show(commit))
            if not awaited and self.on_lazy_commit is not None:
                self.on_lazy_commit()
            return await volume.promises.committed(unit) if volume.promises else ()
        finally:
            if holds is not None:
                quotas.let_go(holds)

    def _seal(self, unit: Unit) -> tuple[dict[bytes, bytes | None], VolumeState]:
        """The batch to commit, and the volume's state after it."""
        old = self._volume.state
        next_inode, next_producer = unit.counters()
        batch = unit.seal()
        state = VolumeState(
            unit.commit,
            next_inode,
            next_producer,
            old.used_bytes + unit.used_bytes_delta,
            old.entries + unit.entries_delta,
            unit.oldest_change or old.oldest_change,
            old.over if unit.over is None else unit.over,
        )
        batch[keys.STATE_KEY] = state.pack()
        return batch, state

    async def apply(
        self, work: Callable[[Unit], Awaitable[VolumeState | None]], *, durable: bool
    ) -> None:
        """Write what is no commit of this volume's own: what a mirror has from its source, with the
        counters that `work` returns; or what this store alone knows of a volume that others do not
        write (segments, keys, a mirror's settings), and then it returns None.

        There is no change row and no reply, and quotas are not asked.
        """
        async with self._lock:
            if self._broken is not None:
                raise Unavailable(self._broken, volume=self._volume.id)
            unit = Unit(self._volume, SYSTEM)
            state = await work(unit)
            if state is not None:
                unit.writes[keys.STATE_KEY] = state.pack()
            if unit.writes:
                await self._apply(unit, state, awaited=durable)
            ticket = self._last_ticket
        if durable:
            await self.durable(ticket)

    async def _apply(self, unit: Unit, state: VolumeState | None, *, awaited: bool) -> None:
        volume, engine = self._volume, self._volume.storage.engine
        batch = unit.seal(is_commit=False)
        try:
            ticket = self._last_ticket = await engine.commit(batch, awaited=awaited)
        except PlatformError as error:
            if engine.broken:
                self._break(error)
            raise
        except BaseException as error:
            self._break(Internal("a commit was cut short", error=repr(error)))
            raise
        if state is None:
            unit.committed(ticket)
            return
        commit, volume.state = state.commit, state
        unit.committed(ticket)
        self.when_durable(ticket, lambda: self._show(commit))
        if volume.promises:
            await volume.promises.committed(unit)

    def _show(self, commit: int) -> None:
        self.durable_commit = commit
        self._volume.changed.notify()

    def when_durable(self, ticket: int, callback: Callable[[], None]) -> None:
        """Run `callback` as soon as the ticket is known to be durable; in order of tickets."""
        self._waiting.append((ticket, callback))

    async def durable(self, ticket: int | None = None) -> None:
        """Wait until everything up to the ticket (unset: every commit so far) is durable."""
        if ticket is None:
            ticket = self._last_ticket
        engine = self._volume.storage.engine
        if self._broken is not None:
            raise Unavailable(self._broken, volume=self._volume.id)
        try:
            if engine.durable_ticket < ticket:
                await engine.durable(ticket)
        except PlatformError as error:
            self._break(error)
            raise
        self._drain(engine.durable_ticket)

    def _drain(self, durable_ticket: int) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= durable_ticket:
            waiting.popleft()[1]()

    def _break(self, error: PlatformError) -> None:
        if self._broken is None:
            self._broken = (
                f"the volume stopped after a failed write: {error.message}. "
                "Look at the disk, then restart the server"
            )
            log.error("volume %d stopped after a failed write: %s", self._volume.id, error)

    @property
    def broken(self) -> str | None:
        return self._broken

    async def run_once(self) -> None:
        """Make what was committed lazily durable: run every half second ("within a second")."""
        if self._broken is None and self._waiting:
            await self.durable()
