"""The read cache: it never shows anything old, whatever happens to the file, the server or it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform_clients.fuse import blocks as blocks_module
from dataplatform_clients.fuse.blockfiles import BLOCK_BYTES, PIECE_BYTES, BlockFiles
from dataplatform_clients.fuse.blocks import Blocks
from dataplatform_clients.fuse.nodes import Node
from dataplatform_clients.fuse.reading import Reading
from dataplatform_clients.fuse.smallfiles import SmallFiles

from .fakes import World, at_work, file_message, turns

INODE = 2


class Server:
    """One file, as a server has it: commits, and writes that are buffered on top."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.version = 5
        self.buffered = False
        self.mtime_ns = 1000
        self.reads = 0

    def write(self, offset: int, data: bytes) -> None:
        whole = bytearray(max(len(self.data), offset + len(data)))
        whole[: len(self.data)] = self.data
        whole[offset : offset + len(data)] = data
        self.data = bytes(whole)
        self.buffered = True  # the time of its change may be the same: clocks differ

    def flush(self) -> None:
        if self.buffered:
            self.version += 1
            self.buffered = False

    def stat(self) -> pb.Node:
        return file_message(
            INODE,
            size=len(self.data),
            version=self.version,
            mtime_ns=self.mtime_ns,
            buffered=self.buffered,
        )

    def read(self, message: pb.ReadRequest, _: bytes) -> tuple[pb.ReadReply, bytes]:
        self.reads += 1
        reply = pb.ReadReply(size=len(self.data))
        if not self.buffered:
            reply.version, reply.mtime_ns = self.version, self.mtime_ns
        return reply, self.data[message.offset : message.offset + message.length]


class Cache:
    """A mount with a cache in a directory, and a handle that reads through it."""

    def __init__(self, world: World, server: Server, blocks: Blocks) -> None:
        self.world = world
        self.server = server
        self.blocks = blocks
        world.channel.handlers["Files.Read"] = server.read
        world.channel.handlers["Namespace.Stat"] = lambda message, data: server.stat()
        self.node: Node = world.mount.take(server.stat(), world.calls.mark())
        self.reading = Reading(self.node, world.calls, blocks, SmallFiles())

    async def read(self, offset: int, size: int) -> bytes:
        """As one read of the kernel, with no others around it."""
        if not self.node.promised:
            await self.world.mount.refresh(self.node)
        return bytes(await self.blocks.read(self.node, offset, size, self.reading.ask))

    async def reads_of(self, offset: int, size: int) -> int:
        """How often the server is asked for this."""
        before = self.server.reads
        assert await self.read(offset, size) == self.server.data[offset : offset + size]
        await self.blocks.settled()
        return self.server.reads - before

    def tell(self) -> None:
        """The server says that the file has changed."""
        self.world.calls.told(self.node.key)
        self.world.mount.nodes.distrust(self.node)


@contextlib.asynccontextmanager
async def caching(
    directory: Path, server: Server, *, size_bytes: int = 100 << 20, store: bytes = b"store"
) -> AsyncIterator[Cache]:
    async with at_work() as world:
        world.channel.store = store
        files = BlockFiles(directory, store.hex())
        blocks = Blocks(files, size_bytes, world.stats, lambda: world.channel.store)
        await blocks.begin()
        await blocks.scanned()
        try:
            yield Cache(world, server, blocks)
        finally:
            await blocks.close()


def _bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_what_was_read_is_not_asked_for_again(tmp_path: Path) -> None:
    server = Server(_bytes(3 * BLOCK_BYTES + 1000))
    async with caching(tmp_path, server) as cache:
        assert await cache.reads_of(0, 4096) == 1
        assert server.reads == 1
        assert await cache.reads_of(8192, 4096) == 0  # of the same piece
        assert await cache.reads_of(PIECE_BYTES, 4096) == 1
        assert await cache.reads_of(0, 3 * PIECE_BYTES) == 1  # for the third only
        assert len(server.data) == 3 * BLOCK_BYTES + 1000
        assert await cache.reads_of(BLOCK_BYTES - 10, 20) == 1  # over the border of two blocks
        assert await cache.reads_of(BLOCK_BYTES - 10, 20) == 0
        assert await cache.reads_of(3 * BLOCK_BYTES, 100_000) == 1  # the last piece is short
        assert await cache.reads_of(3 * BLOCK_BYTES + 999, 4096) == 0
        assert await cache.reads_of(3 * BLOCK_BYTES + 1000, 4096) == 0  # the end
        assert await cache.reads_of(PIECE_BYTES * 3, 2 * BLOCK_BYTES) == 1
        assert await cache.reads_of(0, 2 * BLOCK_BYTES) == 0
        assert cache.world.stats.cached_bytes > 2 * BLOCK_BYTES
        assert cache.world.stats.cached_read_bytes > 2 * BLOCK_BYTES


