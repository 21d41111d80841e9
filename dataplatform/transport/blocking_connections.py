"""The client's end of a connection without an event loop: `async def` that never suspends.

A synchronous caller drives `call(…)` with one `send(None)`: the lowest latency there is, since
between the request's `send` and the reply's `recv` nothing else runs. Use one connection per
thread: whoever waits for a reply holds the connection.

Requests go out without waiting for room in the socket; when there is none, replies are read in the
meantime. So a caller may start any number of calls before it awaits the first: the server, which
works on a bounded number of them, cannot get stuck writing replies that nobody reads.
"""

from __future__ import annotations

import collections
import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Generator
from typing import Any, Self

from google.protobuf.message import DecodeError

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import Method
from dataplatform.base.errors import Internal, Invalid, PlatformError, Unavailable
from dataplatform.base.limits import FRAME_BYTES_MAX

from . import handshakes, sockets
from .addresses import Address
from .frames import Bulk, Data, Decoder, Frame, FrameKind, encode, join

CALL_IDS = 2**32
SEND_STALL_S = 60.0
"""A server that reads nothing for so long is as good as gone."""

SEND_BUFFERS_MAX = 512  # of one sendmsg; IOV_MAX is 1024
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Reply = tuple[Any, bytes | memoryview]


class _TimedOut(Exception):
    """The deadline came before the bytes."""


class _PendingCall:
    """A reply to come; awaiting it reads the socket. Dropping it forgets the call."""

    __slots__ = ("_call", "_connection")

    def __init__(self, connection: BlockingConnection, call: int) -> None:
        self._connection = connection
        self._call = call

    def __await__(self) -> Generator[Any, None, Reply]:
        call, self._call = self._call, 0
        return self._connection.receive(call, None)
        yield  # a generator, as __await__ must return one; it never gets here

    def __del__(self) -> None:
        if self._call:
            self._connection.dropped.append(self._call)


