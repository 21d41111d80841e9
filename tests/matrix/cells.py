"""Verdicts, and a server where they can be asked for.

A cell makes a directory of its own with one of everything in it, and sets who may what.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from dataplatform.api import platform_pb2 as pb
from dataplatform.core.access.verbs import WORDS
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.engine.memory import MemoryStorages
from dataplatform_server.servers import Server
from dataplatform_server.settings import Settings
from tests.rights import ROOT
from tests.rights import Core as Calls

from .doors import OK
from .requests import at

DENIED = "DENIED"
ANA_UID = 1000
STAFF_GID = 2001
"""Of a group that ana is in."""


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
    is_reached: bool = False  # where it is not allowed: whether one gets there all the same


CELLS = (
    Cell("allowed by mode", ANA_UID, 0o755, 0o644, None, "ana", True),
    Cell("denied by mode", 0, 0o700, 0o600, None, "ana", False),
    Cell("denied by mode, but reached", 0, 0o700, 0o600, None, "ana", False, True),
    Cell("allowed by expression", 0, 0o700, 0o600, "u:ana", "ana", True),
    Cell("denied by expression", ANA_UID, 0o755, 0o644, "u:bob", "ana", False),
    Cell("denied by expression, but reached", ANA_UID, 0o755, 0o644, "u:bob", "ana", False, True),
    Cell("read-only token", ANA_UID, 0o755, 0o644, None, "reader", True),
    Cell("outside of the subtree", ANA_UID, 0o755, 0o644, None, "inmate", False),
)


class World:
    """A server with users and tokens."""

    def __init__(self, server: Server, tokens: dict[str, str]) -> None:
        self.server = server
        self.tokens = tokens
        self.calls = Calls(server.platform)
        self._made = 0
        self._kept: dict[Cell, str] = {}

    async def directory(self, cell: Cell, wanted: str, *, changes: bool) -> str:
        """The directory of a cell: a new one where something will be changed in it."""
        if changes and wanted == OK:
            return await self.make(cell)
        if cell not in self._kept:
            self._kept[cell] = await self.make(cell)
        return self._kept[cell]

    async def make(self, cell: Cell) -> str:
        """A new directory of a cell."""
        self._made += 1
        base = f"/cell{self._made}"
        make = self.calls.make
        more: dict[str, Any] = {"owner": ROOT}
        await make(base, 0o755, kind=pb.DIRECTORY)
        for name, kind, mode in (
            ("d", pb.DIRECTORY, cell.directory),
            ("d/old", pb.FILE, cell.thing),
            ("d/empty", pb.DIRECTORY, cell.directory),
            ("f", pb.FILE, cell.thing),
            ("g", pb.FILE, cell.thing),
            ("t", pb.TABLE, cell.thing),
            ("s", pb.STREAM, cell.thing),
        ):
            await make(f"{base}/{name}", mode, kind=kind, **more)
            await self._own(f"{base}/{name}", cell.uid)
        await make(f"{base}/l", 0o777, kind=pb.SYMLINK, symlink="f")
        await self._root("Volumes.Create", pb.VolumeRequest(target=at(f"{base}/v")))
        await self._own(f"{base}/v", cell.uid)
        taken = pb.SnapshotRequest(target=at(f"{base}/v"), name="old")
        await self._root("Snapshots.Create", taken)
        clone = pb.CloneRequest(target=at(f"{base}/v"), name="old", new=at(f"{base}/c"))
        await self._root("Snapshots.Clone", clone)
        await make(f"{base}/c/x", cell.thing, kind=pb.FILE, **more)
        yearly = pb.SnapshotSchedule(name="yearly", every_s=365 * 86_400, keep=1)
        scheduled = pb.SnapshotScheduleRequest(target=at(f"{base}/v"), schedule=yearly)
        await self._root("Snapshots.SetSchedule", scheduled)
        await self._root(
            "Namespace.SetXattr",
            pb.XattrRequest(target=at(f"{base}/f"), name="user.x", value=b"v"),
        )
        await self._root("Files.Write", pb.WriteRequest(target=at(f"{base}/f")), b"bytes")
        put = pb.PutRequest(table=at(f"{base}/t"), key=b"k")
        await self._root("Tables.Put", put, msgpack.packb({"n": 1}))
        await self._root("Streams.CreateTopic", pb.TopicRequest(stream=at(f"{base}/s"), topic="a"))
        part = pb.CommitOffsetsRequest.Part(topic="a")
        commit = pb.CommitOffsetsRequest(stream=at(f"{base}/s"), group="g", parts=[part])
        await self._root("Groups.Commit", commit)
        await self._own(base, cell.uid)
        if cell.rule is not None:
            passing = {"execute": "p"} if cell.is_reached else {}
            await self._rule(base, dict.fromkeys(WORDS.values(), cell.rule) | passing)
        await self._rule(f"{base}/g", {"execute": "p"})  # to be copied
        mode = 0o755 if cell.is_reached else cell.directory
        change = pb.SetAttributesRequest(target=at(base), mode=mode)
        await self._root("Namespace.SetAttributes", change)
        return base

    async def _own(self, path: str, uid: int) -> None:
        message = pb.SetAttributesRequest(target=at(path), follow=True, uid=uid, gid=uid)
        await self._root("Namespace.SetAttributes", message)

    async def _root(self, method: str, message: Any, data: bytes = b"") -> Any:
        return await self.calls.call(ROOT, method, message, data)

    async def _rule(self, path: str, rules: dict[str, str]) -> None:
        node = await self.server.platform.locate(path)
        volume, number = node.volume, node.inode.number

        async def work(unit: Unit) -> None:
            inode = await unit.inode(number)
            inode.access = rules
            unit.save(inode)
            unit.move_rules()

        await volume.run(SYSTEM, work, durable=False)
        self.server.platform.release(volume)


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
    for group, gid in (("eng", 2000), ("staff", STAFF_GID)):
        await identities.create_group(SYSTEM, group, gid=gid)
    await identities.create_user(SYSTEM, "ana", uid=ANA_UID, groups=["staff"])
    await identities.create_user(SYSTEM, "bob", uid=1001)
    tokens = {}
    for name, more in (
        ("ana", {}),
        ("reader", {"is_read_only": True}),
        ("inmate", {"roots": [(jail.volume, jail.inode)], "paths": ["/jail"]}),
    ):
        given: dict[str, Any] = more
        token_id = await identities.create_token(SYSTEM, "ana", ttl_s=600, **given)
        tokens[name] = identities.text_of(token_id)
    try:
        await test(World(server, tokens))
    finally:
        await server.stop(0)


def expected(cell: Cell, about: str, *, changes: bool) -> str:
    """What every door must answer."""
    if about == "anybody":
        return OK
    if about == "own":
        return DENIED if cell.token == "inmate" else OK
    if about == "admins":
        return DENIED
    if cell.token == "reader" and changes:
        return DENIED
    is_allowed = cell.is_allowed or (about == "reach" and cell.is_reached)
    return OK if is_allowed else DENIED


def is_as_expected(got: str, wanted: str, *, is_sure: bool) -> bool:
    """`is_sure`: where it is allowed it succeeds; else it may fail for another reason."""
    return got == wanted or (wanted == OK and not is_sure and got != DENIED)
