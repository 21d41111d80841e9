"""The write path: what programs wrote to a file and the server has not answered yet.

A write is taken into memory and the kernel is answered at once; the bytes leave as soon as nothing
else of that file is under way, and gather meanwhile, so that many small writes become one request.
Large runs leave side by side. `flush` (close) waits until the server has answered everything,
`sync` (fsync) until it is durable. A failed write is remembered for every handle until its next
flush or sync; its bytes are gone, as on a local disk.

A file whose writes are each followed by a sync (a database's log) has its next write held back for
a moment: with the sync it is one durable request instead of two.

Appends (O_APPEND) go where the file ends at the server: each says which size it expects, and when
another mount was faster it goes behind what that one wrote.

Invariants: overlapping writes are never under way side by side; appends are under way alone;
`Budget.used_bytes` is what all writings hold, and who writes waits while it is too much.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Conflict, Exhausted, Internal, PlatformError
from dataplatform.base.limits import KIB, MIB
from dataplatform.client import syncing
from dataplatform.transport.connections import Bulk

from .calls import READ, WRITE

if TYPE_CHECKING:
    from .handover import Handover
    from .mount import Mount
    from .nodes import Node

logger = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 1 * MIB
"""Of one request: large enough that its fixed costs vanish, small enough to overlap."""

BULK_BYTES = 256 * KIB
"""From here on a run is sent although another one is under way."""

FLIGHTS_MAX = 4
PARTS_MAX = 512

FULL_S = 1.0
"""How long a volume is taken to be nearly full after the server said so."""

HOLD_S = 0.002
"""How long a write waits for the sync that is expected to follow."""


class Budget:
    """Dirty memory of the whole mount."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self._waiters: list[asyncio.Future[None]] = []

    async def room(self) -> None:
        """Wait until there is room for more."""
        while self.used_bytes >= self.bytes_max:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def release(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        if self._waiters and self.used_bytes < self.bytes_max:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


class Fullness:
    """Volumes in which a quota is nearly used up: there each write waits for the server, so that
    the one that has no room is told so itself, and not the close that follows."""

    def __init__(self) -> None:
        self._until_s: dict[int, float] = {}

    def note(self, volume: int) -> None:
        self._until_s[volume] = time.monotonic() + FULL_S

    def is_near(self, volume: int) -> bool:
        until_s = self._until_s.get(volume)
        if until_s is None:
            return False
        if time.monotonic() > until_s:
            del self._until_s[volume]
            return False
        return True


class _Run:
    """Bytes that lie one behind the other; the number of the first write that is in it."""

    __slots__ = ("appends", "end", "first", "is_doubtful", "offset", "parts")

    def __init__(self, offset: int, data: Bulk, appends: bool, first: int) -> None:
        self.is_doubtful = False  # it was sent before, and nobody knows what became of it
        self.first = first
        self.offset = offset
        self.end = offset + len(data)
        self.parts: list[Bulk] = [data]
        self.appends = appends

    @property
    def length(self) -> int:
        return self.end - self.offset

    def move(self, shift: int) -> None:
        self.offset += shift
        self.end += shift


class Writing:
    """The writes of one file. The mount is told when the kernel's pages do not hold what is stored:
    an append went elsewhere, or a write failed."""

    def __init__(self, node: Node, mount: Mount, handover: Handover) -> None:
        self._node = node
        self._calls = mount.calls
        self._budget = mount.budget
        self._fullness = mount.fullness
        self._relief = mount.relief
        self._begin = mount.steps.begin
        self._damaged = mount.damaged
        self._small_files = mount.small_files
        self._handover = handover
        self._gathered: deque[_Run] = deque()
        self._gathered_bytes = 0
        self._flights: list[list[_Run]] = []
        self._last = 0  # the number of the last write taken
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []  # and up to which write
        self._hold: asyncio.TimerHandle | None = None
        self._expects_sync = False
        self._mtime_ns = 0
        self.failures = 0
        self.failure: PlatformError | OSError | None = None

    @property
    def is_busy(self) -> bool:
        return bool(self._gathered or self._flights)

    @property
    def end(self) -> int:
        """Where the furthest of these writes ends."""
        ends = [run.end for run in self._gathered]
        ends += [run.end for flight in self._flights for run in flight]
        return max(ends, default=0)

    @property
    def mtime_ns(self) -> int:
        return self._mtime_ns

    # ---- taking writes

    def write(self, offset: int, data: Bulk, *, appends: bool) -> None:
        """Take a write; the node's size and times are as after it."""
        node = self._node
        length = len(data)
        if appends:
            offset = self._end_of_file(offset)
        if not self._gathered and not self._flights:
            self._handover.mark_dirty(node.key)
        self._last += 1
        self._gather(offset, data, appends)
        self._gathered_bytes += length
        self._budget.used_bytes += length
        end = offset + length
        if end > node.size:
            node.size = end
        now_ns = time.time_ns()
        node.mtime_ns = now_ns
        if now_ns > node.ctime_ns:
            node.ctime_ns = now_ns
        self._mtime_ns = now_ns
        node.used_bytes = min(node.used_bytes + length, node.size)
        node.packed = None
        if self._expects_sync and not self._flights and self._gathered_bytes < BULK_BYTES:
            if self._hold is None:
                self._hold = asyncio.get_running_loop().call_later(HOLD_S, self._held_in_vain)
        else:
            self._push()

    def _end_of_file(self, offset: int) -> int:
        """Where an append goes, as far as is known here; the server says no if it is elsewhere."""
        node = self._node
        end = max(self.end, node.size if node.known else 0)
        return end if node.known or self.is_busy else max(end, offset)

    def _gather(self, offset: int, data: Bulk, appends: bool) -> None:
        if self._gathered:
            last = self._gathered[-1]
            if (
                last.end == offset
                and last.appends == appends
                and last.length + len(data) <= REQUEST_BYTES_MAX
            ):
                last.parts.append(data)
                last.end += len(data)
                return
        self._gathered.append(_Run(offset, data, appends, self._last))

    def _held_in_vain(self) -> None:
        self._hold = None
        self._expects_sync = False
        self._push()

    def _stop_holding(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    # ---- sending them

    def _push(self) -> None:
        while self._gathered and self._may_send():
            self._send(self._take())

    def _may_send(self) -> bool:
        flights = self._flights
        if not flights:
            return True
        first = self._gathered[0]
        if (
            len(flights) >= FLIGHTS_MAX
            or self._gathered_bytes < BULK_BYTES
            or first.appends
            or first.length < BULK_BYTES
            or flights[0][0].appends
        ):
            return False
        return not any(
            run.offset < first.end and first.offset < run.end for runs in flights for run in runs
        )

    def _take(self) -> list[_Run]:
        """What goes into one request."""
        first = self._gathered.popleft()
        runs = [first]
        if first.appends or self._flights:
            return runs
        length = first.length
        while self._gathered and len(runs) < PARTS_MAX:
            run = self._gathered[0]
            if run.appends or length + run.length > REQUEST_BYTES_MAX:
                break
            runs.append(self._gathered.popleft())
            length += run.length
        return runs

    def _send(self, runs: list[_Run]) -> None:
        self._gathered_bytes -= sum(run.length for run in runs)
        self._flights.append(runs)
        self._begin(self._fly(runs, pb.LAZY))

    def _send_again(self, runs: list[_Run]) -> None:
        again = list(runs)
        for run in again:
            run.is_doubtful = True
        self._flights.append(again)
        self._begin(self._fly(again, pb.LAZY))

    async def _fly(
        self, runs: list[_Run], durability: pb.Durability
    ) -> tuple[pb.WriteReply, int] | None:
        """Send, and take in the answer: it, and the mark of what is kept until it is durable. None
        if it failed: that is remembered."""
        length = sum(run.length for run in runs)
        reply: pb.WriteReply | None = None
        mark = 0
        last, asked = self._last, self._calls.mark()
        try:
            reply = await self._request(runs, durability)
            if reply.nearly_full:
                self._fullness.note(self._node.volume)
            unsynced = self._calls.channel.unsynced
            for run in runs:
                unsynced.add(self._node.key, run.offset, run.parts, reply.verifier)
            mark = unsynced.mark()
            if durability == pb.LAZY:
                # While it waits here it is under way, and what it wrote is held against the budget.
                await self._relief.after_write()
        except asyncio.CancelledError:
            if durability == pb.DURABLE:
                # Whoever waited for the sync is gone, but the bytes are the file's: once more.
                length = 0
                self._send_again(runs)
            raise
        except PlatformError as error:
            self._fail(error)
        except Exception as error:
            logger.exception("a write failed")
            self._fail(Internal("a write failed", reason=repr(error)))
        finally:
            self._flights.remove(runs)
            is_alone = self._node.changed_turn <= asked and self._last == last
            self._calls.written(self._node)
            if reply is not None and is_alone and not self.is_busy:
                self._keep(runs, asked)
            self._budget.release(length)
            self._push()
            if not self.is_busy:
                self._handover.clear_dirty(self._node.key)
            self._wake()
        return None if reply is None else (reply, mark)

    def _keep(self, runs: list[_Run], asked: int) -> None:
        """What was written, if that is the whole file: nothing else was done to it since `asked`,
        the mark before it was sent."""
        node, first = self._node, runs[0]
        if (
            len(runs) == 1
            and first.offset == 0
            and first.length == node.size
            and node.known
            and node.promised
            and not self._calls.told_since(node.key, asked)
        ):
            self._small_files.keep(node, first.parts)

    async def _request(self, runs: list[_Run], durability: pb.Durability) -> pb.WriteReply:
        node = self._node
        request = pb.WriteRequest(
            target=pb.Target(volume=node.volume, inode=node.inode),
            durability=durability,
            mtime_ns=self._mtime_ns,
        )
        first = runs[0]
        reply: pb.WriteReply
        if len(runs) == 1:
            request.offset = first.offset
            if first.appends:
                return await self._append(request, first)
            reply = await self._calls.write(request, first.parts)
            return reply
        data: list[Bulk] = []
        for run in runs:
            request.parts.add(offset=run.offset, length=run.length)
            data += run.parts
        reply = await self._calls.write(request, data)
        return reply

    async def _append(self, request: pb.WriteRequest, run: _Run) -> pb.WriteReply:
        channel = self._calls.channel
        reply: pb.WriteReply
        while True:
            request.offset = request.expected_size = run.offset
            before = channel.runtime.holder().connection
            try:
                reply = await self._calls.call(WRITE, request, run.parts)
                return reply
            except Conflict as error:
                size = int(error.facts["size"])
                repeated = channel.runtime.holder().connection is not before
                if (repeated or run.is_doubtful) and size >= run.end and await self._is_there(run):
                    # An earlier attempt was carried out, only its answer was lost.
                    request.ClearField("expected_size")
                    reply = await self._calls.write(request, run.parts)
                    return reply
                self._shift(run, size - run.offset)

    async def _is_there(self, run: _Run) -> bool:
        node = self._node
        request = pb.ReadRequest(
            target=pb.Target(volume=node.volume, inode=node.inode),
            offset=run.offset,
            length=run.length,
        )
        _, data = await self._calls.call_bulk(READ, request)
        return bytes(data) == b"".join(run.parts)

    def _shift(self, run: _Run, shift: int) -> None:
        """Another client was at the end before us: everything that is appended moves."""
        run.move(shift)
        for later in self._gathered:
            if later.appends:
                later.move(shift)
        node = self._node
        node.size = max(node.size, self.end) if shift > 0 else self.end
        node.packed = None
        node.known = False
        self._damaged(node)

    def lose(self) -> None:
        """What a process before this one had taken is lost."""
        self.failures += 1
        self.failure = OSError(errno.EIO, "writes were lost")

    def _fail(self, error: PlatformError) -> None:
        if isinstance(error, Exhausted):
            self._fullness.note(self._node.volume)
        self.failures += 1
        self.failure = error
        self._node.known = False
        self._damaged(self._node)

    def _answered(self) -> int:
        """The last write up to which all are answered."""
        firsts = [run.first for flight in self._flights for run in flight]
        if self._gathered:
            firsts.append(self._gathered[0].first)
        return min(firsts) - 1 if firsts else self._last

    def _wake(self) -> None:
        if not self._waiters:
            return
        answered = self._answered()
        waiters, self._waiters = self._waiters, []
        for last, waiter in waiters:
            if last > answered:
                self._waiters.append((last, waiter))
            elif not waiter.done():
                waiter.set_result(None)

    # ---- waiting for them

    async def flush(self) -> None:
        """Wait until the server has answered everything written so far; failures are only
        remembered. Who goes on writing is not waited for."""
        if self._hold is not None:
            self._stop_holding()
            self._expects_sync = False
        self._push()
        if self._answered() < self._last:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((self._last, waiter))
            await waiter

    async def sync(self) -> None:
        """Wait until everything is durable. Raises what keeps it from being so; failed writes are
        only remembered."""
        self._stop_holding()
        channel, key = self._calls.channel, self._node.key
        is_small = (
            bool(self._gathered)
            and not self._flights
            and len(self._gathered) <= PARTS_MAX
            and self._gathered_bytes < BULK_BYTES
            and (len(self._gathered) == 1 or not any(run.appends for run in self._gathered))
        )
        if is_small:
            runs = list(self._gathered)
            self._gathered.clear()
            self._gathered_bytes -= sum(run.length for run in runs)
            self._flights.append(runs)
            answer = await self._fly(runs, pb.DURABLE)
            self._expects_sync = True
            if answer is None:
                return
            reply, mark = answer
            if await syncing.confirm(channel, key, mark, reply.verifier):
                return
        else:
            self._expects_sync = not self.is_busy or self._gathered_bytes < BULK_BYTES
            await self.flush()
        await syncing.sync(channel, key)
