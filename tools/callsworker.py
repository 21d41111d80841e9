"""callsworker.py TREE WHO: one side of `calls.py`. Reads names of calls, answers µs per call.

It imports the packages of the checkout TREE, which may be older than itself, and therefore uses as
little of them as it can: the dispatcher, messages, principals.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TREE, WHO = sys.argv[1:3]
TURN = 40
"""Calls that are measured at a time; of those that take little time, five times as many."""

SESSION = (2).to_bytes(16, "big")
BLOCK = b"y" * 4096
ROW = b"\x82\xa1a\x01\xa1b\xa5hello"


class _Finder:
    """The tree's server, whatever is installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> Any:
        if name != "dataplatform_server":
            return None
        folder = Path(TREE) / "server"
        return importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


sys.path.insert(0, TREE)
sys.meta_path.insert(0, _Finder)

import dataplatform  # noqa: E402
import dataplatform_server  # noqa: E402
from dataplatform.api import platform_pb2 as pb  # noqa: E402
from dataplatform.api.methods import METHODS  # noqa: E402
from dataplatform.core.platform import Platform  # noqa: E402
from dataplatform.core.principals import Principal  # noqa: E402
from dataplatform.engine.memory import MemoryStorages  # noqa: E402
from dataplatform_server import handlers  # noqa: E402, F401
from dataplatform_server.dispatch import Dispatcher  # noqa: E402
from dataplatform_server.facts import ServerFacts  # noqa: E402
from dataplatform_server.sessions import Session  # noqa: E402

assert str(dataplatform.__file__).startswith(TREE), dataplatform.__file__
assert str(dataplatform_server.__file__).startswith(TREE), dataplatform_server.__file__


class _World:
    """A platform in memory with one directory, a file and a table in it; and who calls."""

    async def start(self) -> None:
        self.platform = await Platform.start(MemoryStorages())
        self.dispatcher = Dispatcher(self.platform, ServerFacts(engine="memory", data=""))
        root = Principal("root", uid=0, gids=frozenset((0,)), is_admin=True)
        user = Principal("ana", uid=1000, gids=frozenset((1000,)), groups=frozenset(("eng",)))
        if WHO == "unasked":
            object.__setattr__(user, "is_free", True)
        self.root = self._attach(root, 1)
        self.me = self.root if WHO == "free" else self._attach(user, 2)
        self.sequence = 0
        at = pb.Target
        for path in ("/a", "/a/b", "/a/b/c"):
            made = await self._make(at(path=path), pb.DIRECTORY, 0o777)
        self.volume, self.directory = made.volume, made.inode
        self.file = (await self._make(at(path="/a/b/c/f"), pb.FILE, 0o666)).inode
        self.table = (await self._make(at(path="/a/b/c/t"), pb.TABLE, 0o666)).inode
        write = pb.WriteRequest(target=self.at(self.file))
        await self._call("Files.Write", write, BLOCK, who=self.root)
        put = pb.PutRequest(table=self.at(self.table), key=b"k")
        await self._call("Tables.Put", put, ROW, who=self.root)
        if WHO == "rules":
            for verb in ("read", "write", "create", "delete", "list"):
                rule = pb.SetRulesRequest(target=self.at(self.directory))
                rule.set[verb] = "g:eng | u:bob"
                await self._call("Access.Set", rule, who=self.root)

    def _attach(self, principal: Any, number: int) -> Any:
        session: Any = Session(number.to_bytes(16, "big"), principal)
        try:
            from dataplatform_server.identity import Attachment, Credential, Credentials
        except ImportError:  # before there were any
            return session
        credentials = Credentials(self.platform.identities, self.platform.clock)
        shown = Credential(credentials, "socket", lambda: principal)
        return Attachment(session, shown, "unix pid 4711 uid 0")

    async def _make(self, target: Any, kind: Any, mode: int) -> Any:
        request = pb.CreateRequest(target=target, kind=kind, mode=mode, uid=1000, gid=1000)
        return await self._call("Namespace.Create", request, who=self.root)

    async def _call(self, name: str, message: Any, data: bytes = b"", who: Any = None) -> Any:
        method = METHODS[name]
        reply, _ = await self.dispatcher.handle(who or self.me, method, message, data)
        return reply

    def at(self, inode: int, path: str = "") -> Any:
        return pb.Target(volume=self.volume, inode=inode, path=path)

    def request(self) -> Any:
        self.sequence += 1
        return pb.RequestId(session=SESSION, slot=0, sequence=self.sequence)

    async def timed(self, name: str, messages: list[Any], data: bytes = b"") -> float:
        """µs of CPU for each."""
        handle, who, method = self.dispatcher.handle, self.me, METHODS[name]
        gc.collect()
        gc.disable()
        began_ns = time.process_time_ns()
        for message in messages:
            await handle(who, method, message, data)
        took_ns = time.process_time_ns() - began_ns
        gc.enable()
        return took_ns / len(messages) / 1000


