"""The client's end of a connection in an event loop: many calls under way at a time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Self

from google.protobuf.message import DecodeError

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import Method
from dataplatform.base.errors import Internal, Invalid, PlatformError, Unavailable
from dataplatform.base.limits import FRAME_BYTES_MAX

from . import handshakes, sockets
from .addresses import Address
from .frames import Data, Frame, FrameKind, encode
from .protocols import FrameProtocol

CALL_IDS = 2**32
Reply = tuple[Any, bytes | memoryview]


class _PendingCall(asyncio.Future[Reply]):
    """A reply to come. Cancelling it, as cancelling its awaiter does, tells the server."""

    __slots__ = ("call", "connection", "method")

    def __init__(self, connection: AsyncConnection, call: int, method: Method) -> None:
        super().__init__(loop=connection.loop)
        self.connection = connection
        self.call = call
        self.method = method

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self.connection.abandon(self.call)
        return cancelled

    def expire(self, timeout_s: float) -> None:
        if not self.done():
            self.connection.abandon(self.call)
            address, name = self.connection.address, self.method.name
            self.set_exception(handshakes.timed_out(address, name, timeout_s))


class AsyncConnection(FrameProtocol):
    """See `connections.Connection`. Belongs to the loop in which it was opened."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop, FRAME_BYTES_MAX)
        self.address = address
        self.welcome = pb.HelloReply()
        self._frame_bytes_max = FRAME_BYTES_MAX
        self._pending: dict[int, _PendingCall] = {}
        self._call = 0
        self._greeted: asyncio.Future[None] | None = loop.create_future()
        self._reason: BaseException | None = None
        self._lost: asyncio.Future[None] = loop.create_future()
        self._is_lost = False

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
        loop = asyncio.get_running_loop()
        connection = cls(address, loop)
        try:
            async with asyncio.timeout(timeout_s):
                await connection._connect(tls)
                await connection._shake_hands(hello)
        except BaseException as e:
            connection._abort()
            if isinstance(e, (OSError, PlatformError)):
                raise handshakes.not_connected(address, e) from e
            raise
        return connection

    async def _connect(self, tls: ssl.SSLContext | None) -> None:
        if self.address.is_unix:
            transport, _ = await self.loop.create_unix_connection(lambda: self, self.address.path)
            sockets.widen(transport.get_extra_info("socket"))
            return
        context = (tls or handshakes.default_tls()) if self.address.is_tls else None
        transport, _ = await self.loop.create_connection(
            lambda: self, self.address.host, self.address.port, ssl=context
        )
        sockets.notice_silence(transport.get_extra_info("socket"))

    async def _shake_hands(self, hello: pb.Hello | None) -> None:
        self.send(handshakes.encode_hello(hello))
        assert self._greeted is not None
        await self._greeted
        self._greeted = None
        self._frame_bytes_max = min(FRAME_BYTES_MAX, self.welcome.frame_bytes_max)

    # ------------------------------------------------------------ calls

    @property
    def closed(self) -> bool:
        return self._is_lost or self._transport is None or self._transport.is_closing()

    @property
    def calls_under_way(self) -> int:
        return len(self._pending)

    def start(self, method: Method, message: Any, data: Data = b"") -> Awaitable[Reply]:
        """Send now, await the reply later. See `connections.Connection.start`."""
        return self._start(method, message, data)

    def _start(self, method: Method, message: Any, data: Data) -> _PendingCall:
        if self.closed:
            raise handshakes.lost(self.address, self._reason)
        call = self._call = self._next_call()
        self.send(
            encode(
                FrameKind.REQUEST,
                method.number,
                call,
                message.SerializeToString(),
                data,
                frame_bytes_max=self._frame_bytes_max,
            )
        )
        pending = self._pending[call] = _PendingCall(self, call, method)
        return pending

    async def call(
        self, method: Method, message: Any, data: Data = b"", timeout_s: float | None = None
    ) -> Reply:
        """Send and wait. See `connections.Connection.call`."""
        if timeout_s is None:
            if not self.writable:
                await self.drain()
            return await self._start(method, message, data)
        deadline = self.loop.time() + timeout_s
        if not self.writable:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.drain(), timeout_s)
            if self.loop.time() >= deadline:
                raise handshakes.timed_out(self.address, method.name, timeout_s)
        pending = self._start(method, message, data)
        timer = self.loop.call_at(deadline, pending.expire, timeout_s)
        try:
            return await pending
        finally:
            timer.cancel()

    def abandon(self, call: int) -> None:
        """Nobody waits for this reply any more."""
        if self._pending.pop(call, None) is not None and not self.closed:
            self.send(encode(FrameKind.CANCEL, 0, call))

    def _next_call(self) -> int:
        call = (self._call + 1) % CALL_IDS or 1  # 0 is the connection itself
        while call in self._pending:
            call = (call + 1) % CALL_IDS or 1
        return call

    # ------------------------------------------------------------ replies

    def frames_received(self, frames: list[Frame]) -> None:
        pending_calls = self._pending
        for frame in frames:
            pending = pending_calls.pop(frame.call, None)
            if pending is not None and frame.kind == FrameKind.REPLY:
                try:
                    reply = pending.method.reply.FromString(frame.message)
                except DecodeError:
                    pending.set_exception(
                        Internal("reply cannot be decoded", method=pending.method.name)
                    )
                else:
                    pending.set_result((reply, frame.data))
            elif pending is not None and frame.kind == FrameKind.ERROR:
                pending.set_exception(handshakes.read_error(frame, self.address))
            elif frame.call == 0:
                self._connection_frame(frame)
            # Else it answers a call that was abandoned.

    def _connection_frame(self, frame: Frame) -> None:
        try:
            if self._greeted is None or self._greeted.done():
                raise handshakes.read_error(frame, self.address)
            self.welcome = handshakes.read_hello_reply(frame, self.address)
            self._greeted.set_result(None)
        except PlatformError as e:
            self._end(e)

    def refuse(self, error: Invalid) -> None:
        self._end(Unavailable("the server sent what is no frame", address=self.address))

    # ------------------------------------------------------------ the end

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is."""
        return self._lost

    def give_up(self) -> None:
        """End it now: calls under way fail with UNAVAILABLE. For a server that is silent."""
        self._end(Unavailable("the server is silent", address=self.address))

    async def close(self) -> None:
        if self._transport is None or self._is_lost:
            return
        self.flush(whole=True)
        self._reason = self._reason or Unavailable("connection closed", address=self.address)
        self._fail_all()
        self._transport.close()
        try:
            async with asyncio.timeout(1.0):
                await asyncio.shield(self._lost)
        except TimeoutError:
            self._transport.abort()  # the other side does not read what we still had to send

    def _end(self, reason: PlatformError) -> None:
        self._reason = self._reason or reason
        self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._fail_all()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._is_lost = True
        self._reason = self._reason or exc
        self._fail_all()
        if not self._lost.done():
            self._lost.set_result(None)

    def _fail_all(self) -> None:
        waiting: list[asyncio.Future[Any]] = [*self._pending.values()]
        self._pending.clear()
        why: Callable[[Address, BaseException | None], PlatformError] = handshakes.lost
        if self._greeted is not None:
            waiting.append(self._greeted)
            why = handshakes.lost_in_handshake
        for future in waiting:
            if not future.done():
                future.set_exception(why(self.address, self._reason))
                future.exception()  # whoever does not await it is not told again by the loop