async def test_holes_between_pieces_are_filled(tmp_path: Path) -> None:
    async with caching(tmp_path, Server(_bytes(BLOCK_BYTES))) as cache:
        await cache.reads_of(2 * PIECE_BYTES, 10)
        await cache.reads_of(5 * PIECE_BYTES, 10)
        assert await cache.reads_of(PIECE_BYTES, 6 * PIECE_BYTES) == 1
        assert await cache.reads_of(PIECE_BYTES, 6 * PIECE_BYTES) == 0


async def test_another_mount_and_the_next_one_use_it(tmp_path: Path) -> None:
    server = Server(_bytes(BLOCK_BYTES + 5))
    async with caching(tmp_path, server) as cache:
        await cache.reads_of(0, 2 * BLOCK_BYTES)
    async with caching(tmp_path, server) as cache:
        assert cache.world.stats.cached_bytes >= BLOCK_BYTES
        assert await cache.reads_of(0, 2 * BLOCK_BYTES) == 0
        async with caching(tmp_path, server) as other:
            assert await other.reads_of(100, 200_000) == 0


async def test_it_is_used_before_all_of_it_is_known(tmp_path: Path) -> None:
    server = Server(_bytes(1000))
    async with caching(tmp_path, server) as cache:
        await cache.reads_of(0, 1000)
    async with at_work() as world:
        blocks = Blocks(
            BlockFiles(tmp_path, b"store".hex()), 1 << 20, world.stats, lambda: b"store"
        )
        cache = Cache(world, server, blocks)
        assert await cache.reads_of(0, 1000) == 0
        await blocks.close()


async def test_another_store_shares_nothing(tmp_path: Path) -> None:
    async with caching(tmp_path, Server(b"one")) as cache:
        await cache.reads_of(0, 3)
    async with caching(tmp_path, Server(b"two"), store=b"other") as cache:
        assert await cache.reads_of(0, 3) == 1
        cache.world.channel.store = b"store"  # another server behind the same address
        assert await cache.reads_of(0, 3) == 1
        assert await cache.reads_of(0, 3) == 1


# ---------------------------------------------------------------- nothing old


async def test_a_told_change_is_seen(tmp_path: Path) -> None:
    server = Server(_bytes(PIECE_BYTES))
    async with caching(tmp_path, server) as cache:
        await cache.reads_of(0, 100)
        server.write(50, b"new")
        cache.tell()
        assert await cache.reads_of(0, 100) == 1  # buffered: it is not known what it is
        assert await cache.reads_of(0, 100) == 1
        server.flush()  # nobody is told of that
        assert await cache.reads_of(0, 100) == 1
        assert await cache.reads_of(0, 100) == 1  # known by now, and stored
        assert await cache.reads_of(0, 100) == 0
        assert len(list(tmp_path.glob("*/*/*"))) == 1  # the old one is gone


async def test_a_write_of_ours_is_seen(tmp_path: Path) -> None:
    server = Server(_bytes(PIECE_BYTES))
    async with caching(tmp_path, server) as cache:
        await cache.reads_of(0, 100)

        def write(message: pb.WriteRequest, data: bytes) -> pb.WriteReply:
            server.write(message.offset, data)
            return pb.WriteReply()

        cache.world.channel.handlers["Files.Write"] = write
        cache.world.channel.hold("Files.Write")
        cache.node.wrote()
        cache.world.mount.writing(cache.node).write(10, b"mine", appends=False)
        # A stat and a read that were answered before it, and arrive behind it:
        old_stat, old_mark = server.stat(), cache.world.calls.mark()
        old_read = asyncio.create_task(cache.reading.read(0, 100))
        await turns()
        cache.world.channel.named("Files.Write")[0].answer()
        await turns()
        cache.world.mount.take(old_stat, old_mark)
        await old_read
        assert cache.node.content is None
        assert await cache.reads_of(0, 100) == 1


