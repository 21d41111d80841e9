"""The channel: requests that outlive connections.

An operation says `call` (send, wait) or `start` (send now, await later). When the connection is
lost, or the server asks to try later, the request is repeated on a new connection, after a pause
that doubles up to half a second, until the client's patience ends. A repetition carries the same
request id, so the server knows a write that it has done already and only repeats the reply.

Whoever has opened files tells the channel: a server that was restarted has forgotten the session,
so they are opened again. (It keeps a session that has lost all connections for a minute.)
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Awaitable, Generator
from typing import Any

from ..api import platform_pb2 as pb
from ..api.methods import METHODS, Method
from ..base.errors import Denied, NotFound, PlatformError, Unavailable
from ..transport.addresses import Address
from ..transport.connections import Connection, Data, Reply
from .runtime import Holder, Runtime
from .slots import Slots
from .tokens import TokenSource
from .unsynced import Unsynced

PATIENCE_S = 30.0
"""How long a request is repeated unless told otherwise: a server's restart takes less."""

FIRST_PATIENCE_S = 1.0
"""For the first connection: a name typed wrong should not take long to be noticed."""

OPEN_TIMEOUT_S = 10.0
PAUSE_S = 0.02
PAUSE_S_MAX = 0.5
SESSION_BYTES = 16
PROTOCOL = 1
PROGRAM = "dataplatform python"

CREDENTIAL = "credential"
"""The fact by which the server says that it is the token that was refused, not the request."""

CLUSTER = "cluster"
"""The fact by which the server says that it is another cluster that cannot be reached: it has tried
for as long as there is sense in it, and knows when to try again."""

_FIRST_TARGETS = {
    method.request: next(
        (
            field.name
            for field in method.request.DESCRIPTOR.fields
            if field.message_type is pb.Target.DESCRIPTOR
        ),
        None,
    )
    for method in METHODS.values()
}

OPEN = METHODS["Files.Open"]
WRITE = METHODS["Files.Write"]


class Pending:
    """A request under way. Awaiting it gives the reply, after as many attempts as it takes."""

    __slots__ = (
        "_awaitable",
        "_channel",
        "_data",
        "_is_numbered",
        "_message",
        "_method",
        "connection",
    )

    def __init__(
        self,
        channel: Channel,
        method: Method,
        message: Any,
        data: Data,
        awaitable: Awaitable[Reply] | None,
        connection: Connection | None,
        is_numbered: bool,
    ) -> None:
        self.connection = connection  # on which it was sent; None: it will be when it is awaited
        self._is_numbered = is_numbered
        self._channel = channel
        self._method = method
        self._message = message
        self._data = data
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, None, Reply]:
        return self._reply().__await__()

    async def _reply(self) -> Reply:
        awaitable, self._awaitable = self._awaitable, None
        return await self._channel.finish(
            self._method,
            self._message,
            self._data,
            awaitable,
            is_numbered=self._is_numbered,
            connection=self.connection,
        )

    def done(self) -> bool:
        """Whether the reply is known to be there (False also means: not known)."""
        is_done = getattr(self._awaitable, "done", None)
        return is_done is not None and bool(is_done())

    def abandon(self) -> None:
        """Nobody will await it. For requests that change nothing."""
        awaitable, self._awaitable = self._awaitable, None
        cancel = getattr(awaitable, "cancel", None)
        if cancel is not None:
            cancel()


