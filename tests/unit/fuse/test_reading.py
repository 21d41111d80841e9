"""The read path: what is fetched ahead, and that it is never older than the read that gets it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Corrupt, PlatformError
from dataplatform_clients.fuse.nodes import Node
from dataplatform_clients.fuse.operations.attributes import Attributes
from dataplatform_clients.fuse.operations.files import Files
from dataplatform_clients.fuse.operations.names import Names
from dataplatform_clients.fuse.reading import (
    AHEAD_CHUNKS_MAX,
    CHUNK_BYTES,
    SEQUENTIAL_BYTES_MIN,
    Reading,
)
from dataplatform_clients.fuse.smallfiles import SmallFiles

from .fakes import ROOT_ASKS, World, at_work, file_message, ranges, turns

KERNEL_BYTES = 128 * 1024


class Disk:
    def __init__(self, world: World, size: int) -> None:
        self.data = bytearray(random.Random(1).randbytes(1 << 16) * (size // (1 << 16) + 1))[:size]
        world.channel.handlers["Files.Read"] = self.read
        world.channel.handlers["Files.Write"] = self.write
        world.channel.handlers["Namespace.Stat"] = lambda message, data: file_message(
            2, size=len(self.data)
        )

    def read(self, message: pb.ReadRequest, _: bytes) -> tuple[pb.ReadReply, bytes]:
        data = bytes(self.data[message.offset : message.offset + message.length])
        return pb.ReadReply(size=len(self.data)), data

    def write(self, message: pb.WriteRequest, data: bytes) -> pb.WriteReply:
        at = 0
        for offset, length in ranges(message, data):
            self.data[offset : offset + length] = data[at : at + length]
            at += length
        return pb.WriteReply()


def _reading(world: World, size: int) -> tuple[Disk, Node, Reading]:
    disk = Disk(world, size)
    node = world.file(2, size=size)
    return disk, node, Reading(node, world.calls, None, SmallFiles())


async def _read(reading: Reading, offset: int, size: int) -> bytes:
    return b"".join(bytes(part) for part in await reading.read(offset, size))


def _asked(world: World) -> list[tuple[int, int]]:
    return [(a.message.offset, a.message.length) for a in world.channel.named("Files.Read")]


async def test_small_files_are_read_as_they_are_asked_for() -> None:
    async with at_work() as world:
        disk, _, reading = _reading(world, 5000)
        assert await _read(reading, 0, 4096) == disk.data[:4096]
        assert await _read(reading, 4096, 4096) == disk.data[4096:]
        assert await _read(reading, 8192, 4096) == b""
        assert _asked(world) == [(0, 4096), (4096, 4096), (8192, 4096)]


async def test_who_reads_on_and_on_is_read_ahead_for() -> None:
    async with at_work() as world:
        size = 10 * CHUNK_BYTES + 12_345
        disk, _, reading = _reading(world, size)
        found = b""
        for offset in range(0, size + KERNEL_BYTES, KERNEL_BYTES):
            found += await _read(reading, offset, KERNEL_BYTES)
            assert len(reading._chunks) <= AHEAD_CHUNKS_MAX + 3
        assert found == disk.data
        before = SEQUENTIAL_BYTES_MIN // KERNEL_BYTES
        assert len(_asked(world)) <= 11 + before
        assert world.stats.read_bytes <= size + before * KERNEL_BYTES


async def test_it_is_read_ahead_before_it_is_asked_for() -> None:
    async with at_work() as world:
        _, _, reading = _reading(world, 8 * CHUNK_BYTES)
        await _read(reading, 0, SEQUENTIAL_BYTES_MIN)
        await turns()
        assert [offset for offset, _ in _asked(world)] == [
            chunk * CHUNK_BYTES for chunk in range(AHEAD_CHUNKS_MAX + 1)
        ]


async def test_nothing_is_asked_for_beyond_the_end() -> None:
    async with at_work() as world:
        _, _, reading = _reading(world, CHUNK_BYTES + 5)
        await _read(reading, 0, SEQUENTIAL_BYTES_MIN)
        await turns()
        assert _asked(world) == [(0, CHUNK_BYTES), (CHUNK_BYTES, CHUNK_BYTES)]
        assert len(await _read(reading, SEQUENTIAL_BYTES_MIN, 2 * CHUNK_BYTES)) == (
            CHUNK_BYTES + 5 - SEQUENTIAL_BYTES_MIN
        )


async def test_a_jump_forgets_what_was_fetched_ahead() -> None:
    async with at_work() as world:
        disk, _, reading = _reading(world, 40 * CHUNK_BYTES)
        world.channel.hold("Files.Read")
        first = asyncio.create_task(_read(reading, 0, SEQUENTIAL_BYTES_MIN))
        await turns()
        world.channel.named("Files.Read")[0].answer()
        await first
        jump = asyncio.create_task(_read(reading, 30 * CHUNK_BYTES, 4096))
        await turns()
        assert not reading._chunks
        assert [a.message.offset for a in world.channel.under_way] == [30 * CHUNK_BYTES]
        world.channel.under_way[0].answer()
        assert await jump == disk.data[30 * CHUNK_BYTES : 30 * CHUNK_BYTES + 4096]


async def test_reads_of_the_kernel_side_by_side() -> None:
    """It reads ahead itself: many requests at once, further than we keep chunks."""
    async with at_work() as world:
        size = 24 * CHUNK_BYTES
        disk, _, reading = _reading(world, size)
        world.channel.hold("Files.Read")
        step = CHUNK_BYTES // 2
        reads = [
            asyncio.create_task(_read(reading, offset, CHUNK_BYTES))
            for offset in range(0, size - CHUNK_BYTES, step)
        ]
        while not all(task.done() for task in reads):
            await turns()
            for asked in list(world.channel.under_way)[::-1]:
                asked.answer()
        for number, task in enumerate(reads):
            assert await task == disk.data[number * step : number * step + CHUNK_BYTES]


async def test_the_end_of_one_reader_does_not_take_the_chunk_of_another() -> None:
    async with at_work() as world:
        disk, _, reading = _reading(world, 4 * CHUNK_BYTES)
        world.channel.hold("Files.Read")
        first = asyncio.create_task(_read(reading, 0, SEQUENTIAL_BYTES_MIN))
        second = asyncio.create_task(_read(reading, SEQUENTIAL_BYTES_MIN, 10))
        await turns()
        first.cancel()
        await turns()
        world.channel.named("Files.Read")[0].answer()
        assert await second == disk.data[SEQUENTIAL_BYTES_MIN : SEQUENTIAL_BYTES_MIN + 10]


async def test_an_error_reaches_the_reader_and_nobody_else() -> None:
    async with at_work() as world:
        disk, _, reading = _reading(world, 4 * CHUNK_BYTES)
        real = disk.read

        def read(message: pb.ReadRequest, data: bytes) -> Any:
            if message.offset == CHUNK_BYTES:
                raise Corrupt("damaged")
            return real(message, data)

        world.channel.handlers["Files.Read"] = read
        await _read(reading, 0, SEQUENTIAL_BYTES_MIN)
        await turns()  # fetched ahead in vain: no noise
        with pytest.raises(PlatformError):
            await _read(reading, CHUNK_BYTES - 10, 20)
        world.channel.handlers["Files.Read"] = real
        reading.forget()
        assert await _read(reading, CHUNK_BYTES, 10) == disk.data[CHUNK_BYTES : CHUNK_BYTES + 10]


# ---------------------------------------------------------------- never old


async def test_what_was_fetched_ahead_before_a_word_is_fetched_anew() -> None:
    async with at_work() as world:
        disk, node, reading = _reading(world, 4 * CHUNK_BYTES)
        await _read(reading, 0, SEQUENTIAL_BYTES_MIN)
        await turns()
        disk.data[SEQUENTIAL_BYTES_MIN : SEQUENTIAL_BYTES_MIN + 3] = b"NEW"
        world.calls.told(node.key)
        world.mount.nodes.distrust(node)
        assert (await _read(reading, SEQUENTIAL_BYTES_MIN, 10))[:3] == b"NEW"


async def test_what_was_fetched_while_a_write_was_under_way_is_fetched_anew() -> None:
    async with at_work() as world:
        disk, node, reading = _reading(world, 4 * CHUNK_BYTES)
        world.channel.hold("Files.Write")
        at = 2 * CHUNK_BYTES + 5
        node.wrote()
        world.mount.writing(node).write(at, b"NEW", appends=False)
        await _read(reading, 0, SEQUENTIAL_BYTES_MIN)  # of another place, at the same time
        await turns()
        world.channel.held.clear()
        world.channel.named("Files.Write")[0].answer()
        await world.mount.writing(node).flush()
        offset = SEQUENTIAL_BYTES_MIN
        found = await _read(reading, offset, 3 * CHUNK_BYTES)
        assert found == disk.data[offset : offset + 3 * CHUNK_BYTES]
        assert found[at - offset : at - offset + 3] == b"NEW"


async def test_a_walk_of_readers_and_a_writer(seed: int) -> None:
    """Through the operations: every read has what was written before it."""
    chosen = random.Random(seed)
    async with at_work() as world:
        size = 6 * CHUNK_BYTES
        disk = Disk(world, size)
        model = bytearray(disk.data)
        node = world.file(2, size=size)
        names = Names(world.mount)
        files = Files(world.mount, names, Attributes(world.mount, names))
        handles = [(await files.open(2, 2, ROOT_ASKS.caller)).handle for _ in range(3)]
        at = [0, 0, 0]
        world.channel.hold("Files.Write")

        async def answer() -> None:
            while True:
                for asked in list(world.channel.under_way):
                    asked.answer()
                await turns(chosen.randrange(1, 5))

        answering = asyncio.create_task(answer())
        for _ in range(200):
            which = chosen.randrange(3)
            if chosen.random() < 0.3:
                offset = chosen.randrange(size - 100)
                data = chosen.randbytes(100)
                await files.write(
                    2,
                    handles[which].number,
                    offset,
                    data,
                    ROOT_ASKS,
                    appends=False,
                    kill_set_id=False,
                )
                model[offset : offset + 100] = data
            elif chosen.random() < 0.1:
                await files.flush(2, handles[which].number)  # or nobody can say what is on top
                offset = chosen.randrange(size - 9)
                model[offset : offset + 9] = disk.data[offset : offset + 9] = b"elsewhere"
                world.calls.told(node.key)
                world.mount.nodes.distrust(node)
            else:
                length = chosen.choice((4096, KERNEL_BYTES, CHUNK_BYTES))
                if chosen.random() < 0.1:
                    at[which] = chosen.randrange(size)
                found = await files.read(2, handles[which].number, at[which], length, ROOT_ASKS)
                assert b"".join(map(bytes, found)) == model[at[which] : at[which] + length]
                at[which] = (at[which] + length) % size
        answering.cancel()


async def test_a_read_asks_for_a_promise_first() -> None:
    async with at_work() as world:
        disk = Disk(world, 5000)
        node = world.file(2, size=5000)
        names = Names(world.mount)
        files = Files(world.mount, names, Attributes(world.mount, names))
        handle = (await files.open(2, 0, ROOT_ASKS.caller)).handle
        world.mount.nodes.distrust(node)
        told = 0

        def stat(message: pb.StatRequest, data: bytes) -> pb.Node:
            nonlocal told
            if told < 2:
                told += 1
                world.calls.told(node.key)  # it changes again before the answer is there
            return file_message(2, size=5000)

        world.channel.handlers["Namespace.Stat"] = stat
        found = await files.read(2, handle.number, 0, 4096, ROOT_ASKS)
        assert b"".join(map(bytes, found)) == disk.data[:4096]
        assert node.promised
        assert ("pages", 2) not in world.kernel.told
        told = -1000
        world.mount.nodes.distrust(node)
        await files.read(2, handle.number, 0, 4096, ROOT_ASKS)
        assert ("pages", 2) in world.kernel.told  # without a promise the kernel keeps nothing