class _Calls:
    """By name, with - for _: how each is made, measured and undone."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._turn = 0

    def _names(self) -> list[str]:
        self._turn += 1
        return [f"n{self._turn}_{number}" for number in range(TURN)]

    def _creates(self, names: list[str], kind: Any = pb.FILE) -> list[Any]:
        w, owner = self._world, 0 if WHO == "free" else 1000
        return [
            pb.CreateRequest(
                target=w.at(w.directory, name),
                kind=kind,
                mode=0o755,
                uid=owner,
                gid=owner,
                request=w.request(),
            )
            for name in names
        ]

    def _removes(self, names: list[str]) -> list[Any]:
        w = self._world
        return [
            pb.RemoveRequest(
                target=w.at(w.directory, n),
                expect=pb.RemoveRequest.NOT_DIRECTORY,
                request=w.request(),
            )
            for n in names
        ]

    async def create(self) -> float:
        names = self._names()
        took = await self._world.timed("Namespace.Create", self._creates(names))
        await self._world.timed("Namespace.Remove", self._removes(names))
        return took

    async def mkdir(self) -> float:
        w, names = self._world, self._names()
        took = await w.timed("Namespace.Create", self._creates(names, pb.DIRECTORY))
        removes = [
            pb.RemoveRequest(target=w.at(w.directory, n), request=w.request()) for n in names
        ]
        await w.timed("Namespace.Remove", removes)
        return took

    async def rename(self) -> float:
        w, names = self._world, self._names()
        await w.timed("Namespace.Create", self._creates(names))
        renames = [
            pb.RenameRequest(
                source=w.at(w.directory, n), target=w.at(w.directory, n + "r"), request=w.request()
            )
            for n in names
        ]
        took = await w.timed("Namespace.Rename", renames)
        await w.timed("Namespace.Remove", self._removes([n + "r" for n in names]))
        return took

    async def unlink(self) -> float:
        names = self._names()
        await self._world.timed("Namespace.Create", self._creates(names))
        return await self._world.timed("Namespace.Remove", self._removes(names))

    async def write(self) -> float:
        return await self._many(
            "Files.Write",
            lambda w: pb.WriteRequest(target=w.at(w.file), request=w.request()),
            BLOCK,
        )

    async def read(self) -> float:
        return await self._many(
            "Files.Read", lambda w: pb.ReadRequest(target=w.at(w.file), length=4096), times=5
        )

    async def stat(self) -> float:
        return await self._many(
            "Namespace.Stat", lambda w: pb.StatRequest(target=w.at(w.file)), times=5
        )

    async def stat_path(self) -> float:
        return await self._many(
            "Namespace.Stat", lambda w: pb.StatRequest(target=pb.Target(path="/a/b/c/f")), times=5
        )

    async def lookup(self) -> float:
        return await self._many(
            "Namespace.Stat", lambda w: pb.StatRequest(target=w.at(w.directory, "f")), times=5
        )

    async def open(self) -> float:
        took = await self._many(
            "Files.Open", lambda w: pb.OpenRequest(target=w.at(w.file), request=w.request())
        )
        await self._many("Files.Close", lambda w: pb.StatRequest(target=w.at(w.file)))
        return took

    async def chmod(self) -> float:
        def message(w: _World) -> Any:
            return pb.SetAttributesRequest(target=w.at(w.file), mode=0o666, request=w.request())

        return await self._many("Namespace.SetAttributes", message)

    async def put(self) -> float:
        return await self._many("Tables.Put", lambda w: self._put(durability=pb.LAZY), ROW)

    def _put(self, **options: Any) -> Any:
        w = self._world
        return pb.PutRequest(table=w.at(w.table), key=b"k", request=w.request(), **options)

    async def put_gathered(self) -> float:
        w, method = self._world, METHODS["Tables.Put"]
        messages = [self._put() for _ in range(TURN)]
        gc.collect()
        gc.disable()
        began_ns = time.process_time_ns()
        begun = [w.dispatcher.gather(w.me, method, message, ROW) for message in messages]
        for one in begun:
            assert one is not None
            result, finish = one
            await asyncio.wait((result,))
            finish(result)
        took_ns = time.process_time_ns() - began_ns
        gc.enable()
        return took_ns / TURN / 1000

    async def get(self) -> float:
        return await self._many(
            "Tables.Get", lambda w: pb.GetRequest(table=w.at(w.table), keys=[b"k"]), times=5
        )

    async def _many(
        self, name: str, message: Callable[[_World], Any], data: bytes = b"", times: int = 1
    ) -> float:
        messages = [message(self._world) for _ in range(TURN * times)]
        return await self._world.timed(name, messages, data)


async def _main() -> None:
    world = _World()
    await world.start()
    calls = _Calls(world)
    while line := sys.stdin.readline():
        print(await getattr(calls, line.strip().replace("-", "_"))(), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
