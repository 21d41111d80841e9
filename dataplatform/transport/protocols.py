"""What both ends of an asynchronous frame connection share: decoding, and writes that coalesce.

Frames that are sent during one turn of the loop leave in one write. When the other side stops
reading, `writable` turns false at the transport's high-water mark and `drain` waits.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

from dataplatform.base.errors import Invalid
from dataplatform.base.limits import KIB

from .frames import Bulk, Decoder, Frame, join

WRITE_BUFFER_BYTES_MAX = 512 * KIB
"""What a connection may hold for a reader that does not keep up, before its sender must wait."""

FLUSH_BYTES = 128 * KIB
"""Frames are handed to the socket once they amount to this, even within a turn of the loop."""


TLS_WRITE_BYTES = 128 * KIB
TLS_HELD_BYTES_MAX = 4096 * KIB
"""With TLS, large bytes are handed over in pieces of so much, one per turn of the loop: what is
encrypted leaves at the turn's end: each is on its way, and decrypted at the other end, while the
next one is encrypted. More than the second is handed over at once: its sender has to wait."""


class FrameProtocol(asyncio.BufferedProtocol):
    """Subclasses say what to do with frames (`frames_received`) and with garbage (`refuse`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, frame_bytes_max: int) -> None:
        self.loop = loop
        self.writable = True
        self.decoder = Decoder(frame_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._out: list[Bulk] = []
        self._out_bytes = 0
        self._flush_soon = False
        self._joins_lines = False
        self._is_tls = False
        self._rest_soon = False
        self._drained: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ for subclasses

    def frames_received(self, frames: list[Frame]) -> None:
        raise NotImplementedError

    def refuse(self, error: Invalid) -> None:
        """What came is not a frame; nothing after it can be understood."""
        raise NotImplementedError

    # ------------------------------------------------------------ reading

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has no such base class
        # Before 3.12 asyncio's own transports copy the lines together, and then what the socket
        # does not take at once; of a view they copy only the latter.
        self._joins_lines = sys.version_info < (3, 12) and isinstance(transport, asyncio.Transport)
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            frames = self.decoder.received(nbytes)
        except Invalid as e:
            self.refuse(e)
            return
        if frames:
            scheduled = self.begin_turn()
            self.frames_received(frames)
            self.end_turn(scheduled)
        if self.decoder.error is not None:
            self.refuse(self.decoder.error)

    # ------------------------------------------------------------ writing

    def send(self, buffers: list[Bulk]) -> None:
        """Send at the end of this turn of the loop, in the order of the calls."""
        self._out += buffers
        self._out_bytes += len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        if self._out_bytes >= FLUSH_BYTES:
            self.flush()
        elif not self._flush_soon:
            self._flush_soon = True
            self.loop.call_soon(self._flush_now)

    def begin_turn(self) -> bool:
        """Until `end_turn`, which gets what this returns, nothing is scheduled: what is sent leaves
        then, without another turn of the loop."""
        scheduled, self._flush_soon = self._flush_soon, True
        return scheduled

    def end_turn(self, scheduled: bool) -> None:
        self._flush_soon = scheduled
        self.flush()

    def flush(self, *, whole: bool = False) -> None:
        """Hand everything to the socket now; with TLS a first piece of what is large, the rest
        of it in the next turns, unless it is to be the `whole`."""
        if not self._out:
            return
        out, out_bytes, self._out, self._out_bytes = self._out, self._out_bytes, [], 0
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_tls and TLS_WRITE_BYTES < out_bytes <= TLS_HELD_BYTES_MAX and not whole:
            out, self._out = _cut(out, TLS_WRITE_BYTES)
            self._out_bytes = out_bytes - TLS_WRITE_BYTES
            if not self._rest_soon:
                self._rest_soon = True
                self.loop.call_soon(self._flush_rest)
        out = join(out)
        if len(out) == 1:
            self._transport.write(out[0])
        else:
            self._write_lines(self._transport, out)

    def _flush_rest(self) -> None:
        self._rest_soon = False
        self.flush()

    def _write_lines(self, transport: asyncio.Transport, buffers: list[Bulk]) -> None:
        if self._joins_lines:
            for buffer in buffers:
                transport.write(memoryview(buffer))
        else:
            transport.writelines(buffers)

    def _flush_now(self) -> None:
        self._flush_soon = False
        self.flush()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._wake()

    async def drain(self) -> None:
        """Wait until the socket takes more, or the connection is gone."""
        while not self.writable:
            if self._drained is None:
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def connection_lost(self, exc: Exception | None) -> None:
        self.writable = True
        self._wake()
        self._out.clear()

    def _wake(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None


def _cut(buffers: list[Bulk], size_bytes: int) -> tuple[list[Bulk], list[Bulk]]:
    """The first so many bytes of the buffers, and the rest."""
    first: list[Bulk] = []
    for index, buffer in enumerate(buffers):
        if len(buffer) > size_bytes:
            view = memoryview(buffer)
            if size_bytes:
                first.append(view[:size_bytes])
            return first, [view[size_bytes:], *buffers[index + 1 :]]
        first.append(buffer)
        size_bytes -= len(buffer)
    return first, []
