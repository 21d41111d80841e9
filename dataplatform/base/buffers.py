"""Large buffers that are used again and again.

Memory fresh from the kernel is mapped page by page while it is filled, which costs more than the
filling: 256 faults for a mebibyte. So large frames and large reads take turns in a few buffers.

A buffer is free when nobody but the pool refers to it. Reference counts tell, so nobody gives one
back, and whoever keeps a view of one keeps its bytes. `take` is safe among threads.

Invariants: a buffer that is being looked at is in nobody's reach but the looker's; the pool holds
at most `count_max` buffers, however many are taken.
"""

from __future__ import annotations

import collections
import mmap
import sys
from collections.abc import Callable

from .limits import KIB, MIB

Buffer = bytearray | mmap.mmap

BUFFER_BYTES = 1 * MIB + 64 * KIB
"""Of one buffer: a mebibyte of bulk bytes and the frame around it."""

BUFFERS_MAX = 16
"""Kept by a process: two windows of bulk calls under way."""

TAKEN_BYTES_MIN = 128 * KIB
"""Smaller ones come from the allocator's own reserves, without faults."""


def _look(buffers: collections.deque[Buffer]) -> tuple[Buffer, int]:
    """Take a buffer out, and count the references to it here."""
    buffer = buffers.pop()
    references = sys.getrefcount(buffer)
    return buffer, references


_FREE = _look(collections.deque([bytearray()]))[1]
"""References to a buffer that nobody uses. How many the looker's own are is the interpreter's
business: two up to Python 3.13, one from 3.14 on, which lends arguments."""


class Buffers:
    """A pool of buffers of one size; `make` makes one."""

    def __init__(
        self,
        size_bytes: int = BUFFER_BYTES,
        count_max: int = BUFFERS_MAX,
        make: Callable[[int], Buffer] = bytearray,
    ) -> None:
        self._size_bytes = size_bytes
        self._count_max = count_max
        self._make = make
        self._buffers: collections.deque[Buffer] = collections.deque()

    def take(self, length: int) -> memoryview:
        """Writable memory of that many bytes; what is in it is arbitrary."""
        if not TAKEN_BYTES_MIN <= length <= self._size_bytes:
            return memoryview(bytearray(length))
        buffers = self._buffers
        for _ in range(len(buffers)):
            try:
                buffer, references = _look(buffers)
            except IndexError:
                break  # other threads look at them all right now
            if references == _FREE:
                view = memoryview(buffer)[:length]
                buffers.append(buffer)
                return view
            buffers.appendleft(buffer)
            del buffer
        if len(buffers) >= self._count_max:
            return memoryview(bytearray(length))
        buffer = self._make(self._size_bytes)
        view = memoryview(buffer)[:length]
        buffers.append(buffer)
        return view


BUFFERS = Buffers()
"""The pool of this process."""
