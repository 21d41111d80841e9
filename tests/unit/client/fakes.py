"""A server that is a table of functions, behind connections that can be cut, for both runtimes.

A handler gets (message, data) and returns the reply message, or (reply, data), or raises. Faults
are queued by method name: "lost before" (the request never arrives), "lost after" (it is handled,
the reply is lost), or an error to answer with.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import PlatformError, Unavailable
from dataplatform.client.connection import Channel
from dataplatform.client.runtime import AsyncRuntime, BlockingRuntime
from dataplatform.transport.addresses import Address

ADDRESS = Address("dp", "nowhere", 1)
SESSION = b"s" * 16
LOST_BEFORE = "lost before"
LOST_AFTER = "lost after"

Handler = Callable[[Any, bytes], Any]


class FakeServer:
    """`handlers` by method name; `calls` are (method name, message, data) as they arrived."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers: dict[str, Handler] = {}
        self.calls: list[tuple[str, Any, bytes]] = []
        self.faults: dict[str, deque[str | PlatformError]] = defaultdict(deque)
        self.opened: list[pb.Hello] = []
        self.refuse_opens = 0
        self.instance = b"first"

    def on(self, name: str) -> Callable[[Handler], Handler]:
        assert name in METHODS

        def register(handler: Handler) -> Handler:
            self.handlers[name] = handler
            return handler

        return register

    def answer(self, name: str, reply: Any) -> None:
        """Always answer a method with this."""
        self.on(name)(lambda message, data: reply)

    def fail(self, name: str, *faults: str | PlatformError) -> None:
        self.faults[name].extend(faults)

    def received(self, name: str) -> list[Any]:
        """The messages of a method."""
        return [message for method, message, _ in self.calls if method == name]

    def handle(self, connection: FakeConnection, method: Method, wire: bytes, data: bytes) -> Any:
        """The reply and its data. Raises what the connection or the server says."""
        if connection.closed:
            raise Unavailable("connection lost")
        fault = self.faults[method.name].popleft() if self.faults[method.name] else None
        if fault == LOST_BEFORE:
            connection.closed = True
            raise Unavailable("connection lost")
        if isinstance(fault, PlatformError):
            raise fault
        message = method.request.FromString(wire)
        self.calls.append((method.name, message, data))
        reply = self.handlers[method.name](message, data)
        if fault == LOST_AFTER:
            connection.closed = True
            raise Unavailable("connection lost")
        return reply if isinstance(reply, tuple) else (reply, b"")


class _Pending:
    """Sent with `start`; handled at once, as requests arrive in order, and told when awaited."""

    def __init__(self, handle: Callable[[], Any]) -> None:
        self._error: PlatformError | None = None
        try:
            self._reply = handle()
        except PlatformError as error:
            self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        if self._error is not None:
            raise self._error
        return self._reply
        yield


class FakeConnection:
    address = ADDRESS
    calls_under_way = 0

    def __init__(self, server: FakeServer) -> None:
        self.closed = False
        self.welcome = pb.HelloReply(protocol=1, instance=server.instance)
        self._server = server

    def start(self, method: Method, message: Any, data: Any = b"") -> Awaitable[Any]:
        if self.closed:
            raise Unavailable("connection lost")
        wire = message.SerializeToString()
        joined = b"".join(data) if isinstance(data, list) else bytes(data)
        return _Pending(lambda: self._server.handle(self, method, wire, joined))

    async def call(
        self, method: Method, message: Any, data: Any = b"", timeout_s: float | None = None
    ) -> Any:
        return await self.start(method, message, data)

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True


class _Faked:
    """Opens fake connections; time passes only by sleeping."""

    server: FakeServer
    now_s: float
    slept: list[float]

    async def open(self, address: Address, hello: pb.Hello, timeout_s: float) -> FakeConnection:
        if self.server.refuse_opens:
            self.server.refuse_opens -= 1
            raise Unavailable("no server listens there")
        self.server.opened.append(hello)
        return FakeConnection(self.server)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s

    def now_ms(self) -> int:
        return 1_700_000_000_000

    def random(self) -> float:
        return 1.0


class FakeBlockingRuntime(_Faked, BlockingRuntime):
    def __init__(self, server: FakeServer) -> None:
        BlockingRuntime.__init__(self)
        self.server, self.now_s, self.slept = server, 0.0, []


class FakeAsyncRuntime(_Faked, AsyncRuntime):
    def __init__(self, server: FakeServer) -> None:
        AsyncRuntime.__init__(self)
        self.server, self.now_s, self.slept = server, 0.0, []


def blocking_channel(server: FakeServer, **options: Any) -> Channel:
    return Channel(ADDRESS, FakeBlockingRuntime(server), **{"session": SESSION, **options})


def async_channel(server: FakeServer, **options: Any) -> Channel:
    """To be made inside the loop."""
    return Channel(ADDRESS, FakeAsyncRuntime(server), **{"session": SESSION, **options})
