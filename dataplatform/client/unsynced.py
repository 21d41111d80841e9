"""Buffered file writes that a server has answered but not synced yet, kept to be sent again.

A plain write is in no commit of the server until somebody syncs (or half a second has passed), so a
server that dies forgets it. Its successor answers a sync with another verifier; what was written
under the old one is then sent again, in order, before the sync is believed (RFC 1813 §4.8). So what
`sync` confirmed is there, also when the server died between the write and the sync.

What is kept is bounded: a client that writes on without syncing has a sync run beside it now and
then. Shared by all files of a client, and safe among threads.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from ..base.limits import MIB
from ..transport.connections import Bulk

File = tuple[int, int]
"""(volume, inode)."""

KEPT_BYTES_MAX = 32 * MIB
"""Bytes kept for all files before a sync is run beside the writes; twice that before one waits."""


@dataclass(slots=True)
class Write:
    """Bytes that were answered under a verifier."""

    number: int
    file: File
    offset: int
    parts: list[Bulk]
    length: int
    verifier: bytes


@dataclass(slots=True)
class Unsynced:
    """The kept writes of one client, in the order of their replies."""

    size_bytes: int = 0
    _writes: deque[Write] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last: int = 0

    def add(self, file: File, offset: int, parts: list[Bulk], verifier: bytes) -> None:
        """A write was answered; `parts` must not change any more."""
        length = sum(map(len, parts))
        with self._lock:
            self._last += 1
            self._writes.append(Write(self._last, file, offset, parts, length, verifier))
            self.size_bytes += length

    def mark(self) -> int:
        """Stands for everything kept so far: take it before a sync is sent."""
        return self._last

    def confirm(self, file: File | None, mark: int, verifier: bytes) -> list[Write]:
        """A sync of the file (None: of all) that was sent after `mark` was answered: forget what
        it covers. Returns what the server may have lost, to be sent again."""
        lost: list[Write] = []
        with self._lock:
            kept: deque[Write] = deque()
            for write in self._writes:
                covered = write.number <= mark and file in (None, write.file)
                if covered and write.verifier == verifier:
                    self.size_bytes -= write.length
                    continue
                kept.append(write)
                if covered:
                    lost.append(write)
            self._writes = kept
        return lost

    def written_before(self, verifier: bytes) -> list[Write]:
        """What was answered under another verifier: the server may have lost it."""
        with self._lock:
            return [write for write in self._writes if write.verifier != verifier]

    def resent(self, write: Write, verifier: bytes) -> None:
        """It was sent again, and answered."""
        write.verifier = verifier

    def cut(self, file: File, size: int) -> None:
        """The file was truncated: what lay beyond must not come back."""
        with self._lock:
            kept: deque[Write] = deque()
            for write in self._writes:
                if write.file == file and write.offset + write.length > size:
                    self.size_bytes -= write.length
                    if write.offset >= size:
                        continue
                    whole = b"".join(write.parts)
                    write.parts = [whole[: size - write.offset]]
                    write.length = size - write.offset
                    self.size_bytes += write.length
                kept.append(write)
            self._writes = kept

    def forget(self, file: File) -> None:
        """The file is gone."""
        self.cut(file, 0)
