"""Bulk bytes in segments: written, synced, read back and verified (D3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import lz4.block

from ..base.errors import Corrupt
from ..engine.base import Location, SegmentStore
from ..engine.checksums import crc32c
from ..keyspace.records import EXTENT_LZ4, Extent

FILE_EXTENT_BYTES_MAX = 128 << 10
"""A file's extent is read and verified as a whole, so a random read costs at most this much."""

_COMPRESS_GAIN_MIN = 8
"""Compressed bytes are kept if they are at least 1/8 shorter."""


async def append(
    segments: SegmentStore, data: bytes | memoryview, *, compression: str = "none"
) -> Extent:
    """Write one extent. Readable at once; sync the segments before a commit names it."""
    flags = 0
    length = len(data)
    if compression == "lz4":
        packed = await asyncio.to_thread(lz4.block.compress, data, store_size=False)
        if len(packed) <= length - length // _COMPRESS_GAIN_MIN:
            data, flags = packed, EXTENT_LZ4
    location = await segments.append(data)
    return Extent(location.segment, location.offset, location.length, length, crc32c(data), flags)


async def append_many(
    segments: SegmentStore, data: memoryview, size_max: int, *, compression: str = "none"
) -> list[Extent]:
    """Write bytes as consecutive extents of at most `size_max`."""
    if compression == "none" and len(data) > size_max:
        # One append, several extents: each has a checksum of its own.
        parts = await segments.append_parts(data, size_max)
        overhead = segments.overhead_bytes
        return [
            Extent(*location, location.length - overhead, checksum) for location, checksum in parts
        ]
    return [
        await append(segments, data[start : start + size_max], compression=compression)
        for start in range(0, len(data), size_max)
    ]


async def append_each(
    segments: SegmentStore, parts: Sequence[bytes | memoryview], *, compression: str = "none"
) -> list[Extent]:
    """Write extents of any lengths, each of its own: in one append, where that can be."""
    if compression != "none" or segments.overhead_bytes or len(parts) < 2:
        appending = [append(segments, part, compression=compression) for part in parts]
        return list(await asyncio.gather(*appending))
    checksums: list[int] = []

    def encode(segment: int, offset: int) -> tuple[bytes]:
        checksums.extend(map(crc32c, parts))
        return (b"".join(parts),)

    segment, offset, _ = await segments.append_encoded(sum(map(len, parts)), encode)
    found = []
    for part, checksum in zip(parts, checksums, strict=True):
        found.append(Extent(segment, offset, len(part), len(part), checksum, 0))
        offset += len(part)
    return found


async def read(segments: SegmentStore, extent: Extent) -> bytes | memoryview:
    """The extent's uncompressed bytes. CORRUPT if they are not what was written."""
    stored = await segments.read(Location(extent.segment, extent.offset, extent.stored_length))
    return _verified(segments, stored, extent)


async def read_run(segments: SegmentStore, extents: Sequence[Extent]) -> list[bytes | memoryview]:
    """Extents that lie one behind the other in one segment, in one read."""
    stored = await segments.read_parts(
        [Location(e.segment, e.offset, e.stored_length) for e in extents]
    )
    return [_verified(segments, part, extent) for part, extent in zip(stored, extents, strict=True)]


async def read_run_packed(
    segments: SegmentStore, extents: Sequence[Extent]
) -> list[tuple[bytes | memoryview, int]]:
    """As `read_run`, but as they were before they were stored, compressed or not, with the crc32c
    of that: for somebody who unpacks them elsewhere."""
    stored = await segments.read_parts(
        [Location(e.segment, e.offset, e.stored_length) for e in extents]
    )
    found = [(part, crc32c(part)) for part in stored]
    if not segments.overhead_bytes:
        for (_, checksum), extent in zip(found, extents, strict=True):
            if checksum != extent.checksum:
                raise _mismatch(extent)
    return found


def _verified(
    segments: SegmentStore, stored: bytes | memoryview, extent: Extent
) -> bytes | memoryview:
    """What was encrypted is authenticated: a checksum would say less, and the processor is busy."""
    return unpack(stored, extent) if segments.overhead_bytes else verify(stored, extent)


def verify(stored: bytes | memoryview, extent: Extent) -> bytes | memoryview:
    """Check the stored bytes against the extent's checksum and unpack them."""
    if crc32c(stored) != extent.checksum:
        raise _mismatch(extent)
    return unpack(stored, extent)


def _mismatch(extent: Extent) -> Corrupt:
    return Corrupt(
        "stored bytes do not match their checksum",
        segment=extent.segment,
        offset=extent.offset,
        length=extent.stored_length,
    )


def unpack(stored: bytes | memoryview, extent: Extent) -> bytes | memoryview:
    """The uncompressed bytes of what is good. CORRUPT."""
    if not extent.flags & EXTENT_LZ4:
        return stored
    try:
        return lz4.block.decompress(stored, uncompressed_size=extent.length)  # type: ignore[no-any-return]
    except lz4.block.LZ4BlockError as error:
        raise Corrupt("stored bytes cannot be decompressed", segment=extent.segment) from error


def follows(extent: Extent, previous: Extent) -> bool:
    """Whether it lies right behind `previous` in the same segment."""
    return (
        extent.segment == previous.segment
        and extent.offset == previous.offset + previous.stored_length
    )
