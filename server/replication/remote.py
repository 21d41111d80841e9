"""A `Source` in another cluster: its pins, over a wire.

What is going to be asked for next is asked for ahead: the page behind the one that was read, and
many extents at once. A call that finds no server is repeated for a while, so that a link that was
cut and mended is not noticed beyond that; a pin outlives it, as long as its lease does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Conflict, Corrupt, PlatformError, Stale, Unavailable
from dataplatform.core import extents
from dataplatform.core.replication.seam import (
    PAGE_BYTES,
    PAGE_KEYS,
    Described,
    Pin,
    PinLost,
    Source,
)
from dataplatform.engine.base import Pair
from dataplatform.engine.checksums import crc32c
from dataplatform.keyspace.records import EXTENT_LZ4, Extent

from . import messages
from .throttles import Throttle
from .wires import Wire

log = logging.getLogger(__name__)

CALL_S = 20.0
"""One call, apart from what it is told to wait. A page over a thin line takes its time, so it is
as long as what a call moves takes at SLOWEST_BYTES_PER_S."""

SLOWEST_BYTES_PER_S = 200_000

AGAIN_S = 15.0
"""For so long a call that finds no server is repeated."""

AGAIN_FIRST_S, AGAIN_LAST_S = 0.1, 2.0

UNPIN_S = 2.0

PART_BYTES = 1 << 20
"""Extents that one call asks for."""

AT_ONCE = 12
"""Calls for extents under way."""

AHEAD_MAX = 8
"""Pages of one pin that nobody has asked for yet: of several ranges read at once."""

VALUES_AT_ONCE = 4
KEYS_AT_ONCE = 2000

WAIT_S_MAX = 20.0
"""Of one call that waits for a commit: whoever waits longer asks again."""

_Key = tuple[Any, ...]


class RemoteSource(Source):
    """A volume of another cluster, by its path there, or by its number.

    `store`: the identity that the other cluster is known by. STALE if another one answers.
    """

    def __init__(
        self,
        wire: Wire,
        path: str = "/",
        *,
        volume: int = 0,
        store: bytes = b"",
        bytes_per_s: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._target = pb.Target(volume=volume, inode=1) if volume else pb.Target(path=path)
        self._store = store
        self.throttle = Throttle(bytes_per_s, monotonic)
        self.received_bytes = 0  # of pages and extents, as they came over the wire
        self._monotonic = monotonic
        self._pins: set[RemotePin] = set()

    def limit(self, bytes_per_s: int) -> None:
        self.throttle.bytes_per_s = bytes_per_s

    async def describe(self, commit_at_least: int = 0, wait_s: float = 0.0) -> Described:
        info = await self._ask("Replication.Describe", commit_at_least, wait_s)
        return self._described(info)

    async def pin(self, commit_at_least: int = 0, wait_s: float = 0.0) -> RemotePin:
        info = await self._ask("Replication.Pin", commit_at_least, wait_s)
        pin = RemotePin(self, info.pin)
        try:
            pin.described = self._described(info)
        except BaseException:
            await pin.close()
            raise
        self._pins.add(pin)
        return pin

    async def _ask(self, method: str, commit: int, wait_s: float) -> pb.SourceInfo:
        deadline_s = self._monotonic() + wait_s
        while True:
            left_s = min(max(deadline_s - self._monotonic(), 0.0), WAIT_S_MAX)
            message = pb.SourceRequest(
                target=self._target, commit_at_least=commit, wait_ms=int(left_s * 1000)
            )
            try:
                info: pb.SourceInfo = (await self.call(method, message, left_s))[0]
            except Unavailable as error:
                if "wanted" not in error.facts or self._monotonic() >= deadline_s:
                    raise
                continue
            if info.commit >= commit or self._monotonic() >= deadline_s:
                return info

    def _described(self, info: pb.SourceInfo) -> Described:
        described = messages.unpack_described(info)
        if self._store and described.store != self._store:
            raise Stale(
                "another store answers at the address of the source", cluster=described.cluster
            )
        return described

    async def call(
        self, method: str, message: Any, wait_s: float = 0.0, size_bytes: int = 0
    ) -> tuple[Any, bytes | memoryview]:
        """Repeated while no server is found. `size_bytes`: what the reply may move."""
        timeout_s = wait_s + max(CALL_S, size_bytes / SLOWEST_BYTES_PER_S)
        began_s, pause_s = self._monotonic(), AGAIN_FIRST_S
        while True:
            try:
                return await self._wire.call(method, message, timeout_s)
            except Unavailable as error:
                if "wanted" in error.facts or self._monotonic() - began_s > AGAIN_S:
                    raise
                log.debug("asked again. method=`%s`, reason=`%s`", method, error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_LAST_S)

    async def unpin(self, number: int) -> None:
        """Once, and without much waiting: else its lease runs out."""
        await self._wire.call("Replication.Unpin", pb.PinRequest(pin=number), UNPIN_S)

    def forget(self, pin: RemotePin) -> None:
        self._pins.discard(pin)

    async def close(self) -> None:
        for pin in list(self._pins):
            await pin.close()
        await self._wire.close()


class RemotePin(Pin):
    """See `RemoteSource`."""

    def __init__(self, source: RemoteSource, number: int) -> None:
        self._source = source
        self._number = number
        self._ahead: dict[_Key, asyncio.Task[Any]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._closed = False

    # ---- keys and values

    async def changed(
        self, since: int, after: bytes = b"", end: bytes = b"", limit: int = PAGE_KEYS
    ) -> list[bytes]:
        async def ask(at: bytes) -> tuple[list[bytes], bool]:
            message = pb.ChangedRequest(
                pin=self._number, since=since, after=at, end=end, limit=limit
            )
            reply, _ = await self._page("Replication.Changed", message)
            return list(reply.keys), reply.end

        return await self._read_ahead(("changed", since, end, limit), after, ask, lambda last: last)

    async def delta(
        self, since: int, after: bytes = b"", end: bytes = b"", limit: int = PAGE_KEYS
    ) -> list[tuple[bytes, bytes | None]]:
        async def ask(at: bytes) -> tuple[list[tuple[bytes, bytes | None]], bool]:
            message = pb.ChangedRequest(
                pin=self._number, since=since, after=at, end=end, limit=limit, values=True
            )
            reply, _ = await self._page("Replication.Changed", message)
            keys = list(reply.keys)
            return list(zip(keys, await self._whole(keys, reply), strict=True)), reply.end

        return await self._read_ahead(
            ("delta", since, end, limit), after, ask, lambda last: last[0]
        )

    async def scan(
        self, start: bytes, end: bytes, limit: int = PAGE_KEYS, size_bytes: int = PAGE_BYTES
    ) -> list[Pair]:
        async def ask(at: bytes) -> tuple[list[Pair], bool]:
            message = pb.PairsRequest(
                pin=self._number, start=at, end=end, limit=limit, size_bytes=size_bytes
            )
            reply, _ = await self._page("Replication.Scan", message)
            keys = list(reply.keys)
            values = await self._whole(keys, reply)
            pairs = [(k, v) for k, v in zip(keys, values, strict=True) if v is not None]
            return pairs, reply.end

        return await self._read_ahead(
            ("scan", end, limit, size_bytes), start, ask, lambda last: last[0] + b"\x00"
        )

    async def values(self, wanted: Sequence[bytes]) -> list[bytes | None]:
        slots = asyncio.Semaphore(VALUES_AT_ONCE)

        async def some(keys: Sequence[bytes]) -> list[bytes | None]:
            found: list[bytes | None] = []
            async with slots:
                while len(found) < len(keys):
                    rest = keys[len(found) :]
                    message = pb.ValuesRequest(pin=self._number, keys=rest)
                    reply, _ = await self._page("Replication.Values", message)
                    if not reply.values:
                        raise Corrupt("the source answers a question for values with none")
                    found += await self._whole(rest, reply)
            return found

        parts = [some(wanted[at : at + KEYS_AT_ONCE]) for at in range(0, len(wanted), KEYS_AT_ONCE)]
        return [value for part in await _all(parts) for value in part]

    async def _whole(self, keys: Sequence[bytes], reply: pb.PairsReply) -> list[bytes | None]:
        """The values of a reply; those that are cut are fetched to their end."""
        values = messages.unpack_values(reply)
        for index in reply.cut:
            begun = values[index]
            assert begun is not None
            values[index] = await self._rest(keys[index], begun)
        return values

    async def _rest(self, key: bytes, begun: bytes) -> bytes:
        parts, size = [begun], len(begun)
        while True:
            message = pb.ValuesRequest(pin=self._number, keys=[key], offset=size)
            reply, _ = await self._page("Replication.Values", message)
            parts.append(reply.values[0])
            size += len(parts[-1])
            if reply.end:
                return b"".join(parts)

    async def _read_ahead(
        self,
        what: _Key,
        at: bytes,
        ask: Callable[[bytes], Coroutine[Any, Any, tuple[list[Any], bool]]],
        following: Callable[[Any], bytes],
    ) -> list[Any]:
        """The page at `at`, which may be on its way; the one behind it is asked for."""
        known = self._ahead.pop((*what, at), None)
        page, is_last = await (ask(at) if known is None else known)
        if page and not self._closed:
            behind = following(page[-1])
            task = asyncio.create_task(_nothing() if is_last else ask(behind))
            task.add_done_callback(_ignore)
            self._ahead[*what, behind] = task
            if len(self._ahead) > AHEAD_MAX:
                self._ahead.pop(next(iter(self._ahead))).cancel()
        return list(page)

    # ---- bytes

    async def extents(self, wanted: Sequence[Extent]) -> list[bytes | memoryview]:
        found = await _all([self._some(part) for part in self._parts(wanted)])
        return [data for part in found for data in part]

    def _parts(self, wanted: Sequence[Extent]) -> Iterator[list[Extent]]:
        most = self._source.throttle.most(PART_BYTES)
        part: list[Extent] = []
        size = 0
        for extent in wanted:
            if part and size + extent.stored_length > most:
                yield part
                part, size = [], 0
            part.append(extent)
            size += extent.stored_length
        if part:
            yield part

    async def _some(self, wanted: list[Extent]) -> list[bytes | memoryview]:
        size = sum(extent.stored_length for extent in wanted)
        message = pb.ExtentsRequest(pin=self._number, extents=messages.pack_extents(wanted))
        async with self._slots:
            reply, data = await self._call("Replication.Extents", message, size)
        if len(reply.lengths) != len(wanted) or sum(reply.lengths) != len(data):
            raise Corrupt("the source has sent other extents than were asked for")
        found = _cut(wanted, reply, memoryview(data))
        if any(extent.flags & EXTENT_LZ4 for extent in wanted):
            found = await asyncio.to_thread(_unpacked, wanted, found)
        for extent, part in zip(wanted, found, strict=True):
            if len(part) != extent.length:
                raise Corrupt("the source has sent an extent of another length", **_of(extent))
        return found

    # ---- calls

    async def _page(self, method: str, message: Any) -> tuple[Any, bytes | memoryview]:
        message.size_bytes = self._source.throttle.most(
            getattr(message, "size_bytes", 0) or PAGE_BYTES
        )
        return await self._call(method, message, message.size_bytes)

    async def _call(
        self, method: str, message: Any, size_bytes: int
    ) -> tuple[Any, bytes | memoryview]:
        if self._closed:
            raise PinLost("the pin of the source is closed")
        source = self._source
        await source.throttle.take(size_bytes)
        received = size_bytes
        try:
            reply, data = await source.call(method, message, size_bytes=size_bytes)
            received = len(data) if len(data) else reply.ByteSize()
            return reply, data
        except Conflict as error:
            raise PinLost(error.message, **error.facts) from error
        finally:
            source.received_bytes += received
            source.throttle.correct(size_bytes, received)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._source.forget(self)
        for task in self._ahead.values():
            task.cancel()
        self._ahead.clear()
        try:
            await self._source.unpin(self._number)
        except PlatformError as error:
            log.debug("a pin is left to its lease. reason=`%s`", error)


def _cut(
    wanted: Sequence[Extent], reply: pb.ExtentsReply, data: memoryview
) -> list[bytes | memoryview]:
    found: list[bytes | memoryview] = []
    at = 0
    for extent, length, checksum in zip(wanted, reply.lengths, reply.checksums, strict=True):
        part = data[at : at + length]
        at += length
        if crc32c(part) != checksum or (extent.checksum and checksum != extent.checksum):
            raise Corrupt("bytes came from the source that are not what was written", **_of(extent))
        found.append(part)
    return found


def _unpacked(
    wanted: Sequence[Extent], found: Sequence[bytes | memoryview]
) -> list[bytes | memoryview]:
    return [
        extents.unpack(part, extent) if extent.flags & EXTENT_LZ4 else part
        for extent, part in zip(wanted, found, strict=True)
    ]


def _of(extent: Extent) -> dict[str, Any]:
    return {"segment": extent.segment, "offset": extent.offset, "length": extent.length}


async def _all(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Their results; when one fails, the others are ended first."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _nothing() -> tuple[list[Any], bool]:
    return [], True


def _ignore(task: asyncio.Task[Any]) -> None:
    """Its error is of whoever asks for the page, if anybody does."""
    if not task.cancelled():
        task.exception()