class BlockingConnection:
    """See `connections.Connection`."""

    def __init__(self, address: Address, stream: socket.socket) -> None:
        self.address = address
        self.welcome = pb.HelloReply()
        self._socket = stream
        self._is_tls = isinstance(stream, ssl.SSLSocket)
        self._tls_timeout_s: float | None = 0.0  # as the socket has it
        self._receive_timeout_s = 0.0  # as SO_RCVTIMEO has it; 0: none
        self._decoder = Decoder(FRAME_BYTES_MAX)
        self._frame_bytes_max = FRAME_BYTES_MAX
        self._methods: dict[int, Method] = {}  # of the calls whose reply has not arrived
        self._arrived: dict[int, Reply | PlatformError] = {}
        self.dropped: collections.deque[int] = collections.deque()
        """Calls whose awaitable is gone. The garbage collector adds to it, hence no lock."""
        self._call = 0
        self._greeting: Frame | None = None
        self._reason: BaseException | None = None
        self._is_closed = False
        self._lock = threading.RLock()

    @classmethod
    async def open(
        cls,
        address: Address,
        hello: pb.Hello | None = None,
        *,
        timeout_s: float = handshakes.CONNECT_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Connect and shake hands. Raises UNAVAILABLE, or what the server refused with."""
        handshakes.check_frames_address(address)
        deadline = time.monotonic() + timeout_s
        try:
            connection = cls(address, _connect(address, timeout_s, tls))
        except OSError as e:
            raise handshakes.not_connected(address, e) from e
        try:
            connection._shake_hands(hello, deadline)
        except BaseException as e:
            await connection.close()
            if isinstance(e, _TimedOut):
                raise handshakes.not_connected(address, TimeoutError()) from None
            if isinstance(e, Unavailable) and address.is_tls and connection._greeting is None:
                raise handshakes.lost_in_handshake(address) from e
            raise
        return connection

    def _shake_hands(self, hello: pb.Hello | None, deadline: float) -> None:
        self._send(handshakes.encode_hello(hello), deadline)
        while self._greeting is None:
            self._read(deadline)
        self.welcome = handshakes.read_hello_reply(self._greeting, self.address)
        self._frame_bytes_max = min(FRAME_BYTES_MAX, self.welcome.frame_bytes_max)

    # ------------------------------------------------------------ calls

    @property
    def closed(self) -> bool:
        return self._is_closed

    @property
    def calls_under_way(self) -> int:
        return len(self._methods)

    def start(self, method: Method, message: Any, data: Data = b"") -> Awaitable[Reply]:
        """Send now, await the reply later. See `connections.Connection.start`."""
        return _PendingCall(self, self._start(method, message, data, None))

    async def call(
        self, method: Method, message: Any, data: Data = b"", timeout_s: float | None = None
    ) -> Reply:
        """Send and wait. See `connections.Connection.call`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._lock:
            call = 0
            try:
                call = self._start(method, message, data, deadline)
                return self.receive(call, deadline)
            except _TimedOut:
                self.forget(call)
                assert timeout_s is not None
                raise handshakes.timed_out(self.address, method.name, timeout_s) from None

    async def drain(self) -> None:
        """Nothing to wait for: `start` returns when the socket has taken the request."""

    def _start(self, method: Method, message: Any, data: Data, deadline: float | None) -> int:
        with self._lock:
            if self._is_closed:
                raise handshakes.lost(self.address, self._reason)
            while self.dropped:
                self.forget(self.dropped.popleft())
            call = self._call = self._next_call()
            buffers = encode(
                FrameKind.REQUEST,
                method.number,
                call,
                message.SerializeToString(),
                data,
                frame_bytes_max=self._frame_bytes_max,
            )
            self._methods[call] = method
            self._send(buffers, deadline)
            return call

    def receive(self, call: int, deadline: float | None) -> Reply:
        """Read replies until that of `call` is there; others are kept for their callers."""
        with self._lock:
            while call not in self._arrived:
                if call not in self._methods or self._is_closed:
                    raise handshakes.lost(self.address, self._reason)
                self._read(deadline)
            outcome = self._arrived.pop(call)
        if isinstance(outcome, PlatformError):
            raise outcome
        return outcome

    def forget(self, call: int) -> None:
        """Nobody waits for this reply any more."""
        with self._lock:
            self._arrived.pop(call, None)
            if self._methods.pop(call, None) is not None and not self._is_closed:
                self._send(encode(FrameKind.CANCEL, 0, call), None)

    def _next_call(self) -> int:
        call = (self._call + 1) % CALL_IDS or 1  # 0 is the connection itself
        while call in self._methods or call in self._arrived:
            call = (call + 1) % CALL_IDS or 1
        return call

    # ------------------------------------------------------------ the socket

    def _send(self, buffers: list[Bulk], deadline: float | None) -> None:
        """All of it, or the connection is lost: half a frame cannot be taken back."""
        rest = join(buffers)
        if deadline is None:
            deadline = time.monotonic() + SEND_STALL_S
        try:
            while rest:
                try:
                    sent = self._send_some(rest)
                except _WOULD_BLOCK:
                    self._read_while_full(deadline)
                else:
                    rest = _without(rest, sent)
        except _TimedOut:
            error = Unavailable("the server does not take the request", address=self.address)
            self._end(error)
            raise error from None
        except BaseException as e:
            raise self._ended(e) from e

    def _send_some(self, buffers: list[Bulk]) -> int:
        if self._is_tls:
            self._set_tls_timeout(0.0)
            return self._socket.send(buffers[0])
        if len(buffers) == 1:
            return self._socket.send(buffers[0], socket.MSG_DONTWAIT)
        return self._socket.sendmsg(buffers[:SEND_BUFFERS_MAX], (), socket.MSG_DONTWAIT)

    def _read_while_full(self, deadline: float) -> None:
        if self._wait(select.POLLIN | select.POLLOUT, deadline) & select.POLLIN:
            self._read(deadline)

    def _read(self, deadline: float | None) -> None:
        """Read once. Anything but a timeout ends the connection: bytes may be half taken."""
        try:
            count = self._receive_some(deadline)
            if count == 0:
                raise Unavailable("connection lost: closed by the server", address=self.address)
            for frame in self._decoder.received(count):
                self._arrive(frame)
        except _TimedOut:
            raise
        except Invalid as e:
            raise self._ended(Unavailable("the server sent what is no frame")) from e
        except BaseException as e:
            raise self._ended(e) from e

    def _receive_some(self, deadline: float | None) -> int:
        if self._is_tls:
            return self._receive_tls(deadline)
        while True:
            self._limit_receive(deadline)
            try:
                return self._receive_into(self._decoder.buffer())
            except _WOULD_BLOCK:
                pass

    def _receive_tls(self, deadline: float | None) -> int:
        """A read gives a record, 16 KiB at most; of a large frame all that is wanted is on its way,
        so it is read record after record. The ssl module does the waiting, which is cheaper."""
        timeout_s = None
        if deadline is not None and (timeout_s := deadline - time.monotonic()) <= 0:
            raise _TimedOut
        self._set_tls_timeout(timeout_s)
        buffer = self._decoder.buffer()
        is_large = self._decoder.large_bytes > 0
        stream = self._socket
        received = 0
        try:
            received = count = stream.recv_into(buffer)
            while is_large and count and received < len(buffer):
                received += (count := stream.recv_into(buffer[received:]))
                if deadline is not None and time.monotonic() > deadline:
                    break
        except TimeoutError:
            if not received:
                raise _TimedOut from None
        return received

    def _set_tls_timeout(self, timeout_s: float | None) -> None:
        if timeout_s != self._tls_timeout_s:
            self._tls_timeout_s = timeout_s
            self._socket.settimeout(timeout_s)

    def _receive_into(self, buffer: memoryview) -> int:
        if self._decoder.large_bytes:
            # All that is wanted is on its way: let the kernel wait for it.
            return self._socket.recv_into(buffer, 0, socket.MSG_WAITALL)
        return self._socket.recv_into(buffer)

    def _limit_receive(self, deadline: float | None) -> None:
        """Let a blocking recv wake up in time.

        Cheaper than a poll before each recv: the kernel's own timeout is changed only when it is
        too long, and it is chosen shorter than needed so that the next call finds it short enough.
        """
        if deadline is None:
            return  # a wake-up for nothing does no harm
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise _TimedOut
        if not 0 < self._receive_timeout_s <= left_s:
            timeout_s = self._receive_timeout_s = min(max(left_s / 2, 0.001), 1.0)
            whole, rest = divmod(int(timeout_s * 1e6), 1_000_000)
            value = struct.pack("@ll", whole, rest)  # struct timeval
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def _wait(self, events: int, deadline: float | None) -> int:
        poll = select.poll()
        poll.register(self._socket, events)
        wait_ms = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
        ready = poll.poll(wait_ms)
        if not ready:
            raise _TimedOut
        return ready[0][1]

    # ------------------------------------------------------------ replies

    def _arrive(self, frame: Frame) -> None:
        method = self._methods.pop(frame.call, None)
        if method is not None:
            self._arrived[frame.call] = self._outcome(frame, method)
        elif frame.call == 0:
            if self.welcome.protocol or self._greeting is not None:
                raise handshakes.read_error(frame, self.address)
            self._greeting = frame
        # Else it answers a call that was forgotten.

    def _outcome(self, frame: Frame, method: Method) -> Reply | PlatformError:
        if frame.kind != FrameKind.REPLY:
            return handshakes.read_error(frame, self.address)
        try:
            return method.reply.FromString(frame.message), frame.data
        except DecodeError:
            return Internal("reply cannot be decoded", method=method.name)

    # ------------------------------------------------------------ the end

    def _ended(self, reason: BaseException) -> BaseException:
        """Close because of `reason`; what to raise for it."""
        self._end(reason)
        if isinstance(reason, OSError) and not isinstance(reason, PlatformError):
            return handshakes.lost(self.address, reason)
        return reason

    async def close(self) -> None:
        self._end(Unavailable("connection closed", address=self.address))

    def _end(self, reason: BaseException) -> None:
        # Without the lock: a thread may hold it while it waits, and this is what wakes it.
        if not self._is_closed:
            self._is_closed = True
            self._reason = reason
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()


def _connect(address: Address, timeout_s: float, tls: ssl.SSLContext | None) -> socket.socket:
    if address.is_unix:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(timeout_s)
            stream.connect(address.path)
            sockets.widen(stream)
            stream.settimeout(None)
        except BaseException:
            stream.close()
            raise
        return stream
    stream = socket.create_connection((address.host, address.port), timeout_s)
    try:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.notice_silence(stream)
        if address.is_tls:
            context = tls or handshakes.default_tls()
            stream = context.wrap_socket(stream, server_hostname=address.host)
        stream.settimeout(0 if address.is_tls else None)
    except BaseException:
        stream.close()
        raise
    return stream


def _without(buffers: list[Bulk], sent: int) -> list[Bulk]:
    """What is left of the buffers after the first `sent` bytes."""
    index = 0
    while index < len(buffers) and sent >= len(buffers[index]):
        sent -= len(buffers[index])
        index += 1
    rest = buffers[index:]
    if rest and sent:
        rest[0] = memoryview(rest[0])[sent:]
    return rest
