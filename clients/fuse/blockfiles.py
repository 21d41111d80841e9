"""Files of the read cache on local disk: where a block is, what is in it, what of it is whole.

::

    CACHE_DIR/<store>/<2 digits>/<volume>-<inode>-<block>-<version>-<mtime>     all hexadecimal

A block is a mebibyte of a file as one commit left it (`nodes.Content`); its file has a slot for
each of its sixteen pieces, and a hole where a piece was never stored::

    slot    magic 8 | length 4 | crc32 of what follows and of the block's name 4 | the piece's bytes

A slot is written in one go and never changed: whoever else writes it writes the same. So there is
nothing to lock, to rename or to sync; what a crash tore, what a disk damaged, and what stands where
it does not belong has another checksum, and is found when it is read. The time of a file's last
change is when it was last used, roughly.

Everything here blocks: it is for threads. On disk; another layout needs another magic.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dataplatform.base.limits import KIB
from dataplatform.transport.connections import Bulk

PIECE_BYTES = 64 * KIB
"""What is fetched, checked and kept at least: a random read of 4 KiB fetches no more than this."""

BLOCK_PIECES = 16
BLOCK_BYTES = BLOCK_PIECES * PIECE_BYTES
"""What has a file, and goes as one: as long as the kernel's largest request."""

MAGIC = b"DPBLOCK1"
HEAD = struct.Struct("<8sII")
SLOT_BYTES = HEAD.size + PIECE_BYTES

SETTLED_S = 5.0
"""A block that was changed since is not damaged: somebody is about to store a piece of it."""

_EMPTY = bytes(HEAD.size)


class Place(NamedTuple):
    """A block of a file, as one commit left it."""

    volume: int
    inode: int
    block: int
    version: int
    mtime_ns: int

    @property
    def name(self) -> str:
        return "-".join(f"{number:x}" for number in self)


class Stored(NamedTuple):
    """A block that is on disk: what it takes there, and when it was used."""

    place: Place
    size_bytes: int
    used_s: float


class Pieces(NamedTuple):
    """What was read: the bytes of all the wanted pieces, one behind the other, of which those in
    `missing` are not there. `is_damaged`: the block is to be removed."""

    data: memoryview
    missing: list[int]
    is_damaged: bool


class BlockFiles:
    """The blocks of one store, in a directory that other mounts may use, too."""

    def __init__(self, directory: Path, store: str) -> None:
        self.directory = directory / store

    def open(self) -> None:
        """OSError if nothing can be stored there. What is in it is what every user may read or not:
        it is closed to all but us."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = self.directory / f".probe-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()

    def path(self, place: Place) -> Path:
        name = place.name
        return self.directory / f"{zlib.crc32(name.encode()) & 0xFF:02x}" / name

    # ---- pieces

    def read(
        self, place: Place, first: int, lengths: Sequence[int], *, touch: bool
    ) -> Pieces | None:
        """Pieces from the first one on, each of its length; None if there is no such block.
        OSError if the disk cannot read."""
        try:
            descriptor = os.open(self.path(place), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        wanted = range(first, first + len(lengths))
        data = memoryview(bytearray(sum(lengths)))
        try:
            heads = [bytearray(HEAD.size) for _ in wanted]
            parts = list(_split(data, lengths))
            buffers = [buffer for pair in zip(heads, parts, strict=True) for buffer in pair]
            os.preadv(descriptor, buffers, first * SLOT_BYTES)
            is_settled = time.time() - os.fstat(descriptor).st_mtime > SETTLED_S
            if touch:
                os.utime(descriptor)
        finally:
            os.close(descriptor)
        missing, is_damaged = [], False
        for piece, head, part in zip(wanted, heads, parts, strict=True):
            if head != HEAD.pack(MAGIC, len(part), _checksum(place, piece, part)):
                missing.append(piece)
                is_damaged = is_damaged or (is_settled and head != _EMPTY)
        return Pieces(data, missing, is_damaged)

    def write(self, place: Place, first: int, pieces: Sequence[Bulk]) -> None:
        """Store pieces from the first one on. OSError, ENOSPC among them."""
        path = self.path(place)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        try:
            buffers: list[Bulk] = []
            for piece, data in enumerate(pieces, first):
                buffers.append(HEAD.pack(MAGIC, len(data), _checksum(place, piece, data)))
                buffers.append(data)
            size = sum(map(len, buffers))
            written = os.pwritev(descriptor, buffers, first * SLOT_BYTES)
            if written != size:
                # The disk got full in the middle: asked for the rest, it says so.
                rest = b"".join(buffers)[written:]
                os.pwrite(descriptor, rest, first * SLOT_BYTES + written)
        finally:
            os.close(descriptor)

    # ---- blocks

    def remove(self, place: Place) -> None:
        """One that is not there is gone already."""
        with contextlib.suppress(FileNotFoundError):
            self.path(place).unlink()

    def scan(self) -> Iterator[Stored]:
        """All that is there; what is no block is left alone."""
        for shard in self._entries(self.directory):
            if shard.is_dir(follow_symlinks=False):
                for entry in self._entries(shard.path):
                    place = place_of(entry.name)
                    if place is None:
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        yield Stored(place, found.st_blocks * 512, found.st_mtime)

    def _entries(self, path: str | Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                return list(entries)
        except FileNotFoundError:
            return []


def place_of(name: str) -> Place | None:
    """The block that has such a file."""
    parts = name.split("-")
    if len(parts) != len(Place._fields):
        return None
    try:
        place = Place(*(int(part, 16) for part in parts))
    except ValueError:
        return None
    return place if place.name == name else None


def _checksum(place: Place, piece: int, data: Bulk) -> int:
    return zlib.crc32(data, zlib.crc32(f"{place.name}-{piece:x}".encode()))


def _split(data: memoryview, lengths: Sequence[int]) -> Iterator[memoryview]:
    at = 0
    for length in lengths:
        yield data[at : at + length]
        at += length
