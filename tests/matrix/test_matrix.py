"""Every method, for every verdict, through every door: the same answer everywhere.

A cell makes a directory of its own with a file, a table, a stream and a volume in it, sets who may
what, and asks. A method that the server has and the matrix has not fails it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import PlatformError
from dataplatform.core.access.verbs import WORDS
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.engine.memory import MemoryStorages
from dataplatform_server.servers import Server
from dataplatform_server.settings import Settings
from tests.rights import ROOT
from tests.rights import Core as Calls

from .doors import OK, Core, Door, Frames, Grpc
from .requests import REQUESTS, Request, at

DENIED = "DENIED"
ANA_UID = 1000


class Cell(NamedTuple):
    """Who owns the things, with which modes of directories and others, under which rule, and whose
    token asks."""

    name: str
    uid: int
    directory: int
    thing: int
    rule: str | None
    token: str
    is_allowed: bool


CELLS = (
    Cell("allowed by mode", ANA_UID, 0o755, 0o644, None, "ana", True),
    Cell("denied by mode", 0, 0o700, 0o600, None, "ana", False),
    Cell("allowed by expression", 0, 0o700, 0o600, "u:ana", "ana", True),
    Cell("denied by expression", ANA_UID, 0o755, 0o644, "u:bob", "ana", False),
    Cell("read-only token", ANA_UID, 0o755, 0o644, None, "reader", True),
    Cell("outside of the subtree", ANA_UID, 0o755, 0o644, None, "inmate", False),
)


class World:
    """A server with all its doors, users and tokens."""

    def __init__(self, server: Server, tokens: dict[str, str], doors: list[Door]) -> None:
        self.server = server
        self.tokens = tokens
        self.doors = doors
        self.calls = Calls(server.platform)
        self._made = 0

    async def make(self, cell: Cell) -> str:
        """The directory of a cell."""
        self._made += 1
        base = f"/cell{self._made}"
        make = self.calls.make
        more: dict[str, Any] = {"owner": ROOT}
        await make(base, 0o755, kind=pb.DIRECTORY)
        for name, kind, mode in (
            ("d", pb.DIRECTORY, cell.directory),
            ("d/old", pb.FILE, cell.thing),
            ("f", pb.FILE, cell.thing),
            ("g", pb.FILE, cell.thing),
            ("t", pb.TABLE, cell.thing),
            ("s", pb.STREAM, cell.thing),
        ):
            await make(f"{base}/{name}", mode, kind=kind, **more)
            await self._own(f"{base}/{name}", cell.uid)
        await self._root("Volumes.Create", pb.VolumeRequest(target=at(f"{base}/v")))
        await self._own(f"{base}/v", cell.uid)
        await self._root(
            "Namespace.SetXattr",
            pb.XattrRequest(target=at(f"{base}/f"), name="user.x", value=b"v"),
        )
        await self._root("Files.Write", pb.WriteRequest(target=at(f"{base}/f")), b"bytes")
        await self._root("Streams.CreateTopic", pb.TopicRequest(stream=at(f"{base}/s"), topic="a"))
        part = pb.CommitOffsetsRequest.Part(topic="a")
        commit = pb.CommitOffsetsRequest(stream=at(f"{base}/s"), group="g", parts=[part])
        await self._root("Groups.Commit", commit)
        await self._own(base, cell.uid)
        if cell.rule is not None:
            await self._rule(base, cell.rule)
        change = pb.SetAttributesRequest(target=at(base), mode=cell.directory)
        await self._root("Namespace.SetAttributes", change)
        return base

    async def _own(self, path: str, uid: int) -> None:
        message = pb.SetAttributesRequest(target=at(path), follow=True, uid=uid, gid=uid)
        await self._root("Namespace.SetAttributes", message)

    async def _root(self, method: str, message: Any, data: bytes = b"") -> Any:
        return await self.calls.call(ROOT, method, message, data)

    async def _rule(self, path: str, text: str) -> None:
        node = await self.server.platform.locate(path)
        volume, number = node.volume, node.inode.number

        async def work(unit: Unit) -> None:
            inode = await unit.inode(number)
            inode.access = dict.fromkeys(WORDS.values(), text)
            unit.save(inode)
            unit.move_rules()

        await volume.run(SYSTEM, work, durable=False)
        self.server.platform.release(volume)

    async def ask(self, door: Door, cell: Cell, method: str, request: Request) -> str:
        built = request.build(await self.make(cell))
        message, data = built if isinstance(built, tuple) else (built, b"")
        return await door.call(self.tokens[cell.token], method, message, data)


def settings(directory: Path) -> Settings:
    return Settings(
        data=directory,
        store=None,
        cluster="local",
        listen=("127.0.0.1", 0),
        grpc=("127.0.0.1", 0),
        http=None,
        socket=directory / "dp.sock",
        socket_is_default=False,
        insecure=False,
        log_level="info",
    )


async def with_world(directory: Path, test: Callable[[World], Awaitable[None]]) -> None:
    server = await Server.start(settings(directory), MemoryStorages())
    identities, platform = server.platform.identities, server.platform
    jail = await Calls(platform).make_directory("/jail", 0o777)
    for user, uid in (("ana", ANA_UID), ("bob", 1001)):
        await identities.create_user(SYSTEM, user, uid=uid)
    await identities.create_group(SYSTEM, "eng")
    tokens = {}
    for name, more in (
        ("ana", {}),
        ("reader", {"is_read_only": True}),
        ("inmate", {"roots": [(jail.volume, jail.inode)], "paths": ["/jail"]}),
    ):
        given: dict[str, Any] = more
        token_id = await identities.create_token(SYSTEM, "ana", ttl_s=600, **given)
        tokens[name] = identities.text_of(token_id)
    frames = [Frames("tcp", server.endpoints.frames), Frames("unix", server.endpoints.socket)]
    wire = Grpc(server.endpoints.grpc)
    try:
        await test(World(server, tokens, [Core(server), *frames, wire]))
    finally:
        for door in (*frames, wire):
            await door.close()
        await server.stop(0)


def expected(cell: Cell, method: str, request: Request) -> str:
    if request.about == "anybody":
        return OK
    if request.about == "own":
        return DENIED if cell.token == "inmate" else OK
    if request.about == "admins":
        return DENIED
    if cell.token == "reader" and not READ_ONLY.get(method, METHODS[method].read_only):
        return DENIED
    return OK if cell.is_allowed else DENIED


READ_ONLY = {
    "Files.Open": True,  # to read
}
"""Whether a token that may only read is good for it, where that is not what the method table says
of repeating it."""


def test_every_method_is_in_the_matrix() -> None:
    assert METHODS.keys() - REQUESTS.keys() == set()
    assert REQUESTS.keys() - METHODS.keys() == set()


@pytest.mark.parametrize("service", sorted({name.partition(".")[0] for name in METHODS}))
async def test_every_door_gives_the_same_verdict(service: str, tmp_path: Path) -> None:
    wrong: list[str] = []

    async def test(world: World) -> None:
        for method, request in REQUESTS.items():
            if not method.startswith(f"{service}."):
                continue
            for cell in CELLS:
                wanted = expected(cell, method, request)
                for door in world.doors:
                    if not door.knows(method):
                        continue
                    got = await world.ask(door, cell, method, request)
                    same = got == wanted or (wanted == OK and not request.is_sure and got != DENIED)
                    if not same:
                        wrong.append(f"{method}, {cell.name}, {door.name}: {got}, not {wanted}")

    try:
        await with_world(tmp_path, test)
    except PlatformError as error:
        wrong.append(repr(error))
    assert not wrong, "\n".join(wrong)
