"""One client's connection, seen from the server: frames in, requests begun, replies out.

Reading stops exactly while there is something to catch up on: requests that wait (some more are
looked at while it is their own connection's requests that they wait for), replies that the peer
does not read, or a large frame that there is no room for. A large frame (one with a buffer of
its own) is let in only when its request could begin at once, so that it never waits for memory
while it holds some; once let in, it must keep arriving at `bytes_per_s_min`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS_BY_NUMBER, Method
from dataplatform.base.errors import Exhausted, Internal, Invalid, PlatformError, Unavailable
from dataplatform.base.limits import KIB

from . import costs, sockets, tls
from .errors import to_info
from .frames import PROTOCOL, Bulk, Frame, FrameKind, encode
from .protocols import FrameProtocol
from .turns import Work, weight_of
from .watches import Watch

if TYPE_CHECKING:
    from .serving import FrameServer

logger = logging.getLogger(__name__)

URGENT_MAX = 8
"""Urgent requests of a connection beyond what it may have under way."""

WAITING_BYTES_MAX = 64 * KIB
"""Requests that wait while it is looked for urgent ones behind them: as much as one read brings."""


class _Running:
    """A request whose handler waits for something, or that is gathered with others: no task."""

    __slots__ = ("cost_bytes", "is_unwanted", "method", "task", "work")

    def __init__(self, task: asyncio.Task[None] | None, method: Method, cost_bytes: int) -> None:
        self.task = task
        self.method = method
        self.cost_bytes = cost_bytes
        self.is_unwanted = False
        self.work: Work | None = None  # under way in its group, if there is contention


class ServerConnection(FrameProtocol):
    """One client. `session` is whatever `welcome` left there."""

    def __init__(self, server: FrameServer) -> None:
        super().__init__(server.loop, server.limits.hello_bytes_max)
        self.server = server
        self.session: Any = None
        self.peer = ""
        self.peer_uid: int | None = None
        self.peer_pid = 0
        self.certificate_user = ""
        """Whom the peer's verified certificate names; "" without one."""
        self.is_closed_by_peer = False
        """It was the peer that ended the connection, not we, and not the silence of the network."""
        self._limits = server.limits
        self._is_welcome = False
        self._is_ending = False
        self._is_reading = True
        self._waiting: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._running: dict[int, _Running] = {}
        self._charged_bytes = 0
        self._large_bytes = 0  # charged for the frame that is arriving
        self._unsent_bytes = 0  # charged for replies that the peer does not read
        self._written_bytes = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._greeting: asyncio.Task[None] | None = None

    @property
    def requests_under_way(self) -> int:
        return len(self._running)

    @property
    def charged_bytes(self) -> int:
        return self._charged_bytes

    # ------------------------------------------------------------ coming and going

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.peer, self.peer_uid, self.peer_pid = sockets.peer_of(transport)
        self.certificate_user = tls.user_of(transport.get_extra_info("peercert"))
        stream = transport.get_extra_info("socket")
        if stream is not None:
            sockets.notice_silence(stream)
        self.server.connections.add(self)
        if self.server.is_stopping:
            self.refuse(_stopping())
        elif len(self.server.connections) > self._limits.connections_max:
            self.refuse(
                Exhausted("too many connections", limit_connections=self._limits.connections_max)
            )
        else:
            self._later("handshake", self._limits.handshake_s, self._handshake_late)

    def _handshake_late(self) -> None:
        self.refuse(Invalid("no Hello in time", timeout_s=self._limits.handshake_s))

    def eof_received(self) -> None:
        if not self._is_ending:
            self.is_closed_by_peer = True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if isinstance(exc, (ConnectionResetError, BrokenPipeError)):
            self.is_closed_by_peer = True
        self._is_ending = True
        for name in list(self._timers):
            self._timers.pop(name).cancel()
        self._waiting.clear()
        self.server.turns.forget(self)
        self.server.budget.forget(self._work)
        self.server.arriving.forget(self._work)
        self._release(self._charged_bytes - sum(r.cost_bytes for r in self._running.values()))
        self.server.arriving.release(self._large_bytes)
        self._large_bytes = self._unsent_bytes = 0
        for running in self._running.values():
            self._drop(running)
        if self._greeting is not None:
            self._greeting.cancel()
        self.server.connections.discard(self)
        self.server.changed()
        if self._is_welcome and self.server.farewell is not None:
            self.server.farewell(self)

    def refuse(self, error: PlatformError) -> None:
        """Say why, then close."""
        if self._is_ending:
            return
        logger.info("connection refused. peer=`%s`, reason=`%s`", self.peer, error)
        self.send(encode(FrameKind.ERROR, 0, 0, to_info(error).SerializeToString()))
        self.end()

    def stop(self) -> None:
        """The server is about to close: end what only reads, let writes finish."""
        for running in self._running.values():
            if running.method.read_only and running.task is not None:
                running.task.cancel()

    def end(self) -> None:
        """Close once what was written is sent; a peer that does not read it is cut off."""
        self._is_ending = True
        self._waiting.clear()
        self.flush(whole=True)
        if self._transport is not None:
            self._transport.close()
            self._later("end", self._limits.handshake_s, self.abort)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _later(self, name: str, delay_s: float, callback: Callable[[], None]) -> None:
        self._cancel_timer(name)
        self._timers[name] = self.loop.call_later(delay_s, callback)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # ------------------------------------------------------------ frames

    def frames_received(self, frames: list[Frame]) -> None:
        if self._is_ending:
            return
        for frame in frames:
            if frame.kind == FrameKind.REQUEST:
                if (not self._waiting and self._may_begin(frame)) or self._is_urgent(frame):
                    self._begin_in_turn(frame)
                else:
                    self._waiting.append(frame)
                    self._waiting_bytes += costs.frame_bytes(frame)
            elif frame.kind == FrameKind.CANCEL:
                self._cancel(frame.call)
            elif frame.kind == FrameKind.HELLO and self._greeting is None:
                self._greeting = self.loop.create_task(self._greet(frame))
            else:
                self.refuse(Invalid("unexpected frame", kind=frame.kind))
                return
        self._pace()

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        if self.decoder.large_bytes != self._large_bytes:
            self._pace()

    def _may_begin(self, frame: Frame) -> bool:
        if (
            not self._is_welcome
            or not self.writable
            or len(self._running) >= self._limits.requests_max
        ):
            return False
        turns = self.server.turns
        if turns.is_contended:
            group = self.server.group_of(self)
            if not turns.may_begin(group):
                turns.wait(self, group)
                return False
        if type(frame.data) is memoryview:
            # A large frame was admitted before it was read. If it had to wait for the budget now,
            # frames that wait like this could fill the budget and wait for each other.
            own_bytes = costs.frame_bytes(frame)
            return self._charged_bytes - own_bytes < self._limits.connection_bytes_max
        return (
            self._charged_bytes < self._limits.connection_bytes_max
            and self.server.budget.has_room_for(is_small=costs.is_small(frame))
        )

    def _is_urgent(self, frame: Frame) -> bool:
        """Whether it begins at once, since those before it may wait for what it says."""
        method = METHODS_BY_NUMBER.get(frame.method)
        return (
            method is not None
            and method.urgent
            and self._is_welcome
            and type(frame.data) is bytes
            and len(self._running) < self._limits.requests_max + URGENT_MAX
        )

    def _may_look_further(self) -> bool:
        """Whether to read on although requests wait: when they wait for others of their own
        connection to end, an urgent one may stand behind them."""
        return (
            len(self._running) >= self._limits.requests_max
            and self._waiting_bytes < WAITING_BYTES_MAX
        )

    def _may_arrive(self) -> bool:
        """Whether a large frame may get its buffer: its request could begin at once."""
        if self._is_welcome and (
            self._waiting
            or not self.writable
            or len(self._running) >= self._limits.requests_max
            or self._charged_bytes >= self._limits.connection_bytes_max
        ):
            return False
        return self.server.budget.has_room and self.server.arriving.has_room

    def _begin_in_turn(self, frame: Frame) -> None:
        turns = self.server.turns
        if not turns.is_contended:
            self._begin(frame)
            return
        began_s = turns.now_s()
        self._begin(frame)
        turns.spent(self.server.group_of(self), turns.now_s() - began_s)

    def take_turn(self) -> bool:
        """See `turns.Waiting`."""
        before = len(self._waiting)
        self._work()
        return len(self._waiting) < before

    def _work(self) -> None:
        """Begin requests that had to wait."""
        while self._waiting and not self._is_ending and self._may_begin(self._waiting[0]):
            frame = self._waiting.popleft()
            self._waiting_bytes -= costs.frame_bytes(frame)
            self._begin_in_turn(frame)
        self.flush()
        self._pace()

    def _pace(self) -> None:
        """Read from the socket exactly while there is nothing to catch up on."""
        if self._is_ending or self._transport is None:
            return
        self._charge_large_frame()
        may_read = (
            (not self._waiting or self._may_look_further())
            and self.writable
            and self._large_bytes == self.decoder.large_bytes
        )
        if not may_read:
            self._wake_when_roomy()
        if may_read != self._is_reading:
            self._is_reading = may_read
            if may_read:
                self._transport.resume_reading()
                if self._large_bytes:
                    self._watch_sender()  # it could not send meanwhile
            else:
                self._transport.pause_reading()

    def _wake_when_roomy(self) -> None:
        budget, arriving = self.server.budget, self.server.arriving
        is_small = bool(self._waiting) and costs.is_small(self._waiting[0])
        if not budget.has_room_for(is_small=is_small):
            budget.wake_when_roomy(self._work, is_small=is_small)
        elif not self._waiting and not arriving.has_room:
            arriving.wake_when_roomy(self._work)

    @property
    def _is_large_waiting(self) -> bool:
        """A large frame has begun and is not let in yet."""
        return self.decoder.large_bytes > 0 and not self._large_bytes

    def _charge_large_frame(self) -> None:
        """Its buffer is allocated by the next read, hence only after this has made room for it."""
        if self._large_bytes and not self.decoder.large_bytes:
            self.server.arriving.release(self._large_bytes)
            self._large_bytes = 0  # arrived; the charge stays until the request begins
            self._cancel_timer("frame")
        elif self._is_large_waiting and self._may_arrive():
            self._large_bytes = self.decoder.large_bytes
            self.server.arriving.charge(self._large_bytes)
            self._charge(self._large_bytes)
            self._watch_sender()

    def _watch_sender(self) -> None:
        """Close a peer that holds a frame's buffer and fills it too slowly. While nothing is read
        from it, because it does not read its replies, another timer watches it."""
        Watch(
            self.server.pace_of_senders,
            partial(self._later, "frame"),
            moved=lambda: self.decoder.large_received_bytes,
            is_pressed=lambda: not self.server.arriving.has_room,
            too_slow=self._arrives_too_slowly,
            is_excused=lambda: not self._is_reading,
        )

    def _arrives_too_slowly(self) -> None:
        self.refuse(Invalid("frame did not arrive in time", size_bytes=self._large_bytes))

    async def _greet(self, frame: Frame) -> None:
        try:
            try:
                hello = pb.Hello.FromString(frame.message)
            except DecodeError:
                raise Invalid("Hello cannot be decoded") from None
            if hello.protocol != PROTOCOL:
                raise Invalid(
                    "protocol version is not spoken here",
                    theirs=hello.protocol,
                    ours=PROTOCOL,
                )
            reply = await self.server.welcome(self, hello)
        except PlatformError as e:
            self.refuse(e)
            return
        except Exception as e:
            logger.exception("welcome failed. peer=`%s`", self.peer)
            self.refuse(Internal("the server failed", error=type(e).__name__))
            return
        if self._is_ending:
            if self.server.farewell is not None:
                self.server.farewell(self)
            return
        self._cancel_timer("handshake")
        self._is_welcome = True
        self.decoder.limit(self._limits.frame_bytes_max)
        reply.protocol = PROTOCOL
        reply.frame_bytes_max = self._limits.frame_bytes_max
        self.send(encode(FrameKind.HELLO_REPLY, 0, 0, reply.SerializeToString()))
        self.loop.call_soon(self._work)  # not from within this task

    # ------------------------------------------------------------ requests

    def _begin(self, frame: Frame) -> None:
        if type(frame.data) is memoryview:
            self._release(costs.frame_bytes(frame))
        method = METHODS_BY_NUMBER.get(frame.method)
        if frame.call == 0 or frame.call in self._running:
            self.refuse(Invalid("call id is in use", call=frame.call))
            return
        try:
            if method is None:
                raise Invalid("unknown method, is the server older?", method=frame.method)
            if frame.data and not method.request_bulk:
                raise Invalid("method takes no bulk bytes", method=method.name)
            if self.server.is_stopping:
                raise _stopping()
            message = method.request.FromString(frame.message)
        except PlatformError as e:
            self._send_error(frame.call, e)
            return
        except DecodeError:
            assert method is not None
            self._send_error(frame.call, Invalid("message cannot be decoded", method=method.name))
            return
        if self.server.gather is not None and self._gather(frame, method, message):
            return
        self._begin_serving(frame, method, message)

    def _begin_serving(self, frame: Frame, method: Method, message: Any) -> None:
        task = self.server.steps.begin(self._serve(frame.call, method, message, frame.data))
        if task is not None:
            cost_bytes = costs.frame_bytes(frame) + costs.reply_bytes_expected(method, message)
            self._charge(cost_bytes)
            running = self._running[frame.call] = _Running(task, method, cost_bytes)
            if self.server.turns.is_contended and not costs.waits(method, message):
                running.work = self._work_begun(cost_bytes)

    def _work_begun(self, cost_bytes: int) -> Work:
        return self.server.turns.begun(self.server.group_of(self), weight_of(cost_bytes))

    def _gather(self, frame: Frame, method: Method, message: Any) -> bool:
        """Have the request carried out together with others, if it is of that kind."""
        assert self.server.gather is not None
        if type(frame.data) is not bytes:
            return False
        try:
            gathered = self.server.gather(self, method, message, frame.data)
        except Exception:
            return False  # what is wrong with it shows again, where it is answered
        if gathered is None:
            return False
        result, finish = gathered
        running = _Running(None, method, costs.frame_bytes(frame))
        self._charge(running.cost_bytes)
        self._running[frame.call] = running
        if self.server.turns.is_contended:
            running.work = self._work_begun(running.cost_bytes)

        def done(result: asyncio.Future[Any]) -> None:
            del self._running[frame.call]
            self._end_running(running)
            try:
                reply = finish(result)
            except (Exception, asyncio.CancelledError):
                if not self._is_ending and not running.is_unwanted:
                    self._begin_serving(frame, method, message)
                return
            if not self._is_ending and not running.is_unwanted:
                message_bytes = reply.SerializeToString()
                self._send_reply(encode(FrameKind.REPLY, method.number, frame.call, message_bytes))

        result.add_done_callback(done)
        return True

    async def _serve(
        self, call: int, method: Method, message: Any, data: bytes | memoryview
    ) -> None:
        buffers: list[Bulk] | None = None
        error: PlatformError | None = None
        try:
            reply, bulk = await self.server.handle(self, method, message, data)
            buffers = encode(
                FrameKind.REPLY,
                method.number,
                call,
                reply.SerializeToString(),
                bulk,
                frame_bytes_max=self._limits.frame_bytes_max,
            )
        except PlatformError as e:
            error = e
        except asyncio.CancelledError:
            error = _stopping() if self.server.is_stopping else Unavailable("cancelled")
        except Exception as e:
            logger.exception("request failed. method=`%s`, peer=`%s`", method.name, self.peer)
            error = Internal("the server failed", method=method.name, error=type(e).__name__)
        # From here on nothing waits: the request ends and its reply leaves in one step.
        running = self._running.pop(call, None)
        if running is not None:
            self._end_running(running)
        if self._is_ending or (running is not None and running.is_unwanted):
            return
        if buffers is not None:
            self._send_reply(buffers)
        elif error is not None:
            self._send_error(call, error)

    def _end_running(self, running: _Running) -> None:
        self._release(running.cost_bytes)
        if running.work is not None:
            running.work.end()
        if self._waiting or self._is_large_waiting:
            self.loop.call_soon(self._work)  # not from within the request's task
        if self.server.is_stopping:
            self.server.changed()

    def _cancel(self, call: int) -> None:
        running = self._running.get(call)
        if running is not None:
            self._drop(running)
            return
        for frame in self._waiting:
            if frame.call == call:
                self._waiting.remove(frame)
                self._waiting_bytes -= costs.frame_bytes(frame)
                if type(frame.data) is memoryview:
                    self._release(costs.frame_bytes(frame))
                return

    def _drop(self, running: _Running) -> None:
        """Its caller no longer listens."""
        running.is_unwanted = True
        if running.method.read_only and running.task is not None:
            running.task.cancel()

    # ------------------------------------------------------------ replies

    def _send_error(self, call: int, error: PlatformError) -> None:
        self._send_reply(encode(FrameKind.ERROR, 0, call, to_info(error).SerializeToString()))

    def _send_reply(self, buffers: list[Bulk]) -> None:
        size_bytes = sum(map(len, buffers))
        self._written_bytes += size_bytes
        if not self.writable:
            self._unsent_bytes += size_bytes
            self._charge(size_bytes)
        self.send(buffers)

    def pause_writing(self) -> None:
        super().pause_writing()
        assert self._transport is not None
        unsent_bytes = self._transport.get_write_buffer_size()
        self._unsent_bytes += unsent_bytes
        self._charge(unsent_bytes)
        self._watch_reader()
        self._pace()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_timer("stall")
        self._release(self._unsent_bytes)
        self._unsent_bytes = 0
        if not self._is_ending:
            self.loop.call_soon(self._work)  # not while the transport is writing

    def _watch_reader(self) -> None:
        """Close a peer that reads too slowly: soon while there is no room for anybody else."""
        Watch(
            self.server.pace_of_readers,
            partial(self._later, "stall"),
            moved=self._sent_bytes,
            is_pressed=lambda: not self.server.budget.has_room,
            too_slow=self._reads_too_slowly,
        )

    def _reads_too_slowly(self) -> None:
        logger.info("connection closed: peer does not read. peer=`%s`", self.peer)
        self.abort()

    def _sent_bytes(self) -> int:
        assert self._transport is not None
        return self._written_bytes - self._transport.get_write_buffer_size() - self._out_bytes

    def _charge(self, size_bytes: int) -> None:
        self._charged_bytes += size_bytes
        self.server.budget.charge(size_bytes)

    def _release(self, size_bytes: int) -> None:
        self._charged_bytes -= size_bytes
        self.server.budget.release(size_bytes)


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping")
