"""A volume's storage with its values and bulk bytes encrypted (see `ciphers`).

Keys stay as they are: they have to be in order. So does one value: the volume's settings hold the
wrapped keys, without which nothing else can be read.

The contracts of engine and segments are kept, with one exception that `overhead_bytes` tells of:
of a segment only whole appends, or whole parts of one, can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import TypeVar

from ..base.buffers import BUFFERS
from ..base.errors import Corrupt
from ..keyspace.keys import SETTINGS_KEY
from .base import (
    Batch,
    Encode,
    Engine,
    Location,
    Pair,
    Reader,
    SegmentStore,
    Storage,
    Stored,
    Ticket,
    View,
    joined,
)
from .ciphers import OVERHEAD_BYTES, Cipher, Keyring

T = TypeVar("T")

_PLACE = Struct(">QQ")

RENEWED_PAIRS = 200
RENEWED_BYTES = 64 << 10
"""What one step of `EncryptedEngine.renew` reads and encrypts anew: less than a millisecond."""


class _EncryptedReads(Reader):
    """The reads of an engine or a view."""

    _reader: Reader
    _cipher: Cipher

    async def get(self, key: bytes) -> bytes | None:
        value = await self._reader.get(key)
        return None if value is None else self._decrypt(key, value)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values = await self._reader.get_many(keys)
        decrypt = self._decrypt
        return [
            None if value is None else decrypt(key, value)
            for key, value in zip(keys, values, strict=True)
        ]

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        # Enough for a page of what is stored to hold a page of what is read, which is shorter.
        found = await self._reader.scan(
            start,
            end,
            reverse=reverse,
            limit=limit,
            size_bytes=size_bytes + limit * OVERHEAD_BYTES,
        )
        page: list[Pair] = []
        size = 0
        decrypt = self._decrypt
        for key, stored in found:
            value = decrypt(key, stored)
            page.append((key, value))
            size += len(key) + len(value)
            if size >= size_bytes:
                break
        return page

    def _decrypt(self, key: bytes, stored: bytes) -> bytes:
        return stored if key == SETTINGS_KEY else self._cipher.decrypt(stored, key)


class EncryptedView(_EncryptedReads, View):
    def __init__(self, view: View, cipher: Cipher) -> None:
        self._reader = self._view = view
        self._cipher = cipher

    def close(self) -> None:
        self._view.close()


class EncryptedEngine(_EncryptedReads, Engine):
    """An engine whose values are encrypted."""

    def __init__(self, engine: Engine, cipher: Cipher) -> None:
        self._reader = self._engine = engine
        self._cipher = cipher

    @property
    def durable_ticket(self) -> Ticket:
        return self._engine.durable_ticket

    @property
    def broken(self) -> bool:
        return self._engine.broken

    async def view(self) -> View:
        return EncryptedView(await self._engine.view(), self._cipher)

    async def commit(self, batch: Batch, *, awaited: bool = False) -> Ticket:
        encrypt = self._cipher.encrypt
        return await self._engine.commit(
            {
                key: value if value is None or key == SETTINGS_KEY else encrypt(value, key)
                for key, value in batch.items()
            },
            awaited=awaited,
        )

    async def durable(self, ticket: Ticket) -> None:
        await self._engine.durable(ticket)

    async def checkpoint(self, name: str) -> None:
        await self._engine.checkpoint(name)

    async def open_checkpoint(self, name: str) -> View:
        return EncryptedView(await self._engine.open_checkpoint(name), self._cipher)

    async def delete_checkpoint(self, name: str) -> None:
        await self._engine.delete_checkpoint(name)

    async def checkpoints(self) -> list[str]:
        return await self._engine.checkpoints()

    async def checkpoint_size(self, name: str) -> int:
        return await self._engine.checkpoint_size(name)

    async def close(self) -> None:
        await self._engine.close()

    async def renew(self, start: bytes, end: bytes) -> tuple[bytes | None, int, list[bytes]]:
        """Encrypt some values of [start, end) anew, if that was done with an older key: where to go
        on, or None at the end, how many were, and the keys of those that are damaged.

        What is written is what was read, so nobody else may commit meanwhile.
        """
        page = await self._engine.scan(start, end, limit=RENEWED_PAIRS, size_bytes=RENEWED_BYTES)
        batch: dict[bytes, bytes | None] = {}
        damaged = []
        for key, stored in page:
            if key == SETTINGS_KEY or self._cipher.is_current(stored):
                continue
            try:
                batch[key] = self._cipher.encrypt(self._cipher.decrypt(stored, key), key)
            except Corrupt:
                damaged.append(key)
        if batch:
            await self._engine.commit(batch)
        return (page[-1][0] + b"\x00" if page else None), len(batch), damaged


class EncryptedSegments(SegmentStore):
    """Segments in which every append, and every part of one, is encrypted for its place."""

    overhead_bytes = OVERHEAD_BYTES

    def __init__(self, segments: SegmentStore, cipher: Cipher) -> None:
        assert not segments.overhead_bytes, "encrypted once is enough"
        self._segments = segments
        self._cipher = cipher

    @property
    def open_segment(self) -> int | None:
        return self._segments.open_segment

    async def append_encoded(self, length: int, encode: Encode) -> Location:
        def encrypt(segment: int, offset: int) -> Iterable[Stored]:
            into = BUFFERS.take(length + OVERHEAD_BYTES)
            data = joined(encode(segment, offset))
            self._cipher.encrypt_into(data, _PLACE.pack(segment, offset), into)
            return (into,)

        return await self._segments.append_encoded(length + OVERHEAD_BYTES, encrypt)

    async def append_parts(self, data: memoryview, part_bytes: int) -> list[tuple[Location, int]]:
        parts = [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]
        found: list[tuple[Location, int]] = []

        def encrypt(segment: int, offset: int) -> Iterable[Stored]:
            # Each is written before the next one: from the cache, and the same memory serves all.
            into = BUFFERS.take(part_bytes + OVERHEAD_BYTES)
            for part in parts:
                stored = len(part) + OVERHEAD_BYTES
                piece = into[:stored]
                self._cipher.encrypt_into(part, _PLACE.pack(segment, offset), piece)
                found.append((Location(segment, offset, stored), 0))
                yield piece
                offset += stored

        length = len(data) + len(parts) * OVERHEAD_BYTES
        await self._segments.append_encoded(length, encrypt)
        return found

    async def read_decoded(self, location: Location, decode: Callable[[Stored], T]) -> T:
        def decrypt(stored: Stored) -> T:
            (part,) = self._decrypt([location], memoryview(stored))
            return decode(part)

        self._check_length(location)
        return await self._segments.read_decoded(location, decrypt)

    async def read_parts(self, locations: Sequence[Location]) -> list[Stored]:
        for location in locations:
            self._check_length(location)
        first, last = locations[0], locations[-1]
        run = first._replace(length=last.offset + last.length - first.offset)
        return await self._segments.read_decoded(
            run, lambda stored: self._decrypt(locations, memoryview(stored))
        )

    def _check_length(self, location: Location) -> None:
        if location.length < OVERHEAD_BYTES:
            raise Corrupt("no encrypted bytes are that short", **location._asdict())

    def _decrypt(self, locations: Sequence[Location], stored: memoryview) -> list[Stored]:
        """The parts of what stands in a segment from the first location on, one behind the other
        in one piece of memory."""
        into = BUFFERS.take(len(stored) - len(locations) * OVERHEAD_BYTES)
        parts: list[Stored] = []
        at = taken = 0
        for location in locations:
            assert location.offset == locations[0].offset + at, location
            end = taken + location.length - OVERHEAD_BYTES
            place = _PLACE.pack(location.segment, location.offset)
            part = into[taken:end]
            try:
                self._cipher.decrypt_into(stored[at : at + location.length], place, part)
            except Corrupt as error:
                error.facts.update(location._asdict())
                raise
            parts.append(part)
            at, taken = at + location.length, end
        return parts

    async def sync(self) -> None:
        await self._segments.sync()

    async def seal(self) -> None:
        await self._segments.seal()

    async def sizes(self) -> dict[int, int]:
        return await self._segments.sizes()

    async def delete(self, segment: int) -> None:
        await self._segments.delete(segment)

    async def skip(self, segment: int) -> None:
        await self._segments.skip(segment)

    async def close(self) -> None:
        await self._segments.close()


def encrypted(storage: Storage, keyring: Keyring) -> Storage:
    """The same storage, read and written through a volume's keys."""
    return Storage(
        EncryptedEngine(storage.engine, keyring.values),
        EncryptedSegments(storage.segments, keyring.extents),
    )
