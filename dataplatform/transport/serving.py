"""The server's end: accepts connections, hands requests to a handler, sends its replies.

What a peer does must never hurt anybody else, so everything has a bound:

- time: the handshake, a frame that does not arrive, a peer that does not read its replies;
- a connection: requests under way (`requests_max`) and the bytes they hold
  (`connection_bytes_max`), beyond which nothing more is read from its socket;
- all of them: the number of connections and a `Budget` of bytes, of which frames that are arriving
  may hold one half and beyond which a reserve is kept for small requests: neither frames that
  stand half-sent nor large requests keep a `stat` of somebody else from beginning.

Requests, frames under way and unread replies therefore take at most `total_bytes_max`, half as much
again for small requests, and what the last ones admitted go beyond that: a frame, or the replies
that a connection had under way when its peer stopped reading. Read buffers (64 KiB of a connection)
are not counted.

A peer that stops reading stalls only itself: its requests wait in its own socket. What is no frame
gets a typed ERROR and the connection ends; a frame that makes no sense (unknown method, a message
that cannot be decoded) gets a typed ERROR and the connection goes on.

A handler that finishes without waiting costs no task (`steps`). Methods that change something are
never cancelled half-way: when their caller leaves they run to the end, and nobody hears the reply.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import Method
from dataplatform.base.errors import Invalid
from dataplatform.base.limits import CONNECTION_REQUESTS_MAX, FRAME_BYTES_MAX, KIB, MIB

from .budgets import Budget
from .errors import to_info
from .frames import Data, FrameKind, encode
from .server_connections import ServerConnection
from .steps import Steps
from .tls_listening import Context, TlsListener
from .turns import Turns
from .watches import Pace

__all__ = ["FrameServer", "ServerConnection", "ServingLimits"]

Reply = tuple[Any, Data]
Handler = Callable[[ServerConnection, Method, Any, bytes | memoryview], Coroutine[Any, Any, Reply]]
Gather = Callable[
    [ServerConnection, Method, Any, bytes],
    "tuple[asyncio.Future[Any], Callable[[asyncio.Future[Any]], Any]] | None",
]
Welcome = Callable[[ServerConnection, pb.Hello], Awaitable[pb.HelloReply]]
Farewell = Callable[[ServerConnection], None]


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """Bounds of what peers may cost."""

    connections_max: int = 4096
    """Each costs a file descriptor and some 20 KiB."""
    requests_max: int = CONNECTION_REQUESTS_MAX
    connection_bytes_max: int = 64 * MIB
    """Requests and expected replies of one connection: a few of the largest."""
    total_bytes_max: int = 256 * MIB
    """The same of all connections, and frames under way."""
    frame_bytes_max: int = FRAME_BYTES_MAX
    handshake_s: float = 10.0
    hello_bytes_max: int = 64 * KIB
    """Before the handshake nobody may make us allocate more."""
    stall_s: float = 60.0
    """How often a peer that is slow to read is looked at."""
    pressed_s: float = 2.0
    """How often both are looked at while there is no room for anybody else: replies that nobody
    reads and frames that do not arrive go first."""
    arrival_s: float = 30.0
    """How often a peer that is slow to send the rest of a large frame is looked at."""
    bytes_per_s_min: int = 16 * KIB
    """A peer slower than this between two looks is closed."""


class FrameServer:
    """All connections of a server, on any number of listening sockets.

    `handle(connection, method, message, data)` answers one request; a PlatformError is sent to the
    caller, any other exception is logged and sent as INTERNAL. `gather`, if given, is asked first:
    a small request that others are carried out together with costs no task; it gives the result to
    come and what makes the reply of it, or None, and whatever fails there is given to `handle`.
    `welcome(connection, hello)` admits
    a connection or raises; it may leave a `session` on it. `farewell(connection)` follows when an
    admitted connection is gone. `group_of(connection)` is with whom it shares turns (`turns`).
    """

    def __init__(
        self,
        handle: Handler,
        welcome: Welcome,
        farewell: Farewell | None = None,
        limits: ServingLimits | None = None,
        *,
        gather: Gather | None = None,
        group_of: Callable[[ServerConnection], int] = lambda connection: 0,
    ) -> None:
        self.handle = handle
        self.group_of = group_of
        self.gather = gather
        self.welcome = welcome
        self.farewell = farewell
        self.limits = limits or ServingLimits()
        self.loop = asyncio.get_running_loop()
        asked = self.limits.bytes_per_s_min, self.limits.pressed_s
        self.pace_of_senders = Pace(*asked, within_s=self.limits.arrival_s)
        self.pace_of_readers = Pace(*asked, within_s=self.limits.stall_s)
        total_bytes_max = self.limits.total_bytes_max
        self.budget = Budget(total_bytes_max, self.loop, reserve_bytes=total_bytes_max // 2)
        self.arriving = Budget(total_bytes_max // 2, self.loop)
        self.steps = Steps(self.loop)
        self.turns = Turns(self.loop.call_soon, self.loop.call_later)
        self.connections: set[ServerConnection] = set()
        self.is_stopping = False
        self._listeners: list[asyncio.Server | TlsListener] = []
        self._changed = asyncio.Event()

    async def listen_tcp(self, host: str, port: int, tls: Context | None = None) -> tuple[str, int]:
        """Accept connections there; returns the address chosen (port 0: any). With `tls`, which
        gives the context for each, of those that speak it alone."""
        if tls is not None:
            secure = TlsListener(
                self._connection,
                tls,
                refusal=_use_tls(),
                handshake_s=self.limits.handshake_s,
            )
            self._listeners.append(secure)
            return await secure.listen(host, port)
        listener = await self.loop.create_server(self._connection, host, port, backlog=1024)
        self._listeners.append(listener)
        name = listener.sockets[0].getsockname()
        return name[0], name[1]

    async def listen_unix(self, path: str) -> None:
        listener = await self.loop.create_unix_server(self._connection, path, backlog=1024)
        self._listeners.append(listener)

    async def close(self, grace_s: float = 0.0) -> None:
        """Stop accepting, let requests under way finish for `grace_s`, then close everything.

        New requests are answered UNAVAILABLE from now on, and calls that only read (long polls
        among them) are: their callers repeat them elsewhere or later.
        """
        self.is_stopping = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.stop()
        await self._wait(grace_s, lambda: not any(c.requests_under_way for c in self.connections))
        for connection in list(self.connections):
            connection.end()
        await self._wait(1.0, lambda: not self.connections)
        for connection in list(self.connections):
            connection.abort()
        await self._wait(1.0, lambda: not self.connections)
        self.steps.close()

    def changed(self) -> None:
        """A request or a connection ended while stopping."""
        self._changed.set()

    async def _wait(self, timeout_s: float, condition: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    def _connection(self) -> ServerConnection:
        return ServerConnection(self)


def _use_tls() -> bytes:
    """What a client without TLS is told, as a frame that it understands."""
    error = to_info(Invalid("this port speaks TLS only: use dps:// instead of dp://"))
    return b"".join(encode(FrameKind.ERROR, 0, 0, error.SerializeToString()))
