"""A mount without a kernel and without a server: what it asks is recorded, and answered by hand.

`FakeChannel` answers with what a test put into `handlers`, at once, or when the test says so
(`hold`). `FakeKernel` records what the mount tells the kernel. All that is between is the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import Method
from dataplatform.client.runtime import AsyncRuntime
from dataplatform.client.slots import Slots
from dataplatform.client.unsynced import Unsynced
from dataplatform.transport.addresses import parse
from dataplatform_clients.fuse.areas import Areas
from dataplatform_clients.fuse.calls import Calls
from dataplatform_clients.fuse.handover import Handover
from dataplatform_clients.fuse.mount import Mount
from dataplatform_clients.fuse.nodes import Node
from dataplatform_clients.fuse.operations.callers import Caller
from dataplatform_clients.fuse.options import MountOptions
from dataplatform_clients.fuse.rights import Rights
from dataplatform_clients.fuse.stats import Stats

SESSION = b"s" * 16
VERIFIER = b"v1"
ROOT = pb.Node(volume=1, inode=1, kind=pb.DIRECTORY, mode=0o755, links=2, version=1)

Handler = Callable[[Any, bytes], Any]


class Asked:
    """A request: answered when it is released, or at once."""

    def __init__(self, name: str, message: Any, data: bytes) -> None:
        self.name = name
        self.message = message
        self.data = data
        self.release = asyncio.get_running_loop().create_future()
        self.is_done = False

    def __repr__(self) -> str:
        return f"<{self.name} {str(self.message)!r} {self.data[:20]!r}>"

    def answer(self) -> None:
        """Let it go on to its handler."""
        if not self.release.done():
            self.release.set_result(None)

    def fail(self, error: Exception) -> None:
        self.release.set_exception(error)


class FakeChannel:
    """What `Calls` uses of a `MountChannel`."""

    def __init__(self) -> None:
        self.session = SESSION
        self.store = b"store"
        self.address = parse("dp://fake:7222")
        self.unsynced = Unsynced()
        self.slots = Slots(SESSION, AsyncRuntime().condition())
        self.handlers: dict[str, Handler] = {
            "Files.Write": written,
            "Files.Sync": lambda message, data: pb.SyncReply(verifier=VERIFIER),
            "Files.Close": lambda message, data: pb.Empty(),
            "Files.Open": lambda message, data: pb.Node(),
        }
        self.asked: list[Asked] = []
        self.under_way: list[Asked] = []
        self.held: set[str] = set()
        self._news = asyncio.Event()
        self.opened: list[tuple[int, int]] = []
        self.on_lost: Callable[[], None] = lambda: None
        self.connection: object = object()
        self.current = None
        self.runtime = SimpleNamespace(
            holder=lambda: SimpleNamespace(connection=self.connection), lock=asyncio.Lock
        )

    def hold(self, *names: str) -> None:
        """From now on these wait for `Asked.answer`."""
        self.held.update(names)

    async def asks(self) -> Asked:
        """The next request that waits for an answer."""
        while not self.under_way:
            self._news.clear()
            await self._news.wait()
        return self.under_way[0]

    async def asks_for(self, name: str) -> Asked:
        """The next of these that waits for an answer."""
        while True:
            for asked in self.under_way:
                if asked.name == name:
                    return asked
            self._news.clear()
            await self._news.wait()

    def named(self, name: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.name == name]

    async def call(
        self, method: Method, message: Any, data: Any = b"", **_: Any
    ) -> tuple[Any, bytes]:
        sent = type(message)()
        sent.CopyFrom(message)
        parts = data if isinstance(data, list) else [data]
        asked = Asked(method.name, sent, b"".join(bytes(part) for part in parts))
        self.asked.append(asked)
        self.under_way.append(asked)
        self._news.set()
        try:
            if method.name in self.held:
                await asked.release
            reply = self.handlers[method.name](asked.message, asked.data)
            if asyncio.iscoroutine(reply):
                reply = await reply
        finally:
            self.under_way.remove(asked)
            asked.is_done = True
        return reply if isinstance(reply, tuple) else (reply, b"")

    async def start(self, method: Method, message: Any, data: Any = b"", **_: Any) -> Any:
        return asyncio.ensure_future(self.call(method, message, data))

    def file_opened(self, volume: int, inode: int) -> None:
        self.opened.append((volume, inode))

    def file_closed(self, volume: int, inode: int) -> None:
        self.opened.remove((volume, inode))

    def cut(self) -> None:
        self.on_lost()


class FakeKernel:
    """What is told to the kernel, in order; both `mount.Kernel` and the watcher's notices."""

    def __init__(self, *, has_epoch: bool = True) -> None:
        self.has_epoch = has_epoch
        self.told: list[tuple[Any, ...]] = []
        self.is_slow = False  # names cannot be dropped soon
        self.pages_begun: Callable[[int], object] = lambda number: None
        self.pages_done: Callable[[int], object] = lambda number: None

    def attributes_changed(self, number: int) -> None:
        self.told.append(("attributes", number))

    def pages_changed(self, number: int) -> None:
        self.pages_begun(number)
        self.told.append(("pages", number))

    def name_changed(self, directory: int, name: bytes) -> None:
        self.told.append(("name", directory, name))

    def epoch(self) -> None:
        if self.has_epoch:
            self.told.append(("epoch",))

    async def settled(self, timeout_s: float) -> bool:
        self.told.append(("settled",))
        return not self.is_slow


