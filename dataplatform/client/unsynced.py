"""Buffered file writes that a server has answered but not synced yet, kept to be sent again.

A plain write is in no commit of the server until somebody syncs (or half a second has passed), so a
server that dies forgets it. Its successor answers a sync with another verifier; what was written
under the old one is then sent again, in order, before the sync is believed (RFC 1813 §4.8). So what
`sync` confirmed is there, also when the server died between the write and the sync.

What is kept is bounded: a client that writes on without syncing has a sync run beside it now and
then. Shared by all files of a client, and safe among threads.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
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
    _cuts: list[tuple[File, int, int | None]] = field(default_factory=list)
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

    @property
    def oldest(self) -> int | None:
        """The mark that the oldest of what is kept was added with; None if there is nothing."""
        with self._lock:
            return self._writes[0].number if self._writes else None

    def files(self) -> set[File]:
        """Those of which something is kept."""
        with self._lock:
            return {write.file for write in self._writes}

    def confirm(self, file: File | None, mark: int, verifier: bytes) -> list[Write]:
        """A sync of the file (None: of all) that was sent after `mark` was answered: forget what
        it covers. Returns what the server may have lost, to be sent again, and what was written to
        the same files after that: an older write must not come to lie over a newer one."""
        lost: list[Write] = []
        files: set[File] = set()
        with self._lock:
            kept: deque[Write] = deque()
            for write in self._writes:
                covered = write.number <= mark and file in (None, write.file)
                if covered and write.verifier != verifier:
                    files.add(write.file)
                if write.file in files:
                    lost.append(write)
                elif covered:
                    self.size_bytes -= write.length
                    continue
                kept.append(write)
            self._writes = kept
        return lost

    def written_before(self, verifier: bytes) -> list[Write]:
        """What was answered under another verifier: the server may have lost it. Without what is
        being cut off: that may be done already, and is not done again."""
        for file, start, end in list(self._cuts):
            self.cut(file, start, end)
        with self._lock:
            return [write for write in self._writes if write.verifier != verifier]

    def resent(self, write: Write, verifier: bytes) -> None:
        """It was sent again, and answered."""
        write.verifier = verifier

    def cut(self, file: File, start: int, end: int | None = None) -> None:
        """The bytes of [start, end), or all from `start` on, were cut off, zeroed or replaced by
        other means than a write: they must not come back."""
        with self._lock:
            kept: deque[Write] = deque()
            for write in self._writes:
                write_end = write.offset + write.length
                stop = write_end if end is None else end
                if write.file != file or write_end <= start or write.offset >= stop:
                    kept.append(write)
                    continue
                self.size_bytes -= write.length
                whole = b"".join(write.parts)
                for first, last in ((write.offset, start), (stop, write_end)):
                    if first < last:
                        part = whole[first - write.offset : last - write.offset]
                        left = Write(write.number, file, first, [part], len(part), write.verifier)
                        kept.append(left)
                        self.size_bytes += left.length
            self._writes = kept

    @contextlib.contextmanager
    def cutting(self, file: File, start: int, end: int | None = None) -> Iterator[None]:
        """Around the request that does what `cut` says."""
        about = file, start, end
        self._cuts.append(about)
        try:
            yield
        finally:
            self._cuts.remove(about)
        self.cut(file, start, end)

    def forget(self, file: File) -> None:
        """The file is gone."""
        self.cut(file, 0)
