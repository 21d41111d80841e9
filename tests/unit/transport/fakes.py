"""A frame server with a made-up handler, in this loop or in a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import Conflict, NotFound
from dataplatform.transport.addresses import Address
from dataplatform.transport.frames import PROTOCOL, Decoder, Frame, FrameKind, encode
from dataplatform.transport.serving import FrameServer, ServerConnection, ServingLimits

PING = METHODS["System.Ping"]
STAT = METHODS["Namespace.Stat"]
READ = METHODS["Files.Read"]
WRITE = METHODS["Files.Write"]
GET = METHODS["Tables.Get"]
PUT = METHODS["Tables.Put"]
FETCH = METHODS["Streams.Fetch"]

PATIENCE_S = 30.0
"""How long a test waits for what must happen: never reached unless it fails."""


class FakeHandler:
    """Echoes; Fetch waits for `release`, or for ever; Stat fails as its path says."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.started = 0
        self.cancelled = 0
        self.finished = 0
        self.hello: pb.Hello | None = None

    async def handle(
        self, connection: ServerConnection, method: Method, message: Any, data: bytes | memoryview
    ) -> tuple[Any, Any]:
        self.started += 1
        try:
            return await self._answer(method, message, data)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.finished += 1

    async def _answer(self, method: Method, message: Any, data: bytes | memoryview) -> Any:
        if method is GET:
            return pb.RowsReply(end=True), [bytes(k) for k in message.keys]
        if method is WRITE:
            return pb.WriteReply(size=len(data)), b""
        if method is READ:
            return pb.ReadReply(size=message.length), bytes(message.length)
        if method is FETCH:
            await self.release.wait()
            return pb.FetchReply(), bytes(message.size_bytes)
        if method is PUT:
            await self.release.wait()
            return pb.VersionReply(version=len(data)), b""
        if method is STAT:
            if message.target.path == "/missing":
                raise NotFound("no such thing", path="/missing", errno=20)
            if message.target.path == "/conflict":
                raise Conflict("changed meanwhile")
            raise ZeroDivisionError(message.target.path)
        return method.reply(), b""

    async def welcome(self, connection: ServerConnection, hello: pb.Hello) -> pb.HelloReply:
        self.hello = hello
        return pb.HelloReply(cluster="fake", instance=b"i" * 16)


@contextlib.asynccontextmanager
async def serving(
    directory: Path, limits: ServingLimits | None = None
) -> AsyncIterator[tuple[FrameServer, FakeHandler, Address]]:
    handler = FakeHandler()
    server = FrameServer(handler.handle, handler.welcome, limits=limits)
    address = Address("dp+unix", path=str(directory / "s"))
    await server.listen_unix(address.path)
    try:
        yield server, handler, address
    finally:
        await server.close()


class ServerThread:
    """The same in another thread, for blocking clients."""

    def __init__(self, directory: Path, limits: ServingLimits | None = None) -> None:
        self._directory = directory
        self._limits = limits
        self._ready = threading.Event()
        self._thread = threading.Thread(target=uvloop.run, args=(self._run(),))
        self.server: FrameServer
        self.handler: FakeHandler
        self.address: Address
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self._directory, self._limits) as (
            self.server,
            self.handler,
            self.address,
        ):
            self._ready.set()
            await self._stop.wait()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def __enter__(self) -> "ServerThread":
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it suspended")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition of this loop, without guessing how long it takes."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  the conditions tell nobody when they change
            await asyncio.sleep(0)


class RawClient:
    """Bytes as they are, for what a proper client would never send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = Decoder()
        self._frames: Iterator[Frame] = iter(())

    @classmethod
    async def open(cls, address: Address, *, hello: bool = True) -> "RawClient":
        client = cls(*await asyncio.open_unix_connection(address.path))
        if hello:
            message = pb.Hello(protocol=PROTOCOL).SerializeToString()
            client.send(*encode(FrameKind.HELLO, 0, 0, message))
            assert (await client.frame()).kind == FrameKind.HELLO_REPLY
        return client

    def send(self, *buffers: Any) -> None:
        self.writer.write(b"".join(buffers))

    def request(self, method: Method, call: int, message: Any, data: bytes = b"") -> None:
        body = message.SerializeToString()
        self.send(*encode(FrameKind.REQUEST, method.number, call, body, data))

    async def frame(self) -> Frame:
        """The next one; EOFError when the server closed."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for frame in self._frames:
                    return frame
                chunk = await self.reader.read(65536)
                if not chunk:
                    raise EOFError
                self._frames = iter(self._decoder.feed(chunk))

    async def error(self) -> pb.ErrorInfo:
        frame = await self.frame()
        assert frame.kind == FrameKind.ERROR
        return pb.ErrorInfo.FromString(frame.message)

    async def closed(self) -> bool:
        """Reads to the end: True when the server ended the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        return True

    def close(self) -> None:
        self.writer.close()
