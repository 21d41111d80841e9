"""What the kernel is told of its own caches.

Attributes are dropped at once: that takes no lock. Dropping a name takes its directory's lock, and
dropping pages waits for those that are being read, so both may wait for a request that waits for
us: they are done by a thread. When that takes too long for whoever waits for it, all names are made
to be looked up again instead (`epoch`), which takes no lock either, where the kernel can (6.16).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from . import kernel
from .device import Device

ALL = 0
"""Offset and length of a whole file."""


class Notices:
    """Tells the kernel. `pages_done(number)` is called when a node's pages were dropped."""

    def __init__(self, device: Device, minor: int) -> None:
        self._device = device
        self.has_epoch = minor >= kernel.INC_EPOCH_MINOR
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], object], Callable[[], object]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
        self._thread.start()
        self.pages_begun: Callable[[int], object] = lambda number: None
        self.pages_done: Callable[[int], object] = lambda number: None

    # ---- at once

    def attributes_changed(self, number: int) -> None:
        body = kernel.INVAL_INODE_OUT.pack(number, -1, 0)
        self._device.notify(kernel.NOTIFY_INVAL_INODE, body)

    def epoch(self) -> None:
        """Every name is to be looked up again."""
        if self.has_epoch:
            self._device.notify(kernel.NOTIFY_INC_EPOCH, b"")

    # ---- soon

    def pages_changed(self, number: int) -> None:
        self.pages_begun(number)
        body = kernel.INVAL_INODE_OUT.pack(number, ALL, ALL)
        self._later(
            lambda: self._device.notify(kernel.NOTIFY_INVAL_INODE, body),
            lambda: self.pages_done(number),
        )

    def name_changed(self, directory: int, name: bytes) -> None:
        body = kernel.INVAL_ENTRY_OUT.pack(directory, len(name), 0) + name + b"\x00"
        self._later(lambda: self._device.notify(kernel.NOTIFY_INVAL_ENTRY, body), lambda: None)

    def _later(self, work: Callable[[], object], done: Callable[[], object]) -> None:
        self._queue.put((work, done))

    async def settled(self, timeout_s: float) -> bool:
        """Whether everything told so far is done, waiting up to so long for it."""
        done = self._loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        self._later(lambda: None, finish)
        finished, _ = await asyncio.wait([done], timeout=timeout_s)
        return bool(finished)

    def close(self) -> None:
        self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            work, done = item
            work()
            try:
                self._loop.call_soon_threadsafe(done)
            except RuntimeError:
                return  # the loop is closed