async def test_what_was_told_between_request_and_reply_is_not_believed(tmp_path: Path) -> None:
    server = Server(_bytes(1000))
    async with caching(tmp_path, server) as cache:
        is_told = asyncio.Event()

        async def read(message: pb.ReadRequest, data: bytes) -> tuple[pb.ReadReply, bytes]:
            reply = server.read(message, data)
            await is_told.wait()
            return reply

        cache.world.channel.handlers["Files.Read"] = read
        reading = asyncio.create_task(cache.read(0, 100))
        await cache.world.channel.asks()
        server.write(0, b"new")
        server.flush()
        cache.tell()
        await cache.world.mount.refresh(cache.node)  # promised again
        known = cache.node.content
        assert known is not None
        assert known.version == server.version
        is_told.set()
        await reading
        assert cache.node.content == known
        assert (await cache.read(0, 3)) == b"new"


async def test_a_read_is_of_one_moment(tmp_path: Path) -> None:
    server = Server(b"a" * (3 * PIECE_BYTES))
    async with caching(tmp_path, server) as cache:
        await cache.reads_of(PIECE_BYTES, 10)
        cache.world.channel.hold("Files.Read")
        reading = asyncio.create_task(cache.read(0, 2 * PIECE_BYTES))
        await cache.world.channel.asks()
        server.data = b"b" * (3 * PIECE_BYTES)
        server.version += 1
        cache.world.channel.held.clear()
        cache.world.channel.under_way[0].answer()
        assert await reading == b"b" * (2 * PIECE_BYTES)


async def test_a_walk_of_reads_writes_and_words(tmp_path: Path, seed: int) -> None:
    """Beside the bytes themselves; now and then everything is mounted again."""
    chosen = random.Random(seed)
    server = Server(_bytes(5 * PIECE_BYTES, seed))
    cached = 0
    for _ in range(6):
        async with caching(tmp_path, server, size_bytes=6 * PIECE_BYTES) as cache:
            for _ in range(120):
                step = chosen.randrange(12)
                size = len(server.data)
                if step == 0:
                    server.write(chosen.randrange(size), chosen.randbytes(chosen.randrange(1, 99)))
                    cache.tell()
                elif step == 1:
                    server.flush()
                elif step == 2:
                    server.data = server.data[: chosen.randrange(1, size + 1)]
                    server.version += 1
                    server.buffered = False
                    cache.tell()
                elif step == 3:
                    server.write(size + chosen.randrange(3), chosen.randbytes(PIECE_BYTES))
                    cache.tell()
                elif step == 4:
                    for path in list(tmp_path.glob("*/*/*"))[:1]:
                        path.unlink(missing_ok=True)
                else:
                    offset = chosen.randrange(len(server.data) + 10)
                    length = chosen.choice((1, 4096, PIECE_BYTES, 4 * PIECE_BYTES))
                    reads = [cache.read(offset, length) for _ in range(chosen.randrange(1, 3))]
                    for found in await asyncio.gather(*reads):
                        assert found == server.data[offset : offset + length]
            await cache.blocks.settled()
            cached += cache.world.stats.cached_read_bytes
            assert cache.world.stats.cached_bytes <= 6 * PIECE_BYTES
    assert cached


# ---------------------------------------------------------------- the disk


@pytest.mark.allow_warnings("a damaged block was removed")
async def test_damage_is_a_miss(tmp_path: Path) -> None:
    server = Server(_bytes(PIECE_BYTES))
    async with caching(tmp_path, server) as cache:
        await cache.reads_of(0, 100)
        (path,) = tmp_path.glob("*/*/*")
        damaged = bytearray(path.read_bytes())
        damaged[1000] ^= 4
        path.write_bytes(damaged)
        os.utime(path, (100, 100))
        assert await cache.reads_of(0, 100) == 1
        assert await cache.reads_of(0, 100) == 0


