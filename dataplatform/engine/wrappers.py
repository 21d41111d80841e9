"""Storages around other storages: one makes things go wrong on demand, one counts and times.

Both keep the contracts of what they wrap, so the contract tests run over them, too.

Operations have these names: ``get``, ``get_many``, ``scan``, ``view``, ``commit``, ``sync``,
``checkpoint``, ``open_checkpoint``, ``delete_checkpoint`` of an engine (a view's reads count as its
engine's); ``append``, ``read``, ``segment_sync``, ``seal``, ``sizes``, ``delete`` of segments;
``open``, ``remove``, ``clone`` and ``replace`` of storages. ``sync`` and ``segment_sync`` are the
shared ones of a `FaultyStorages`, and the calls of `durable` and `sync` of a `CountingStorages`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from ..base.errors import Exhausted, PlatformError
from .base import (
    Batch,
    Encode,
    Engine,
    Location,
    Pair,
    Reader,
    Room,
    SegmentStore,
    Storage,
    Storages,
    Stored,
    Ticket,
    View,
)
from .groups import Group, awaiting

T = TypeVar("T")

# -------------------------------------------------------------------------------------- faults


class Hold:
    """An operation that waits at its door, in or out, until the test lets it through."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        """Set when the operation has arrived."""
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def wait(self) -> None:
        self.reached.set()
        await self._released.wait()


class _Plan:
    """What shall happen to the calls `first` to `last` of one operation."""

    def __init__(self, first: int, last: float) -> None:
        self.first = first
        self.last = last
        self.error: PlatformError | None = None
        self.after = False
        self.delay_s = 0.0
        self.hold: Hold | None = None
        self.flip = False

    def applies(self, call: int) -> bool:
        return self.first <= call <= self.last


class Faults:
    """What shall go wrong. Calls are counted from now on: ``nth=1`` is the next one."""

    def __init__(
        self,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`rng` chooses which bit to flip; `sleep` is what a delay waits with."""
        self.calls: dict[str, int] = {}
        self._full = False
        self._plans: dict[str, list[_Plan]] = {}
        self._rng = rng or random.Random(0)  # noqa: S311 - faults are drawn
        self._sleep = sleep

    def fail(
        self, operation: str, error: PlatformError, *, nth: int = 1, after: bool = False
    ) -> None:
        """Let one call fail; with `after` it is carried out first, as when a reply is lost."""
        plan = self._plan(operation, nth, 1)
        plan.error, plan.after = error, after

    def full(self) -> None:
        """Let all writes be refused for lack of space, until `clear`."""
        self._full = True

    def check_space(self) -> None:
        """EXHAUSTED after `full`."""
        if self._full:
            raise Exhausted("disk is full")

    def delay(self, operation: str, seconds: float, *, nth: int = 1, times: int | None = 1) -> None:
        """Let calls take longer; all from the nth on with ``times=None``."""
        self._plan(operation, nth, times).delay_s = seconds

    def hold(self, operation: str, *, nth: int = 1, after: bool = False) -> Hold:
        """Let one call wait until it is released; with `after` it is carried out first, so that
        what it found is old by then."""
        plan = self._plan(operation, nth, 1)
        plan.hold, plan.after = Hold(), after
        return plan.hold

    def flip(self, operation: str, *, nth: int = 1) -> None:
        """Flip one bit in what `get`, `get_many`, `scan` or `read` finds."""
        self._plan(operation, nth, 1).flip = True

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self._plans.clear()
        self._full = False

    async def around(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Carry out one call, as planned."""
        number = self.calls[operation] = self.calls.get(operation, 0) + 1
        plans = [p for p in self._plans.get(operation, ()) if p.applies(number)]
        for plan in plans:
            if plan.delay_s:
                await self._sleep(plan.delay_s)
            if plan.hold is not None and not plan.after:
                await plan.hold.wait()
            if plan.error is not None and not plan.after:
                raise copy.copy(plan.error)
        result = await call()
        for plan in plans:
            if plan.hold is not None and plan.after:
                await plan.hold.wait()
            if plan.error is not None:
                raise copy.copy(plan.error)
            if plan.flip:
                result = self._flipped(result)
        return result

    def _plan(self, operation: str, nth: int, times: int | None) -> _Plan:
        first = self.calls.get(operation, 0) + nth
        plan = _Plan(first, float("inf") if times is None else first + times - 1)
        self._plans.setdefault(operation, []).append(plan)
        return plan

    def _flipped(self, result: T) -> T:
        """A copy with one bit of one value changed; unchanged if there is none."""
        found: object = result
        if isinstance(found, bytes) and found:
            data = bytearray(found)
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
            found = bytes(data)
        elif isinstance(found, list) and found:
            at = self._rng.randrange(len(found))
            item = found[at]
            flipped = (item[0], self._flipped(item[1])) if isinstance(item, tuple) else None
            found = [*found[:at], flipped or self._flipped(item), *found[at + 1 :]]
        return found  # type: ignore[return-value]


class _FaultyReads(Reader):
    """The reads of an engine or a view."""

    _reader: Reader
    _faults: Faults

    def _check(self) -> None:
        """Raise unless reads are answered."""

    async def get(self, key: bytes) -> bytes | None:
        self._check()
        return await self._faults.around("get", lambda: self._reader.get(key))

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._check()
        return await self._faults.around("get_many", lambda: self._reader.get_many(keys))

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        self._check()
        return await self._faults.around(
            "scan",
            lambda: self._reader.scan(
                start, end, reverse=reverse, limit=limit, size_bytes=size_bytes
            ),
        )


class FaultyView(_FaultyReads, View):
    def __init__(self, view: View, faults: Faults) -> None:
        self._reader = self._view = view
        self._faults = faults

    def close(self) -> None:
        self._view.close()


class FaultyEngine(_FaultyReads, Engine):
    """Breaks after a planned failure, as the wrapped engine would after a real one."""

    def __init__(self, engine: Engine, faults: Faults) -> None:
        self._reader = self._engine = engine
        self._faults = faults
        self._newest: Ticket = 0
        self._group = Group("faulty engine", awaiting(self._sync))

    @property
    def durable_ticket(self) -> Ticket:
        return self._group.durable

    async def view(self) -> View:
        self._group.check_open()
        return FaultyView(await self._faults.around("view", self._engine.view), self._faults)

    @property
    def broken(self) -> bool:
        return self._group.broken

    async def commit(self, batch: Batch, *, awaited: bool = False) -> Ticket:
        self._group.check()
        self._faults.check_space()
        try:
            ticket = await self._faults.around(
                "commit", lambda: self._engine.commit(batch, awaited=awaited)
            )
        except PlatformError as error:
            self._group.fail(error)
            raise
        self._newest = max(self._newest, ticket)
        return self._group.add()

    async def durable(self, ticket: Ticket) -> None:
        await self._group.wait(ticket)

    async def checkpoint(self, name: str) -> None:
        self._group.check()
        await self._group.wait(self._group.last)
        await self._faults.around("checkpoint", lambda: self._engine.checkpoint(name))

    async def open_checkpoint(self, name: str) -> View:
        self._group.check_open()
        view = await self._faults.around(
            "open_checkpoint", lambda: self._engine.open_checkpoint(name)
        )
        return FaultyView(view, self._faults)

    async def delete_checkpoint(self, name: str) -> None:
        self._group.check()
        await self._faults.around("delete_checkpoint", lambda: self._engine.delete_checkpoint(name))

    async def checkpoints(self) -> list[str]:
        self._group.check_open()
        return await self._engine.checkpoints()

    async def checkpoint_size(self, name: str) -> int:
        self._group.check_open()
        return await self._engine.checkpoint_size(name)

    async def close(self) -> None:
        try:
            await self._group.close()
        finally:
            await self._engine.close()

    def _check(self) -> None:
        self._group.check_open()

    async def _sync(self) -> None:
        newest = self._newest
        await self._faults.around("sync", lambda: self._engine.durable(newest))


class FaultySegments(SegmentStore):
    """Breaks after a planned failure of a sync, as the wrapped segments would after a real one."""

    def __init__(self, segments: SegmentStore, faults: Faults) -> None:
        self._segments = segments
        self._faults = faults
        self._group = Group("faulty segments", awaiting(self._sync))

    @property
    def open_segment(self) -> int | None:
        return self._segments.open_segment

    async def append_encoded(self, length: int, encode: Encode) -> Location:
        self._group.check()
        self._faults.check_space()
        where = await self._faults.around(
            "append", lambda: self._segments.append_encoded(length, encode)
        )
        self._group.add(length)
        return where

    async def sync(self) -> None:
        await self._group.wait(self._group.last)

    async def read_decoded(self, location: Location, decode: Callable[[Stored], T]) -> T:
        self._group.check_open()
        return decode(await self._faults.around("read", lambda: self._segments.read(location)))

    async def seal(self) -> None:
        await self.sync()
        await self._faults.around("seal", self._segments.seal)

    async def sizes(self) -> dict[int, int]:
        self._group.check_open()
        return await self._faults.around("sizes", self._segments.sizes)

    async def delete(self, segment: int) -> None:
        self._group.check()
        await self._faults.around("delete", lambda: self._segments.delete(segment))

    async def skip(self, segment: int) -> None:
        await self.seal()
        await self._segments.skip(segment)

    async def close(self) -> None:
        try:
            await self._group.close()
        finally:
            await self._segments.close()

    async def _sync(self) -> None:
        await self._faults.around("segment_sync", self._segments.sync)


class FaultyStorages(Storages):
    """Storages in which things go wrong as `faults` says."""

    def __init__(self, storages: Storages, faults: Faults) -> None:
        self.kind = storages.kind
        self.clones_refer = storages.clones_refer
        self.faults = faults
        self._storages = storages

    async def volumes(self) -> list[int]:
        return await self._storages.volumes()

    async def open(self, volume: int, *, create: bool = False, briefly: bool = False) -> Storage:
        engine, segments = await self.faults.around(
            "open", lambda: self._storages.open(volume, create=create, briefly=briefly)
        )
        return Storage(FaultyEngine(engine, self.faults), FaultySegments(segments, self.faults))

    async def remove(self, volume: int) -> None:
        await self.faults.around("remove", lambda: self._storages.remove(volume))

    async def clone(self, source: int, checkpoint: str, target: int) -> None:
        await self.faults.around("clone", lambda: self._storages.clone(source, checkpoint, target))

    async def replace(self, volume: int, other: int) -> None:
        await self.faults.around("replace", lambda: self._storages.replace(volume, other))

    def room(self) -> Room | None:
        return self._storages.room()

    async def close(self) -> None:
        await self._storages.close()


# ------------------------------------------------------------------------------------ counting


class Tally:
    """What was measured of one operation."""

    __slots__ = ("calls", "errors", "seconds", "seconds_max", "size_bytes")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.seconds = 0.0
        self.seconds_max = 0.0
        self.size_bytes = 0


class Tallies:
    """What was measured, by operation."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._tallies: dict[str, Tally] = {}

    def snapshot(self) -> dict[str, dict[str, float]]:
        """calls, errors, seconds, seconds_max and size_bytes of each operation so far."""
        return {
            operation: {name: getattr(tally, name) for name in Tally.__slots__}
            for operation, tally in sorted(self._tallies.items())
        }

    @contextlib.contextmanager
    def timed(self, operation: str) -> Iterator[Tally]:
        tally = self._tallies.get(operation)
        if tally is None:
            tally = self._tallies[operation] = Tally()
        start = self._now()
        try:
            yield tally
        except BaseException:
            tally.errors += 1
            raise
        finally:
            seconds = self._now() - start
            tally.calls += 1
            tally.seconds += seconds
            tally.seconds_max = max(tally.seconds_max, seconds)


class _CountingReads(Reader):
    """The reads of an engine or a view."""

    _reader: Reader
    _tallies: Tallies

    async def get(self, key: bytes) -> bytes | None:
        with self._tallies.timed("get") as tally:
            value = await self._reader.get(key)
            tally.size_bytes += len(value or b"")
            return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._tallies.timed("get_many") as tally:
            values = await self._reader.get_many(keys)
            tally.size_bytes += sum(len(value or b"") for value in values)
            return values

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        with self._tallies.timed("scan") as tally:
            page = await self._reader.scan(
                start, end, reverse=reverse, limit=limit, size_bytes=size_bytes
            )
            tally.size_bytes += sum(len(key) + len(value) for key, value in page)
            return page


class CountingView(_CountingReads, View):
    def __init__(self, view: View, tallies: Tallies) -> None:
        self._reader = self._view = view
        self._tallies = tallies

    def close(self) -> None:
        self._view.close()


class CountingEngine(_CountingReads, Engine):
    def __init__(self, engine: Engine, tallies: Tallies) -> None:
        self._reader = self._engine = engine
        self._tallies = tallies

    @property
    def durable_ticket(self) -> Ticket:
        return self._engine.durable_ticket

    @property
    def broken(self) -> bool:
        return self._engine.broken

    async def view(self) -> View:
        with self._tallies.timed("view"):
            return CountingView(await self._engine.view(), self._tallies)

    async def commit(self, batch: Batch, *, awaited: bool = False) -> Ticket:
        with self._tallies.timed("commit") as tally:
            tally.size_bytes += sum(len(k) + len(v or b"") for k, v in batch.items())
            return await self._engine.commit(batch, awaited=awaited)

    async def durable(self, ticket: Ticket) -> None:
        with self._tallies.timed("sync"):
            await self._engine.durable(ticket)

    async def checkpoint(self, name: str) -> None:
        with self._tallies.timed("checkpoint"):
            await self._engine.checkpoint(name)

    async def open_checkpoint(self, name: str) -> View:
        with self._tallies.timed("open_checkpoint"):
            return CountingView(await self._engine.open_checkpoint(name), self._tallies)

    async def delete_checkpoint(self, name: str) -> None:
        with self._tallies.timed("delete_checkpoint"):
            await self._engine.delete_checkpoint(name)

    async def checkpoints(self) -> list[str]:
        return await self._engine.checkpoints()

    async def checkpoint_size(self, name: str) -> int:
        return await self._engine.checkpoint_size(name)

    async def close(self) -> None:
        await self._engine.close()


class CountingSegments(SegmentStore):
    def __init__(self, segments: SegmentStore, tallies: Tallies) -> None:
        self._segments = segments
        self._tallies = tallies

    @property
    def open_segment(self) -> int | None:
        return self._segments.open_segment

    async def append_encoded(self, length: int, encode: Encode) -> Location:
        with self._tallies.timed("append") as tally:
            where = await self._segments.append_encoded(length, encode)
            tally.size_bytes += where.length
            return where

    async def sync(self) -> None:
        with self._tallies.timed("segment_sync"):
            await self._segments.sync()

    async def read_decoded(self, location: Location, decode: Callable[[Stored], T]) -> T:
        with self._tallies.timed("read") as tally:
            tally.size_bytes += location.length
            return await self._segments.read_decoded(location, decode)

    async def seal(self) -> None:
        with self._tallies.timed("seal"):
            await self._segments.seal()

    async def sizes(self) -> dict[int, int]:
        with self._tallies.timed("sizes"):
            return await self._segments.sizes()

    async def delete(self, segment: int) -> None:
        with self._tallies.timed("delete"):
            await self._segments.delete(segment)

    async def skip(self, segment: int) -> None:
        await self._segments.skip(segment)

    async def close(self) -> None:
        await self._segments.close()


class CountingStorages(Storages):
    """Storages that count and time every operation, over all volumes."""

    def __init__(self, storages: Storages, now: Callable[[], float] = time.perf_counter) -> None:
        self.kind = storages.kind
        self.clones_refer = storages.clones_refer
        self._storages = storages
        self._tallies = Tallies(now)

    def snapshot(self) -> dict[str, dict[str, float]]:
        """calls, errors, seconds, seconds_max and size_bytes of each operation so far."""
        return self._tallies.snapshot()

    async def volumes(self) -> list[int]:
        return await self._storages.volumes()

    async def open(self, volume: int, *, create: bool = False, briefly: bool = False) -> Storage:
        with self._tallies.timed("open"):
            engine, segments = await self._storages.open(volume, create=create, briefly=briefly)
        return Storage(
            CountingEngine(engine, self._tallies), CountingSegments(segments, self._tallies)
        )

    async def remove(self, volume: int) -> None:
        with self._tallies.timed("remove"):
            await self._storages.remove(volume)

    async def clone(self, source: int, checkpoint: str, target: int) -> None:
        with self._tallies.timed("clone"):
            await self._storages.clone(source, checkpoint, target)

    async def replace(self, volume: int, other: int) -> None:
        with self._tallies.timed("replace"):
            await self._storages.replace(volume, other)

    def room(self) -> Room | None:
        return self._storages.room()

    async def close(self) -> None:
        await self._storages.close()
