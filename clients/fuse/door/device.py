"""The descriptor of `/dev/fuse`: requests out of it, replies and notices into it.

One request is read per turn of the loop; large writes keep the memory that they were read to, so
their bytes are copied once, by the kernel (see `areas`). Whatever a handler raises becomes an
errno: nothing but the end of the file system ends the reading.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence

from dataplatform.base.limits import KIB
from dataplatform.transport.connections import Bulk

from ..areas import Areas
from . import kernel

logger = logging.getLogger(__name__)

KEPT_BYTES_MIN = 32 * KIB
"""A write of so much keeps its buffer; less is copied out of it."""

PARTS_MAX = os.sysconf("SC_IOV_MAX")
"""Of one reply, its head among them."""

_ENDED = (errno.ENODEV, errno.ECONNABORTED)
_AGAIN = (errno.EAGAIN, errno.EINTR, errno.ENOENT)
"""ENOENT: the request was interrupted before it could be read."""


class Device:
    """`handle(view, length)` gets each request; its view is valid until it returns, unless it calls
    `keep_buffer`. `ended` is done when the file system was unmounted."""

    def __init__(
        self, descriptor: int, handle: Callable[[memoryview, int], None], areas: Areas
    ) -> None:
        self._descriptor = descriptor
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._areas = areas
        self._is_kept = False
        self._is_reading = False
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        os.set_blocking(self._descriptor, False)
        self._loop.add_reader(self._descriptor, self._readable)
        self._is_reading = True

    def stop(self) -> None:
        """Read no further request."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._descriptor)

    def keep_buffer(self) -> None:
        """Somebody keeps a view of what was read: the next request goes into another buffer."""
        self._is_kept = True

    def _readable(self) -> None:
        try:
            view = self._areas.view
            length = os.readv(self._descriptor, (view,))
        except OSError as error:
            if error.errno not in _AGAIN:
                self._end(error)
            return
        if not length:
            self._end(OSError(errno.ENODEV, "end of file"))
            return
        try:
            self._handle(view, length)
        except Exception:
            logger.exception("a request could not be begun")
        if self._is_kept:
            self._is_kept = False
            self._areas.keep(length)

    def _end(self, error: OSError) -> None:
        self.stop()
        if error.errno not in _ENDED:
            logger.error("the kernel's connection failed. reason=`%s`", error)
        if not self.ended.done():
            self.ended.set_result(None)

    # ---- writing

    def reply(self, unique: int, body: bytes) -> None:
        """It went well."""
        length = kernel.OUT_HEADER.size + len(body)
        self._write(kernel.OUT_HEADER.pack(length, 0, unique) + body, unique)

    def reply_bulk(self, unique: int, parts: Sequence[Bulk]) -> None:
        """It went well, and these are the bytes."""
        length = kernel.OUT_HEADER.size + sum(map(len, parts))
        if len(parts) >= PARTS_MAX:
            parts = [b"".join(parts)]
        try:
            os.writev(self._descriptor, [kernel.OUT_HEADER.pack(length, 0, unique), *parts])
        except OSError as error:
            self._not_taken(error, unique)

    def refuse(self, unique: int, error: int) -> None:
        self._write(kernel.OUT_HEADER.pack(kernel.OUT_HEADER.size, -error, unique))

    def _write(self, data: bytes, unique: int = 0) -> None:
        try:
            os.write(self._descriptor, data)
        except OSError as error:
            self._not_taken(error, unique)

    def _not_taken(self, error: OSError, unique: int) -> None:
        """`unique`: of a reply that went well here; a program waits for it, so it gets an error."""
        if error.errno in _ENDED or error.errno == errno.EPERM:
            return  # unmounted meanwhile
        if error.errno != errno.ENOENT:  # the program was killed while it waited
            logger.error("the kernel did not take a reply. reason=`%s`", error)
            if unique:
                self.refuse(unique, errno.EIO)

    def notify(self, code: int, body: bytes) -> int:
        """Tell the kernel something of our own accord; its errno, 0 if it went well. May wait for
        locks of the kernel's, so most of it is not for the loop's thread: see `notices`."""
        length = kernel.OUT_HEADER.size + len(body)
        try:
            os.write(self._descriptor, kernel.OUT_HEADER.pack(length, code, 0) + body)
        except OSError as error:
            return error.errno or errno.EIO
        return 0