async def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    server = Server(_bytes(6 * BLOCK_BYTES))
    async with caching(tmp_path, server, size_bytes=3 * BLOCK_BYTES) as cache:
        for block in (0, 1, 2):
            await cache.reads_of(block * BLOCK_BYTES, BLOCK_BYTES)
        assert await cache.reads_of(0, BLOCK_BYTES) == 0  # used again
        await cache.reads_of(3 * BLOCK_BYTES, BLOCK_BYTES)
        assert await cache.reads_of(0, BLOCK_BYTES) == 0
        assert await cache.reads_of(BLOCK_BYTES, 4096) == 1
        assert cache.world.stats.cached_bytes <= 3 * BLOCK_BYTES
        assert len(list(tmp_path.glob("*/*/*"))) <= 4


async def test_a_smaller_cache_makes_room_when_it_begins(tmp_path: Path) -> None:
    server = Server(_bytes(4 * BLOCK_BYTES))
    async with caching(tmp_path, server) as cache:
        await cache.reads_of(0, 4 * BLOCK_BYTES)
    async with caching(tmp_path, server, size_bytes=2 * BLOCK_BYTES + 100_000) as cache:
        assert 0 < cache.world.stats.cached_bytes <= 2 * BLOCK_BYTES + 100_000
        assert len(list(tmp_path.glob("*/*/*"))) == 2


@pytest.mark.allow_warnings("the cache could not be stored")
async def test_a_full_disk_stops_the_cache_not_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(_bytes(3 * PIECE_BYTES))
    real, fails = BlockFiles.write, True

    def write(self: BlockFiles, *args: Any) -> None:
        if fails:
            raise OSError(errno.ENOSPC, "no space left")
        real(self, *args)

    monkeypatch.setattr(BlockFiles, "write", write)
    monkeypatch.setattr(blocks_module, "RETRY_S", 0.0)
    async with caching(tmp_path, server) as cache:
        for _ in range(3):
            assert await cache.reads_of(0, 100) == 1
        assert caplog.text.count("no space left") == 1
        assert cache.world.stats.cached_bytes == 0
        fails = False
        assert await cache.reads_of(0, 100) == 1
        assert await cache.reads_of(0, 100) == 0
        monkeypatch.setattr(blocks_module, "RETRY_S", 60.0)
        fails = True
        assert await cache.reads_of(PIECE_BYTES, 100) == 1
        fails = False
        assert await cache.reads_of(PIECE_BYTES, 100) == 1  # not tried again so soon
        assert not cache.world.stats.failures


@pytest.mark.allow_warnings("the cache could not be read")
async def test_a_disk_that_cannot_read_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with caching(tmp_path, Server(_bytes(100))) as cache:
        await cache.reads_of(0, 100)

        def read(*_: Any, **__: Any) -> None:
            raise OSError(errno.EIO, "unreadable")

        monkeypatch.setattr(BlockFiles, "read", read)
        assert await cache.reads_of(0, 100) == 1


async def test_what_another_mount_removed_is_asked_for(tmp_path: Path) -> None:
    async with caching(tmp_path, Server(_bytes(100))) as cache:
        await cache.reads_of(0, 100)
        for path in tmp_path.glob("*/*/*"):
            path.unlink()
        assert await cache.reads_of(0, 100) == 1
        assert await cache.reads_of(0, 100) == 0


async def test_a_slow_disk_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "STORING_BYTES_MAX", 3 * PIECE_BYTES)
    server = Server(_bytes(8 * PIECE_BYTES))
    async with caching(tmp_path, server) as cache:
        for piece in range(8):
            assert len(await cache.read(piece * PIECE_BYTES, 10)) == 10
        await cache.blocks.settled()
        assert cache.world.stats.cached_bytes <= 8 * PIECE_BYTES


async def test_a_directory_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with at_work() as world:
        blocks = Blocks(BlockFiles(tmp_path / "file", "aa"), 1 << 20, world.stats, lambda: b"s")
        with pytest.raises(OSError, match="Not a directory"):
            await blocks.begin()
        await blocks.close()
