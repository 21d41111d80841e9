"""Names: an answer that comes behind the answer to a later change of ours does not undo it.

The kernel looks a name up anew, once its time is over, without locking the directory (fuse_dentry_
revalidate), so such a request is under way beside a create, an unlink or a rename of that name.
"""

from __future__ import annotations

import asyncio

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import NotFound
from dataplatform_clients.fuse.nodes import Node
from dataplatform_clients.fuse.operations.names import Names

from .fakes import ROOT_ASKS, World, at_work, file_message, turns

NAME = b"db-journal"
CALLER = ROOT_ASKS.caller


class Server:
    """One directory with at most one name in it."""

    def __init__(self, world: World, *, exists: bool) -> None:
        self.exists = exists
        self.version = 10
        world.channel.handlers |= {
            "Namespace.Stat": self.stat,
            "Namespace.Create": self.create,
            "Namespace.Remove": self.remove,
        }

    def stat(self, message: pb.StatRequest, _: bytes) -> pb.Node:
        if not message.target.path:
            return self.directory()
        if not self.exists:
            raise NotFound("no such file or directory")
        return file_message(7, version=self.version)

    def directory(self) -> pb.Node:
        size = 1 if self.exists else 0
        return pb.Node(
            volume=1,
            inode=3,
            kind=pb.DIRECTORY,
            mode=0o755,
            links=2,
            size=size,
            mtime_ns=self.version,
        )

    def create(self, message: pb.CreateRequest, _: bytes) -> pb.Node:
        self.exists = True
        self.version += 1
        return file_message(7, version=self.version, ctime_ns=self.version)

    def remove(self, message: pb.RemoveRequest, _: bytes) -> pb.NamesReply:
        self.exists = False
        self.version += 1
        return pb.NamesReply(lost=7, is_last=True, time_ns=self.version)


async def _overtaken(world: World, server: Server, look: object, change: object) -> None:
    """`look` is answered by the server before `change` is made, and arrives behind its answer."""
    channel = world.channel
    late = asyncio.Event()
    answer = server.stat

    async def slow(message: pb.StatRequest, data: bytes) -> pb.Node:
        try:
            found: pb.Node | NotFound = answer(message, data)
        except NotFound as error:
            found = error
        await late.wait()
        if isinstance(found, NotFound):
            raise found
        return found

    channel.handlers["Namespace.Stat"] = slow
    looking = asyncio.ensure_future(look())  # type: ignore[operator]
    await turns()
    channel.handlers["Namespace.Stat"] = answer
    await change()  # type: ignore[operator]
    late.set()
    await asyncio.wait([looking])


async def _looked_up(names: Names, directory: Node) -> Node | None:
    return (await names.lookup(directory.number, NAME, CALLER)).node


async def test_a_name_that_was_not_there_before_it_was_created() -> None:
    async with at_work() as world:
        server = Server(world, exists=False)
        names, directory = Names(world.mount), world.directory(3)
        await _overtaken(
            world,
            server,
            lambda: names.lookup(directory.number, NAME, CALLER),
            lambda: names.create(directory.number, NAME, 0o644, CALLER, exclusive=True),
        )
        assert await _looked_up(names, directory) is not None


async def test_a_name_that_was_there_before_it_was_removed() -> None:
    async with at_work() as world:
        server = Server(world, exists=True)
        names, directory = Names(world.mount), world.directory(3)
        await _overtaken(
            world,
            server,
            lambda: names.lookup(directory.number, NAME, CALLER),
            lambda: names.unlink(directory.number, NAME, CALLER),
        )
        assert await _looked_up(names, directory) is None


async def test_what_the_kernel_is_not_to_keep() -> None:
    async with at_work() as world:
        server = Server(world, exists=False)
        names, directory = Names(world.mount), world.directory(3)
        looked = []

        async def look() -> None:
            looked.append(await names.lookup(directory.number, NAME, CALLER))

        await _overtaken(
            world,
            server,
            look,
            lambda: names.create(directory.number, NAME, 0o644, CALLER, exclusive=True),
        )
        assert looked[0].node is None
        assert not looked[0].is_kept


async def test_attributes_of_a_directory_before_a_name_came() -> None:
    async with at_work() as world:
        server = Server(world, exists=False)
        names, directory = Names(world.mount), world.directory(3)
        directory.known = False
        await _overtaken(
            world,
            server,
            lambda: world.mount.node(directory.number),
            lambda: names.create(directory.number, NAME, 0o644, CALLER, exclusive=True),
        )
        node = await world.mount.node(directory.number)
        assert (node.size, node.mtime_ns) == (1, server.version)


async def test_attributes_of_a_directory_that_were_asked_for_beside() -> None:
    """As a lookup of it does."""
    async with at_work() as world:
        server = Server(world, exists=False)
        names, directory = Names(world.mount), world.directory(3)
        mark, before = world.calls.mark(), server.directory()
        await names.create(directory.number, NAME, 0o644, CALLER, exclusive=True)
        world.mount.take(before, mark)
        node = await world.mount.node(directory.number)
        assert (node.size, node.mtime_ns) == (1, server.version)