class Channel:
    """A session with a server, over as many connections as it takes. Safe among threads."""

    def __init__(
        self,
        address: Address,
        runtime: Runtime,
        *,
        token: str | TokenSource | None = None,
        patience_s: float | None = None,
        session: bytes | None = None,
    ) -> None:
        self.address = address
        self.runtime = runtime
        self.patience_s = PATIENCE_S if patience_s is None else patience_s
        self._token: TokenSource = token if callable(token) else lambda: token or ""
        self.stale_ok = False
        """What cannot be asked of its cluster may be read from a mirror."""
        self.as_of_ns = 0
        """As of when the oldest of what was read from mirrors is; 0: nothing was."""
        self._is_closed = False
        self._begin_session(session or os.urandom(SESSION_BYTES))
        _channels.add(self)

    def _begin_session(self, session: bytes) -> None:
        self.session = session
        self.unsynced = Unsynced()
        self._slots = Slots(session, self.runtime.condition())
        self._connections: dict[Connection, str] = {}  # and the token that was shown
        self._instance = b""
        self._open_files: dict[tuple[int, int], int] = {}  # how many handles there are on each
        self._files_lock = threading.Lock()

    def after_fork(self) -> None:
        """In a child process: connections and request ids are the parent's, so begin anew. Files,
        producers and consumers that were open stay the parent's too."""
        self.runtime.forget_connections()
        self._begin_session(os.urandom(SESSION_BYTES))

    # -------------------------------------------------------------------------------- calls

    async def call(
        self,
        method: Method,
        message: Any,
        data: Data = b"",
        *,
        patience_s: float | None = None,
        timeout_s: float | None = None,
        is_numbered: bool = True,
    ) -> Reply:
        """Send and wait for the reply, and for the server if need be. `timeout_s` is for one
        attempt, `patience_s` for all. A write that is safe to repeat by other means than a request
        id is not `is_numbered`."""
        if self.stale_ok:
            return await self._call_stale(method, message, data, patience_s, timeout_s, is_numbered)
        return await self._call(method, message, data, patience_s, timeout_s, is_numbered)

    async def _call_stale(self, method: Method, message: Any, *more: Any) -> Reply:
        field = _FIRST_TARGETS[method.request]
        if field is not None and message.HasField(field):
            getattr(message, field).stale_ok = True
        reply = await self._call(method, message, *more)
        as_of_ns = getattr(getattr(reply[0], "node", reply[0]), "as_of_ns", 0)
        if as_of_ns:
            self.as_of_ns = min(self.as_of_ns or as_of_ns, as_of_ns)
        return reply

    async def _call(
        self,
        method: Method,
        message: Any,
        data: Data,
        patience_s: float | None,
        timeout_s: float | None,
        is_numbered: bool,
    ) -> Reply:
        if method.read_only or not is_numbered:
            return await self._persist(method, message, data, patience_s, timeout_s)
        request = await self._slots.take()
        message.request.CopyFrom(request)
        is_answered = False
        try:
            reply = await self._persist(method, message, data, patience_s, timeout_s)
            is_answered = True
        except Unavailable:
            raise
        except PlatformError:
            is_answered = True
            raise
        finally:
            await self._slots.give_back(request.slot, is_answered=is_answered)
        return reply

    async def start(
        self,
        method: Method,
        message: Any,
        data: Data = b"",
        *,
        after: Pending | None = None,
        is_numbered: bool = True,
    ) -> Pending:
        """Send now, in the order of the calls; await the reply later. `message` and `data` must not
        change before. A write that is started must be awaited.

        `after`: if that one went out on another connection, which then is lost, do not overtake its
        repetition; send when the reply is awaited.
        """
        is_numbered = is_numbered and not method.read_only
        field = _FIRST_TARGETS[method.request] if self.stale_ok else None
        if field is not None and message.HasField(field):
            getattr(message, field).stale_ok = True
        if is_numbered:
            message.request.CopyFrom(await self._slots.take())
        awaitable: Awaitable[Reply] | None = None
        used: Connection | None = None
        try:
            connection = await self._connected(self.runtime.holder())
            if after is None or after.connection is connection:
                awaitable = connection.start(method, message, data)
                used = connection
                await connection.drain()
        except Unavailable:
            pass  # awaiting it will repeat it
        except BaseException:
            if is_numbered:
                await self._slots.give_back(message.request.slot, is_answered=awaitable is None)
            raise
        return Pending(self, method, message, data, awaitable, used, is_numbered)

    async def finish(
        self,
        method: Method,
        message: Any,
        data: Data,
        awaitable: Awaitable[Reply] | None,
        *,
        is_numbered: bool,
        connection: Connection | None = None,
    ) -> Reply:
        """The reply of what `start` began. For `Pending`."""
        is_answered = False
        try:
            if awaitable is not None:
                try:
                    reply = await awaitable
                except Unavailable:
                    awaitable = None
                except Denied as error:
                    if not await self._left_for_new_token(connection, error):
                        raise
                    awaitable = None
            if awaitable is None:
                reply = await self._persist(method, message, data, None, None)
            is_answered = True
        except Unavailable:
            raise
        except PlatformError:
            is_answered = True
            raise
        finally:
            if is_numbered:
                await self._slots.give_back(message.request.slot, is_answered=is_answered)
        return reply

    async def _persist(
        self,
        method: Method,
        message: Any,
        data: Data,
        patience_s: float | None,
        timeout_s: float | None,
    ) -> Reply:
        """Attempt until there is an answer or the patience ends."""
        patience: Patience | None = None
        while True:
            connection: Connection | None = None
            try:
                holder = self.runtime.holder()
                connection = holder.connection
                if connection is None or connection.closed:
                    connection = await self._connected(holder)
                return await connection.call(method, message, data, timeout_s)
            except Denied as error:
                if not await self._left_for_new_token(connection, error):
                    raise
            except Unavailable as error:
                if CLUSTER in error.facts:
                    raise
                patience = patience or Patience(self, patience_s)
                await patience.pause(error)

    async def _left_for_new_token(self, connection: Connection | None, error: Denied) -> bool:
        """Whether the request was refused because the token of its connection is over, and there
        is another one now: then that connection is left, and nothing was done."""
        if connection is None or CREDENTIAL not in error.facts:
            return False
        if self._connections.get(connection) == self._token():
            return False
        await connection.close()
        return True

    # -------------------------------------------------------------------------- connections

    async def connect(self, patience_s: float | None = None) -> None:
        """Have a connection, to know that there is a server."""
        patience = Patience(self, patience_s)
        while True:
            try:
                await self._connected(self.runtime.holder())
            except Unavailable as error:
                await patience.pause(error)
            else:
                return

    async def _connected(self, holder: Holder) -> Connection:
        connection = holder.connection
        if connection is not None and not connection.closed:
            return connection
        async with holder.lock:
            connection = holder.connection
            if connection is None or connection.closed:
                connection = holder.connection = await self._open()
            return connection

    async def _open(self) -> Connection:
        self.check_open()
        token = self._token()
        connection = await self.runtime.open(self.address, self._hello(token), OPEN_TIMEOUT_S)
        known = list(self._connections.items())
        self._connections = {connection: token, **{c: t for c, t in known if not c.closed}}
        instance, self._instance = self._instance, connection.welcome.instance
        if instance != self._instance:
            await self._reopen_files(connection)
            await self._resend_unsynced(connection)
        return connection

    def _hello(self, token: str) -> pb.Hello:
        return pb.Hello(protocol=PROTOCOL, program=PROGRAM, token=token, session=self.session)

    @property
    def closed(self) -> bool:
        return self._is_closed

    def check_open(self) -> None:
        if self._is_closed:
            # Not Unavailable: waiting would not help.
            raise ValueError("the client is closed")

    async def close(self) -> None:
        self._is_closed = True
        connections, self._connections = self._connections, {}
        for connection in list(connections):
            await connection.close()

    @property
    def cluster(self) -> str:
        """The name of the server's cluster, once connected."""
        connection = self.runtime.holder().connection
        return "" if connection is None else connection.welcome.cluster

    # --------------------------------------------------------------------------- open files

    def file_opened(self, volume: int, inode: int) -> None:
        """The session keeps the file, whatever happens to its name."""
        key = volume, inode
        with self._files_lock:
            self._open_files[key] = self._open_files.get(key, 0) + 1

    def file_closed(self, volume: int, inode: int) -> None:
        """One of the handles on the file is closed."""
        key = volume, inode
        with self._files_lock:
            left = self._open_files.get(key, 1) - 1
            if left:
                self._open_files[key] = left
            else:
                self._open_files.pop(key, None)

    async def _reopen_files(self, connection: Connection) -> None:
        with self._files_lock:
            files = [key for key, count in self._open_files.items() for _ in range(count)]
        for volume, inode in files:
            request = pb.OpenRequest(target=pb.Target(volume=volume, inode=inode))
            slot = await self._slots.take()
            request.request.CopyFrom(slot)
            is_answered = False
            try:
                await connection.call(OPEN, request)
                is_answered = True
            except NotFound:
                is_answered = True  # gone with its last name; its handle will say so
            finally:
                await self._slots.give_back(slot.slot, is_answered=is_answered)

    async def _resend_unsynced(self, connection: Connection) -> None:
        """A server that was restarted has forgotten the writes that nobody synced: it gets them
        before anything else, so that nobody reads what was there before."""
        for write in self.unsynced.written_before(self._instance):
            request = pb.WriteRequest(
                target=pb.Target(volume=write.file[0], inode=write.file[1]), offset=write.offset
            )
            try:
                reply, _ = await connection.call(WRITE, request, write.parts)
            except NotFound:
                self.unsynced.forget(write.file)
            except Unavailable:
                raise
            except PlatformError:
                continue  # a sync meets it again, and says so; the other files are as before
            else:
                self.unsynced.resent(write, reply.verifier)


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _after_fork() -> None:
    for channel in list(_channels):
        channel.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class Patience:
    """How often and how long one request is attempted."""

    def __init__(self, channel: Channel, patience_s: float | None) -> None:
        self._channel = channel
        self._patience_s = channel.patience_s if patience_s is None else patience_s
        self._begun_s: float | None = None
        self._pause_s = PAUSE_S

    async def pause(self, error: Unavailable) -> None:
        """Wait before the next attempt; raises when there shall be none."""
        runtime = self._channel.runtime
        now = runtime.monotonic()
        if self._begun_s is None:
            self._begun_s = now
        self._channel.check_open()
        left_s = self._begun_s + self._patience_s - now
        if left_s <= 0:
            raise self._gave_up(error) from error
        await runtime.sleep(min(self._pause_s * (0.5 + runtime.random() / 2), left_s))
        self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)

    def _gave_up(self, error: Unavailable) -> Unavailable:
        facts = {"address": self._channel.address, **error.facts}
        waited = f"after trying for {self._patience_s:g} s" if self._patience_s else "at once"
        return Unavailable(f"{error.message} (gave up {waited})", **facts)
