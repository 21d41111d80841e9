"""Segments as objects of a bucket, and the few object operations the rest needs (D3).

Appended bytes collect in memory. A sync uploads them as one immutable object, which seals the
segment; so does reaching its size. What is not uploaded yet is read from memory.

Segment numbers are ``epoch << 24 | counter``. An epoch belongs to one opening of one store: it is
claimed by creating ``segments/epochs/<16 hex digits>`` on the condition that nobody has. So two
servers that both believe to own a volume never write the same object, and numbers are never used
again. The database, not this store, decides whose commits count.

Segments may lie below several prefixes (see places.py): new ones go to the first. Those of another
volume are read there, up to the number at which it was cloned, and never deleted.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import MemoryStore, ObjectStore, from_url

from ..base.errors import Corrupt, Denied, Exhausted, Invalid, PlatformError, Unavailable
from ..base.limits import MIB
from .base import Encode, Location, SegmentStore, Stored, joined
from .groups import Group, awaiting
from .places import Place, Places
from .space import Space

T = TypeVar("T")

SEGMENT_BYTES = 64 * MIB
"""The most that waits in memory; a segment is uploaded at the latest when it is this large."""

RESERVE_BYTES = 64 * MIB
"""Free space below which writes to a ``file://`` store are refused: what is committed waits in
memory (SlateDB's ``max_unflushed_bytes``), and is later written out once more, into tables."""

RESERVE_SHARE = 4
"""No more than one part in so many of the file system: small ones are of use, too."""

COUNTER_BITS = 24  # in stored segment numbers, must not change


@contextlib.contextmanager
def _errors(message: str, path: str) -> Iterator[None]:
    try:
        yield
    except PlatformError:
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise Denied(message, path=path, cause=error) from error
    except Exception as error:  # obstore, and what is below it
        if "No space left on device" in str(error):
            raise Exhausted(message, path=path, cause=error) from error
        raise Unavailable(message, path=path, cause=error) from error


class Bucket:
    """The objects below one URL: ``s3://bucket/prefix``, ``file:///directory``, ``memory:///``."""

    def __init__(self, url: str) -> None:
        """INVALID if the URL is not understood. Credentials come from the environment."""
        self.url = url
        try:
            self._store: ObjectStore = _store(url)
        except Exception as error:  # nothing is contacted yet: it can only be the URL
            raise Invalid("store is not understood", url=url, cause=error) from error
        parts = urlsplit(url)
        directory = Path(unquote(parts.path)) if parts.scheme == "file" else None
        self.space = Space(directory, RESERVE_BYTES, share=RESERVE_SHARE)
        """Of the file system, if the store is one."""

    async def find(self, path: str) -> bytes | None:
        """The object's bytes, or None."""
        with _errors("object cannot be read", path):
            try:
                result = await obstore.get_async(self._store, path)
                return bytes(await result.bytes_async())
            except (NotFoundError, FileNotFoundError):
                return None

    async def read(self, path: str, offset: int, length: int) -> bytes | None:
        """A range of an object; None if there is no such object."""
        with _errors("object cannot be read", path):
            try:
                return bytes(
                    await obstore.get_range_async(self._store, path, start=offset, length=length)
                )
            except (NotFoundError, FileNotFoundError):
                return None

    async def put(self, path: str, pieces: list[bytes]) -> None:
        """Store one object; nobody ever sees a part of it."""
        size = sum(map(len, pieces))
        # An iterator is uploaded in parts without being joined; small ones are better in one go.
        data = b"".join(pieces) if size <= 8 * MIB else iter(pieces)
        with _errors("object cannot be written", path):
            await obstore.put_async(self._store, path, data)

    async def create(self, path: str, data: bytes) -> bool:
        """Store an object unless there is one: then False."""
        with _errors("object cannot be written", path):
            try:
                await obstore.put_async(self._store, path, data, mode="create")
            except (AlreadyExistsError, PreconditionError, FileExistsError):
                return False
            return True

    async def sizes(self, prefix: str) -> dict[str, int]:
        """Name below `prefix` and size in bytes of every object there."""
        found: dict[str, int] = {}
        with _errors("objects cannot be listed", prefix):
            async for page in obstore.list(self._store, prefix):
                for meta in page:
                    found[meta["path"].removeprefix(prefix + "/")] = meta["size"]
        return found

    async def names(self, prefix: str | None) -> list[str]:
        """The next names below `prefix`, of objects and of what has objects below."""
        with _errors("objects cannot be listed", prefix or ""):
            result = await obstore.list_with_delimiter_async(self._store, prefix)
        paths = [*result["common_prefixes"], *(meta["path"] for meta in result["objects"])]
        return [path.rstrip("/").rpartition("/")[2] for path in paths]

    async def delete(self, path: str) -> None:
        """A missing object is no error."""
        with _errors("object cannot be deleted", path):
            try:
                await obstore.delete_async(self._store, path)
            except (NotFoundError, FileNotFoundError):
                return

    async def delete_all(self, prefix: str) -> None:
        """Delete everything below a prefix."""
        for name in await self.sizes(prefix):
            await self.delete(f"{prefix}/{name}")


def _store(url: str) -> ObjectStore:
    if url.startswith("memory:"):
        return MemoryStore()
    if url.startswith("file:"):
        _make_private(Path(unquote(urlsplit(url).path)) / "volumes")
        return from_url(url, mkdir=True, automatic_cleanup=True)
    return from_url(url)


def _make_private(volumes: Path) -> None:
    """Who may read what is not the disk's to say, also of what was stored with other modes."""
    if volumes.is_dir() and stat.S_IMODE(volumes.stat().st_mode) & 0o077:
        volumes.chmod(0o700)


class _Buffer:
    """A segment that is not uploaded yet."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.size = 0
        self.pieces: list[bytes] = []

    def append(self, data: bytes) -> int:
        offset = self.size
        self.pieces.append(data)
        self.size += len(data)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        parts = []
        start = 0
        end = offset + length
        for piece in self.pieces:
            if start >= end:
                break
            if start + len(piece) > offset:
                parts.append(piece[max(0, offset - start) : end - start])
            start += len(piece)
        return b"".join(parts)


class ObjectSegments(SegmentStore):
    """The segments of one volume."""

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        *,
        epoch: int,
        found: dict[int, tuple[int, Place]],
        subject: str,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Use `at`."""
        self._bucket = bucket
        self._prefix = prefix
        self._segment_bytes = segment_bytes
        self._next = epoch << COUNTER_BITS
        self._sizes = {number: size for number, (size, _) in found.items()}
        self._elsewhere = {n: place for n, (_, place) in found.items() if place.segments != prefix}
        self._open: _Buffer | None = None
        self._full: list[_Buffer] = []
        self._uploading: list[_Buffer] = []
        self._group = Group(subject, awaiting(self._upload))
        self._closed = False

    @classmethod
    async def at(
        cls, bucket: Bucket, places: Places, *, subject: str, segment_bytes: int = SEGMENT_BYTES
    ) -> ObjectSegments:
        """List the segments of all places and claim the next epoch in the first one."""
        found: dict[int, tuple[int, Place]] = {}
        epoch = claimed = places.epoch
        for place in reversed(places.all):
            sizes, epochs = await listed(bucket, place.segments)
            for number, size in sizes.items():
                if place.end is None or number < place.end:
                    found[number] = size, place
            claimed = max(epochs, default=0)
            epoch = max(epoch, claimed, *(number >> COUNTER_BITS for number in found), 0)
        prefix = places.all[0].segments
        return cls(
            bucket,
            prefix,
            epoch=await _claim(bucket, f"{prefix}/epochs", epoch, claimed),
            found=dict(sorted(found.items())),
            subject=subject,
            segment_bytes=segment_bytes,
        )

    @property
    def open_segment(self) -> int | None:
        return self._open.number if self._open else None

    @property
    def closed(self) -> bool:
        return self._closed

    async def append_encoded(self, length: int, encode: Encode) -> Location:
        """Waits for the upload when it makes a segment full: memory is bounded by that."""
        self._group.check()
        waiting = sum(buffer.size for buffer in self._buffers())
        self._bucket.space.check(length + waiting)
        if self._open is not None and self._open.size + length > self._segment_bytes:
            self._fill()
        if self._open is None:
            self._next += 1
            self._open = _Buffer(self._next)
        buffer = self._open
        piece = bytes(joined(encode(buffer.number, buffer.size)))
        assert len(piece) == length, (len(piece), length)
        offset = buffer.append(piece)
        self._sizes[buffer.number] = buffer.size
        ticket = self._group.add(len(piece))
        if buffer.size >= self._segment_bytes:
            self._fill()
        if self._full:
            await self._group.wait(ticket)
        return Location(buffer.number, offset, len(piece))

    async def sync(self) -> None:
        await self._group.wait(self._group.last)

    async def read_decoded(self, location: Location, decode: Callable[[Stored], T]) -> T:
        return decode(await self._read(location))

    async def _read(self, location: Location) -> bytes:
        self._group.check_open()
        segment, offset, length = location
        size = self._sizes.get(segment)
        if size is None or offset < 0 or offset + length > size:
            raise self._corrupt(location)
        if length == 0:
            return b""
        for buffer in self._buffers():
            if buffer.number == segment:
                return buffer.read(offset, length)
        data = await self._bucket.read(self._path(segment), offset, length)
        if data is None or len(data) != length:
            raise self._corrupt(location)
        return data

    async def seal(self) -> None:
        await self.sync()

    async def sizes(self) -> dict[int, int]:
        self._group.check_open()
        return dict(self._sizes)

    async def delete(self, segment: int) -> None:
        self._group.check()
        if any(buffer.number == segment for buffer in self._buffers()):
            raise Invalid("segment is open", segment=segment)
        if self._sizes.pop(segment, None) is None:
            return
        place = self._elsewhere.get(segment)
        if place is None or place.end is None:
            await self._bucket.delete(self._path(segment))
        self._elsewhere.pop(segment, None)

    async def skip(self, segment: int) -> None:
        await self.seal()
        epoch = segment >> COUNTER_BITS
        if epoch >= self._next >> COUNTER_BITS:
            mine = self._next >> COUNTER_BITS
            claimed = await _claim(self._bucket, f"{self._prefix}/epochs", epoch, mine)
            self._next = claimed << COUNTER_BITS

    async def close(self) -> None:
        try:
            await self._group.close()
        finally:
            self._open = None
            self._full.clear()
            self._closed = True

    def _buffers(self) -> list[_Buffer]:
        opened = [self._open] if self._open else []
        return opened + self._full + self._uploading

    def _fill(self) -> None:
        """Give the open segment away for uploading."""
        if self._open is not None:
            self._full.append(self._open)
            self._open = None

    async def _upload(self) -> None:
        """Everything appended so far: at least what the group had given tickets for."""
        self._fill()
        self._uploading, self._full = self._full, []
        for buffer in self._uploading:
            await self._bucket.put(self._path(buffer.number), buffer.pieces)
        self._uploading = []

    def _path(self, segment: int) -> str:
        place = self._elsewhere.get(segment)
        return f"{place.segments if place else self._prefix}/{segment:016x}"

    def _corrupt(self, location: Location) -> PlatformError:
        path = f"{self._bucket.url}/{self._path(location.segment)}"
        return Corrupt("segment is missing or short", path=path, **location._asdict())


async def listed(bucket: Bucket, prefix: str) -> tuple[dict[int, int], dict[int, int]]:
    """The sizes of the segments below a prefix, and the epochs that were claimed there."""
    sizes: dict[int, int] = {}
    epochs: dict[int, int] = {}
    for name, size in (await bucket.sizes(prefix)).items():
        folder, _, last = name.rpartition("/")
        (epochs if folder else sizes)[_number(last, f"{prefix}/{name}")] = size
    return sizes, epochs


def _number(name: str, path: str) -> int:
    try:
        return int(name, 16)
    except ValueError as error:
        raise Corrupt("no segment number", path=path) from error


async def _claim(bucket: Bucket, prefix: str, last: int, before: int) -> int:
    """The first epoch after `last` that nobody has. `before` was claimed here before it, or 0."""
    epoch = last + 1
    while not await bucket.create(f"{prefix}/{epoch:016x}", b"\n"):
        epoch += 1
    if before:
        await bucket.delete(f"{prefix}/{before:016x}")
    return epoch
