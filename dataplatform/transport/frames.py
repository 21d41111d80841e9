"""The frame codec, without any I/O: bytes in, frames out, and back.

A frame is a fixed header, little-endian, then the message, then bulk bytes:

    u32 frame_length     of the whole frame, header included
    u8  kind             HELLO, HELLO_REPLY, REQUEST, REPLY, ERROR, CANCEL
    u8  flags            none yet: 0, anything else is refused
    u16 method           number of the method; 0 in frames that belong to no method
    u32 call             chosen by the client, unique among its calls under way; 0: the connection
    u32 message_length   what follows the message, up to frame_length, is bulk

Bulk bytes are never copied while encoding, and at most once while decoding: a frame that is larger
than the read buffer gets a buffer of its own, which the socket fills and the frame then keeps.

Invariants: the decoder holds at most its read buffer plus one frame of `frame_bytes_max`; that
frame's buffer is allocated only when its bytes are about to be read (`buffer`), so that a server
can refuse or delay it; after an error the decoder stays in error.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from dataplatform.base.buffers import BUFFERS
from dataplatform.base.errors import Exhausted, Invalid
from dataplatform.base.limits import FRAME_BYTES_MAX, KIB

Bulk = bytes | bytearray | memoryview
Data = Bulk | Sequence[Bulk]

PROTOCOL = 1
HEADER = struct.Struct("<IBBHII")  # on the wire: must not change within a protocol version
HEADER_BYTES = HEADER.size

READ_BUFFER_BYTES_MIN = 8 * KIB
READ_BUFFER_BYTES_MAX = 64 * KIB
"""The read buffer starts small (a thousand idle connections) and doubles while chunks fill it."""

JOIN_BYTES_MAX = 16 * KIB
"""Smaller buffers are joined before a write: copying them costs less than handing them over."""


class FrameKind(enum.IntEnum):
    """Values are on the wire."""

    HELLO = 1
    HELLO_REPLY = 2
    REQUEST = 3
    REPLY = 4
    ERROR = 5  # an ErrorInfo; for call 0 the connection is closed after it
    CANCEL = 6  # the client no longer wants the reply


_KIND_FIRST, _KIND_LAST = min(FrameKind), max(FrameKind)


class Frame(NamedTuple):
    kind: int
    method: int
    call: int
    message: bytes
    data: bytes | memoryview


def encode(
    kind: int,
    method: int,
    call: int,
    message: bytes = b"",
    data: Data = b"",
    *,
    frame_bytes_max: int = FRAME_BYTES_MAX,
) -> list[Bulk]:
    """The buffers of one frame; bulk bytes are among them as they are.

    Raises EXHAUSTED when the frame would be larger than `frame_bytes_max`.
    """
    parts: list[Bulk] = []
    length = HEADER_BYTES + len(message)
    if data:
        for part in (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data:
            if isinstance(part, memoryview):
                part = part if part.nbytes == len(part) else part.cast("B")
            if part:
                length += len(part)
                parts.append(part)
    if length > frame_bytes_max:
        raise Exhausted(
            "too large for one frame: send or ask for less at a time",
            size_bytes=length,
            limit_bytes=frame_bytes_max,
        )
    parts.insert(0, HEADER.pack(length, kind, 0, method, call, len(message)) + message)
    return parts


def join(buffers: list[Bulk]) -> list[Bulk]:
    """The same bytes in fewer buffers: neighbours up to JOIN_BYTES_MAX become one."""
    if len(buffers) == 1:
        return buffers
    joined: list[Bulk] = []
    run: list[Bulk] = []
    for buffer in buffers:
        if len(buffer) <= JOIN_BYTES_MAX:
            run.append(buffer)
            continue
        if run:
            joined.append(b"".join(run))
            run = []
        joined.append(buffer)
    if run:
        joined.append(b"".join(run) if len(run) > 1 else run[0])
    return joined


class Decoder:
    """Write what was read into `buffer()`, say how much with `received(count)`, get the frames."""

    __slots__ = ("_buffer", "_end", "_error", "_large", "_large_bytes", "_max", "_start", "_view")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._max = frame_bytes_max
        self._buffer = bytearray(READ_BUFFER_BYTES_MIN)
        self._view = memoryview(self._buffer)
        self._start = 0  # of what is not yet decoded in the read buffer
        self._end = 0  # of what was received: into `_large` if there is one, else `_view`
        self._large: memoryview | None = None
        self._large_bytes = 0
        self._error: Invalid | None = None

    @property
    def large_bytes(self) -> int:
        """The size of the frame under way that has, or will get, a buffer of its own; else 0."""
        return self._large_bytes

    @property
    def large_received_bytes(self) -> int:
        """How much of the frame under way with `large_bytes` is there."""
        return self._end - self._start if self._large_bytes else 0

    @property
    def is_partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._large_bytes > 0 or self._end > self._start

    def limit(self, frame_bytes_max: int) -> None:
        """Accept frames up to this size from now on."""
        self._max = frame_bytes_max

    def buffer(self) -> memoryview:
        """Where the next bytes go: never empty, valid until `received`."""
        if self._large_bytes:
            if self._large is None:
                self._begin_large()
            assert self._large is not None
            return self._large[self._end :]
        return self._view[self._end :]

    def feed(self, chunk: Bulk) -> list[Frame]:
        """As `buffer` and `received`, for bytes that are in memory already (one copy more)."""
        frames: list[Frame] = []
        view = memoryview(chunk)
        while view:
            buffer = self.buffer()
            count = min(len(buffer), len(view))
            buffer[:count] = view[:count]
            view = view[count:]
            frames += self.received(count)
        return frames

    def received(self, count: int) -> list[Frame]:
        """The frames that `count` more bytes complete. Raises INVALID for what is no frame."""
        if self._error is not None:
            raise self._error
        self._end += count
        if self._large is not None:
            return self._end_large() if self._end == self._large_bytes else []
        frames: list[Frame] = []
        try:
            self._decode(frames)
        except Invalid as e:
            # Those before it are whole; the error comes with the next call.
            self._error = e
            if not frames:
                raise
        return frames

    @property
    def error(self) -> Invalid | None:
        """Why nothing more can be decoded, if so."""
        return self._error

    def _decode(self, frames: list[Frame]) -> None:
        view, start, end, unpack = self._view, self._start, self._end, HEADER.unpack_from
        filled = end == len(view)
        try:
            while end - start >= HEADER_BYTES:
                length, kind, flags, method, call, message_length = unpack(view, start)
                if (
                    flags
                    or not _KIND_FIRST <= kind <= _KIND_LAST
                    or not message_length + HEADER_BYTES <= length <= self._max
                ):
                    raise self._refusal(length, kind, flags, message_length)
                if end - start < length:
                    if length > len(view):
                        self._large_bytes = length
                    break
                bulk = start + HEADER_BYTES + message_length
                message = view[start + HEADER_BYTES : bulk].tobytes()
                start += length
                data = view[bulk:start].tobytes() if bulk != start else b""
                frames.append(Frame(kind, method, call, message, data))
        finally:
            self._start = start
        self._make_room(filled)

    def _make_room(self, filled: bool) -> None:
        """Move what is left to the front; a buffer that was filled to the end is too small."""
        start, end = self._start, self._end
        if self._large_bytes:
            return  # the next buffer() moves it
        if filled and len(self._view) < READ_BUFFER_BYTES_MAX:
            rest = self._view[start:end]
            self._buffer = bytearray(2 * len(self._view))
            self._view = memoryview(self._buffer)
            self._view[: len(rest)] = rest
        elif start and start != end:
            self._view[: end - start] = self._view[start:end]
        self._start, self._end = 0, end - start

    def _begin_large(self) -> None:
        rest = self._view[self._start : self._end]
        self._large = BUFFERS.take(self._large_bytes)
        self._large[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _end_large(self) -> list[Frame]:
        large = self._large
        assert large is not None
        self._large, self._large_bytes, self._end = None, 0, 0
        _, kind, _, method, call, message_length = HEADER.unpack_from(large)
        bulk = HEADER_BYTES + message_length
        return [Frame(kind, method, call, large[HEADER_BYTES:bulk].tobytes(), large[bulk:])]

    def _refusal(self, length: int, kind: int, flags: int, message_length: int) -> Invalid:
        if length > self._max:
            return Invalid("frame too large", size_bytes=length, limit_bytes=self._max)
        return Invalid(
            "not a frame: does the other side speak this protocol?",
            frame_length=length,
            kind=kind,
            flags=flags,
            message_length=message_length,
        )
