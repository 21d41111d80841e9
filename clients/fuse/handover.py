"""What a worker leaves to its successor: memory that both map, kept by the keeper as a descriptor.

A worker may die between any two machine instructions, so every fact is one aligned 8-byte store,
or is made so by the order of the stores; nothing here is ever flushed or committed. Offsets are in
words of 8 bytes, native order (both ends run on the same machine):

    0    MAGIC, which includes the version of this layout
    1    generation   how many workers came before this one; written by the keeper only
    2    session      16 bytes: the session with the server, which keeps files open there
    4    overflow     1: more inodes were dirty than fit, so any file may have lost bytes
    5    greeting     length in bytes of what follows
    8    greeting     at most 256 bytes: what the kernel was answered to FUSE_INIT
    64   journal      SLOTS × (sequence, unique)
    ...  dirty        DIRTY_MAX × (inode, volume); volume 0: free
    ...  unanswered   UNANSWERED_MAX × unique; 0: free
    ...  volumes      FAR_VOLUMES_MAX × volume; 0: free. Older keepers have none

*Journal.* A slot tells under which request id (this slot, that sequence) the kernel's request
`unique` went to the server, so that a request which the kernel sends again is known there as a
retry. Invariant that the worker keeps: a slot is used for the next request only when the one before
it was answered *to the kernel*. Sequence is stored before unique, so whatever is seen of a
half-written slot is either the old unique, which the kernel will not repeat, or a true pair.

*Dirty.* An inode is in the set while the worker holds bytes of it that the server has not answered.
What is in it when a successor comes has lost bytes: it says EIO once, at the next fsync or close.

*Volumes.* Those with large numbers, in the order in which the mount met them: the kernel knows what
is in them by their place here.

*Unanswered.* For kernels before 6.9 only, which cannot send again what a dead worker had read:
whoever waits for those requests would wait for ever (not even SIGKILL ends that), so the successor
answers them with an error.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import Final

from .link import Link

MAGIC: Final = int.from_bytes(b"DPMOUNT1", "little")
SLOTS: Final = 1024
DIRTY_MAX: Final = 4096
UNANSWERED_MAX: Final = 1024
FAR_VOLUMES_MAX: Final = 1 << 15
SESSION_BYTES: Final = 16
GREETING_BYTES_MAX: Final = 256

_GENERATION = 1
_SESSION = 2
_OVERFLOW = 4
_GREETING_LENGTH = 5
_GREETING = 8
_JOURNAL = 64
_DIRTY = _JOURNAL + 2 * SLOTS
_UNANSWERED = _DIRTY + 2 * DIRTY_MAX
_WORDS = _UNANSWERED + UNANSWERED_MAX
_VOLUMES = _WORDS
_ALL_WORDS = _VOLUMES + FAR_VOLUMES_MAX
_WORD_BYTES = 8

Key = tuple[int, int]
"""(volume, inode)."""


class Handover:
    """One process's view of the memory. Not safe among threads.

    `link` is the worker's line to its keeper; without one (in tests) it is attached to nobody.
    """

    def __init__(self, descriptor: int, link: Link | None = None) -> None:
        """Takes the descriptor over. ValueError if it is not of this layout."""
        self.link = Link() if link is None else link
        self.descriptor = descriptor
        size = os.fstat(descriptor).st_size
        if size not in (_WORDS * _WORD_BYTES, _ALL_WORDS * _WORD_BYTES):
            raise ValueError("the handover has another size: it is of another version")
        self._map = mmap.mmap(descriptor, size)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")
        if self._words[0] != MAGIC:
            raise ValueError("the handover is of another version")
        self.generation: int = self._words[_GENERATION]  # 0: the first worker
        first, end = _SESSION * _WORD_BYTES, _SESSION * _WORD_BYTES + SESSION_BYTES
        self.session = bytes(self._bytes[first:end])
        self._places: dict[Key, int] = {}  # where each dirty inode stands
        self._free: list[int] = []
        self._homeless: set[Key] = set()  # dirty inodes that found no place
        for place in range(_UNANSWERED - 2, _DIRTY - 2, -2):
            inode, volume = self._words[place], self._words[place + 1]
            if volume:
                self._places[volume, inode] = place
            else:
                self._free.append(place)
        self._requests: dict[int, int] = {}  # where each unanswered request stands
        self._free_requests = list(range(_WORDS - 1, _UNANSWERED - 1, -1))

    @classmethod
    def create(cls, session: bytes | None = None) -> Handover:
        """For the first worker of a mount."""
        descriptor = os.memfd_create("dp-mount-handover")
        os.ftruncate(descriptor, _ALL_WORDS * _WORD_BYTES)
        head = MAGIC.to_bytes(_WORD_BYTES, "little") + bytes(_WORD_BYTES)
        session = session or os.urandom(SESSION_BYTES)
        assert len(session) == SESSION_BYTES
        os.pwrite(descriptor, head + session, 0)
        return cls(descriptor)

    def close(self) -> None:
        self._words.release()
        self._bytes.release()
        self._map.close()
        os.close(self.descriptor)

    def succeed(self) -> None:
        """The next worker comes. Called by the keeper, while no worker looks."""
        self.generation += 1
        self._words[_GENERATION] = self.generation

    # -------------------------------------------------------------------------------- volumes

    def far_volumes(self) -> list[int]:
        """As they were met, in that order."""
        found: list[int] = []
        for volume in self._words[_VOLUMES:]:
            if not volume:
                break
            found.append(volume)
        return found

    def far_volume_set(self, place: int, volume: int) -> None:
        """OSError (EOVERFLOW) if there is no room for more. An old keeper's memory has none: then a
        successor has to look things up again."""
        if place >= FAR_VOLUMES_MAX:
            raise OSError(errno.EOVERFLOW, "too many volumes and snapshots: mount again")
        if _VOLUMES + place < len(self._words):
            self._words[_VOLUMES + place] = volume

    # ------------------------------------------------------------------------------- greeting

    @property
    def greeting(self) -> bytes:
        """What was agreed with the kernel at FUSE_INIT, in the worker's own form; empty before."""
        length = self._words[_GREETING_LENGTH]
        return bytes(self._bytes[_GREETING * _WORD_BYTES :][:length])

    @greeting.setter
    def greeting(self, value: bytes) -> None:
        assert len(value) <= GREETING_BYTES_MAX
        start = _GREETING * _WORD_BYTES
        self._words[_GREETING_LENGTH] = 0
        self._bytes[start : start + len(value)] = value
        self._words[_GREETING_LENGTH] = len(value)

    # -------------------------------------------------------------------------------- journal

    def slot_get(self, slot: int) -> tuple[int, int]:
        """(unique, sequence), both 0 where the slot was never used."""
        place = _JOURNAL + 2 * slot
        return self._words[place + 1], self._words[place]

    def slot_set(self, slot: int, unique: int, sequence: int) -> None:
        """The kernel's request `unique` goes to the server under this slot and sequence."""
        place = _JOURNAL + 2 * slot
        self._words[place] = sequence
        self._words[place + 1] = unique

    def journal(self) -> dict[int, tuple[int, int]]:
        """(slot, sequence) by unique, of all slots: how a successor knows resent requests."""
        found = {}
        for slot in range(SLOTS):
            unique, sequence = self.slot_get(slot)
            if unique:
                found[unique] = (slot, sequence)
        return found

    # ----------------------------------------------------------------------------- unanswered

    def begin_request(self, unique: int) -> None:
        """The kernel's request was read. One that finds no place is not remembered."""
        if self._free_requests:
            place = self._free_requests.pop()
            self._words[place] = unique
            self._requests[unique] = place

    def end_request(self, unique: int) -> None:
        """It was answered."""
        place = self._requests.pop(unique, None)
        if place is not None:
            self._words[place] = 0
            self._free_requests.append(place)

    def take_unanswered(self) -> list[int]:
        """What a predecessor had read and not answered, which is then forgotten. To be called
        before the first `begin_request`."""
        assert not self._requests
        found = [unique for unique in self._words[_UNANSWERED:_WORDS] if unique]
        for place in range(_UNANSWERED, _WORDS):
            self._words[place] = 0
        return found

    # ---------------------------------------------------------------------------------- dirty

    def mark_dirty(self, key: Key) -> None:
        """Bytes of this inode are here that the server has not answered. Again: no effect."""
        if key in self._places or key in self._homeless:
            return
        if not self._free:
            self._homeless.add(key)
            self._words[_OVERFLOW] = 1
            return
        place = self._free.pop()
        volume, inode = key
        assert volume, "volume 0 means that the place is free"
        self._words[place] = inode
        self._words[place + 1] = volume
        self._places[key] = place

    def clear_dirty(self, key: Key) -> None:
        """The server has all of it. No effect where it was not dirty."""
        place = self._places.pop(key, None)
        if place is not None:
            self._words[place + 1] = 0
            self._free.append(place)
        elif key in self._homeless:
            self._homeless.discard(key)
            if not self._homeless:
                self._words[_OVERFLOW] = 0

    def dirty(self) -> set[Key]:
        """All inodes that are marked."""
        return {*self._places, *self._homeless}

    @property
    def dirty_overflowed(self) -> bool:
        """Whether more inodes were dirty than fit: then any file may have lost bytes."""
        return bool(self._words[_OVERFLOW])

    def forget_dirty(self) -> None:
        """The successor has noted what was lost, and starts clean."""
        for key in self.dirty():
            self.clear_dirty(key)
        self._words[_OVERFLOW] = 0
