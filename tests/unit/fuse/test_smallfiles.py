"""Small files in memory: read without asking, and never older than what was answered."""

from __future__ import annotations

import asyncio
import os

from dataplatform.api import platform_pb2 as pb
from dataplatform_clients.fuse import smallfiles
from dataplatform_clients.fuse.nodes import Node
from dataplatform_clients.fuse.operations.attributes import Attributes
from dataplatform_clients.fuse.operations.files import Files
from dataplatform_clients.fuse.operations.names import Names
from dataplatform_clients.fuse.smallfiles import ENTRY_BYTES, FILE_BYTES_MAX, SmallFiles

from .fakes import ROOT_ASKS, World, at_work, file_message, turns

BYTES = b"0123456789" * 100


class Work:
    """A program that writes and reads one file; the server has `data`."""

    def __init__(self, world: World, data: bytes = b"") -> None:
        self.world = world
        self.data = data
        world.channel.handlers["Files.Read"] = self._read
        world.channel.handlers["Files.Write"] = self._write
        world.channel.handlers["Namespace.Stat"] = lambda message, _: file_message(
            2, size=len(self.data)
        )
        names = Names(world.mount)
        self.files = Files(world.mount, names, Attributes(world.mount, names))
        self.node = world.file(2, size=len(data))

    def _read(self, message: pb.ReadRequest, _: bytes) -> tuple[pb.ReadReply, bytes]:
        end = message.offset + message.length
        return pb.ReadReply(size=len(self.data)), self.data[message.offset : end]

    def _write(self, message: pb.WriteRequest, data: bytes) -> pb.WriteReply:
        before = self.data.ljust(message.offset, b"\x00")
        self.data = before[: message.offset] + data + before[message.offset + len(data) :]
        return pb.WriteReply(offset=message.offset, size=len(self.data), verifier=b"v1")

    async def write(self, data: bytes, offset: int = 0) -> None:
        opened = await self.files.open(2, os.O_WRONLY, ROOT_ASKS.caller)
        await self.files.write(
            2,
            opened.handle.number,
            offset,
            data,
            ROOT_ASKS,
            appends=False,
            kill_set_id=False,
        )
        await self.files.flush(2, opened.handle.number)
        await self.files.release(2, opened.handle.number)

    async def read(self, offset: int = 0, size: int = 131072) -> bytes:
        opened = await self.files.open(2, os.O_RDONLY, ROOT_ASKS.caller)
        parts = await self.files.read(2, opened.handle.number, offset, size, ROOT_ASKS)
        await self.files.release(2, opened.handle.number)
        return b"".join(bytes(part) for part in parts)

    @property
    def reads(self) -> int:
        return len(self.world.channel.named("Files.Read"))


async def test_what_was_written_is_read_without_asking() -> None:
    async with at_work() as world:
        work = Work(world)
        await work.write(BYTES)
        assert await work.read() == BYTES
        assert await work.read(10, 10) == BYTES[10:20]
        assert await work.read(len(BYTES)) == b""
        assert work.reads == 0
        assert world.stats.read_bytes == len(BYTES) + 10


async def test_what_was_read_is_read_again_without_asking() -> None:
    async with at_work() as world:
        work = Work(world, BYTES)
        for _ in range(3):
            assert await work.read() == BYTES
        assert work.reads == 1


async def test_a_part_of_a_file_is_not_all_of_it() -> None:
    async with at_work() as world:
        work = Work(world, BYTES)
        assert await work.read(0, 100) == BYTES[:100]
        assert await work.read() == BYTES
        assert work.reads == 2
        await work.write(b"abc", 5)
        assert await work.read() == BYTES[:5] + b"abc" + BYTES[8:]
        assert work.reads == 3


async def test_a_write_over_it_is_what_is_read() -> None:
    async with at_work() as world:
        work = Work(world)
        await work.write(BYTES)
        await work.write(b"x" * len(BYTES))
        assert await work.read() == b"x" * len(BYTES)
        await work.write(b"y", len(BYTES))
        assert await work.read() == b"x" * len(BYTES) + b"y"


async def test_a_word_of_the_server_ends_it() -> None:
    async with at_work() as world:
        work = Work(world)
        await work.write(BYTES)
        work.data = b"another mount's"
        world.calls.told(work.node.key)
        world.mount.nodes.distrust(work.node)
        assert await work.read() == b"another mount's"
        assert work.reads == 1


async def test_a_word_while_it_is_written_keeps_it_from_being_kept() -> None:
    async with at_work() as world:
        work = Work(world)
        world.channel.hold("Files.Write")
        writing = asyncio.ensure_future(work.write(BYTES))
        asked = await world.channel.asks_for("Files.Write")
        world.calls.told(work.node.key)
        world.mount.nodes.distrust(work.node)
        asked.answer()
        await writing
        work.data = b"z" * len(BYTES)  # by whoever the word was about, after our write
        assert await work.read() == work.data


async def test_a_write_behind_a_write_keeps_the_first_from_being_kept() -> None:
    async with at_work() as world:
        work = Work(world)
        world.channel.hold("Files.Write")
        first = asyncio.ensure_future(work.write(BYTES))
        asked = await world.channel.asks_for("Files.Write")
        second = asyncio.ensure_future(work.write(b"!" * len(BYTES)))
        await turns()
        asked.answer()
        await turns()
        (await world.channel.asks_for("Files.Write")).answer()
        await asyncio.gather(first, second)
        assert await work.read() == b"!" * len(BYTES)


def _node(number: int, size: int) -> Node:
    node = Node(number, 1, number)
    node.promised = node.known = True
    node.size = size
    return node


def test_the_least_recently_used_go() -> None:
    small = SmallFiles()
    size = FILE_BYTES_MAX
    nodes = [_node(number, size) for number in range(3 * smallfiles.KEPT_BYTES_MAX // size)]
    for node in nodes:
        small.keep(node, [bytes(size)])
        small.find(nodes[0])
    assert small.kept_bytes <= smallfiles.KEPT_BYTES_MAX
    assert small.kept_bytes == len(small) * (size + ENTRY_BYTES)
    assert small.find(nodes[0]) is not None
    assert small.find(nodes[1]) is None
    assert small.find(nodes[-1]) is not None


def test_what_is_too_large_or_not_promised() -> None:
    small = SmallFiles()
    large = _node(1, FILE_BYTES_MAX + 1)
    small.keep(large, [bytes(FILE_BYTES_MAX + 1)])
    assert small.find(large) is None
    node = _node(2, 5)
    small.keep(node, [b"ab", b"cde"])
    assert small.find(node) == b"abcde"
    node.promised = False
    assert small.find(node) is None
    node.promised = True
    node.moved()
    assert small.find(node) is None
    assert small.kept_bytes == 0