class World:
    """A mount, and what it stands on."""

    def __init__(self, handover: Handover, **options: Any) -> None:
        self.channel = FakeChannel()
        settings = MountOptions("/mnt", address="fake", **{"near": False, **options})
        self.stats = Stats(settings)
        self.handover = handover
        areas = Areas(may_share=False)
        self.calls = Calls(self.channel, self.stats, handover, areas)  # type: ignore[arg-type]
        self.calls.watch_began()
        rights = Rights(self.calls, speaks=True, uid=0, local_uid=0)
        self.mount = Mount(ROOT, self.calls, settings, None, handover, rights)
        self.kernel = FakeKernel()
        self.mount.kernel = self.kernel

    def file(self, inode: int = 2, *, size: int = 0, **fields: Any) -> Node:
        """A file that is known and promised."""
        message = file_message(inode, size=size, **fields)
        return self.mount.take(message, self.calls.mark())

    def directory(self, inode: int = 3) -> Node:
        message = pb.Node(volume=1, inode=inode, kind=pb.DIRECTORY, mode=0o755, links=2)
        return self.mount.take(message, self.calls.mark())


@contextlib.asynccontextmanager
async def at_work(**options: Any) -> AsyncIterator[World]:
    handover = Handover.create()
    world = World(handover, **options)
    try:
        yield world
    finally:
        world.mount.steps.close()
        handover.close()


def file_message(inode: int = 2, *, size: int = 0, **fields: Any) -> pb.Node:
    given = {"volume": 1, "kind": pb.FILE, "mode": 0o644, "links": 1, "version": 5, **fields}
    return pb.Node(inode=inode, size=size, **given)


def written(message: Any, data: bytes) -> pb.WriteReply:
    return pb.WriteReply(offset=message.offset, verifier=VERIFIER)


async def turns(count: int = 30) -> None:
    """Let everything go as far as it can without waiting for anybody outside."""
    for _ in range(count):
        await asyncio.sleep(0)


def ranges(message: pb.WriteRequest, data: bytes) -> list[tuple[int, int]]:
    """(offset, length) of what a request writes."""
    if message.parts:
        return [(part.offset, part.length) for part in message.parts]
    return [(message.offset, len(data))]


class Root:
    """A request of root's."""

    caller = Caller(0, 0, 0)


ROOT_ASKS = Root()
