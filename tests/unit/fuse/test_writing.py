"""The write path: every byte goes where it was written, in an order that nobody can tell from the
programs' own, and what fails is told of once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Conflict, Exhausted, PlatformError, Unavailable
from dataplatform_clients.fuse import writing as writing_module
from dataplatform_clients.fuse.handles import Handle
from dataplatform_clients.fuse.nodes import Node
from dataplatform_clients.fuse.operations.attributes import Attributes
from dataplatform_clients.fuse.operations.files import Files
from dataplatform_clients.fuse.operations.names import Names
from dataplatform_clients.fuse.writing import (
    BULK_BYTES,
    FLIGHTS_MAX,
    PARTS_MAX,
    REQUEST_BYTES_MAX,
    Writing,
)

from .fakes import ROOT_ASKS, VERIFIER, Asked, World, at_work, file_message, ranges, turns


class Disk:
    """A file at the server."""

    def __init__(self, world: World) -> None:
        self.data = bytearray()
        self.syncs = 0
        self._world = world
        world.channel.handlers["Files.Write"] = self.write
        world.channel.handlers["Files.Sync"] = self.sync
        world.channel.handlers["Files.Read"] = self.read

    def write(self, message: pb.WriteRequest, data: bytes) -> pb.WriteReply:
        self._assert_alone(message)
        if message.HasField("expected_size") and message.expected_size != len(self.data):
            raise Conflict("another size", size=len(self.data))
        at = 0
        for offset, length in ranges(message, data):
            self.put(offset, data[at : at + length])
            at += length
        if message.durability == pb.DURABLE:
            self.syncs += 1
        return pb.WriteReply(offset=message.offset, size=len(self.data), verifier=VERIFIER)

    def put(self, offset: int, data: bytes) -> None:
        if offset > len(self.data):
            self.data += bytes(offset - len(self.data))
        self.data[offset : offset + len(data)] = data

    def sync(self, message: pb.SyncRequest, _: bytes) -> pb.SyncReply:
        self.syncs += 1
        return pb.SyncReply(verifier=VERIFIER)

    def read(self, message: pb.ReadRequest, _: bytes) -> tuple[pb.ReadReply, bytes]:
        return pb.ReadReply(), bytes(self.data[message.offset : message.offset + message.length])

    def _assert_alone(self, message: pb.WriteRequest) -> None:
        """No other write under way touches the same bytes."""
        others = [
            asked
            for asked in self._world.channel.under_way
            if asked.name == "Files.Write" and asked.message is not message
        ]
        for asked in others:
            for one in (message, asked.message):
                assert not one.HasField("expected_size"), "an append is not alone"
            for offset, length in ranges(message, b""):
                for other, size in ranges(asked.message, asked.data):
                    assert offset + length <= other or other + size <= offset or not length


def _writing(world: World, *, size: int = 0) -> tuple[Node, Writing]:
    node = world.file(size=size)
    return node, world.mount.writing(node)


def _writes(world: World) -> list[Asked]:
    return world.channel.named("Files.Write")


# ---------------------------------------------------------------- gathering


async def test_the_first_write_leaves_at_once_and_the_rest_gathers() -> None:
    async with at_work() as world:
        disk = Disk(world)
        world.channel.hold("Files.Write")
        node, writing = _writing(world)
        for number in range(10):
            writing.write(number * 10, b"0123456789", appends=False)
        writing.write(1000, b"elsewhere", appends=False)
        await turns()
        assert [len(asked.data) for asked in _writes(world)] == [10]
        assert node.size == 1009
        assert node.packed is None
        world.channel.held.clear()
        _writes(world)[0].answer()
        await writing.flush()
        first, second = _writes(world)
        assert ranges(second.message, second.data) == [(10, 90), (1000, 9)]
        assert not writing.is_busy
        assert disk.data == b"0123456789" * 10 + bytes(900) + b"elsewhere"
        assert world.mount.budget.used_bytes == 0
        assert world.channel.unsynced.size_bytes == 109
        assert first.message.mtime_ns <= node.mtime_ns == second.message.mtime_ns


async def test_the_last_of_overlapping_writes_wins() -> None:
    async with at_work() as world:
        disk = Disk(world)
        world.channel.hold("Files.Write")
        _, writing = _writing(world)
        writing.write(0, b"aaaa", appends=False)
        writing.write(2, b"bbbb", appends=False)
        writing.write(0, b"c", appends=False)
        world.channel.held.clear()
        await turns()
        _writes(world)[0].answer()
        await writing.flush()
        assert disk.data == b"cabbbb"


async def test_bulk_leaves_side_by_side_but_not_over_itself() -> None:
    async with at_work() as world:
        Disk(world)
        world.channel.hold("Files.Write")
        _, writing = _writing(world)
        bulk = bytes(REQUEST_BYTES_MAX)
        for number in range(FLIGHTS_MAX + 2):
            writing.write(number * REQUEST_BYTES_MAX, bulk, appends=False)
        await turns()
        assert len(_writes(world)) == FLIGHTS_MAX
        for asked in _writes(world):
            asked.answer()
        await turns()
        assert len(_writes(world)) == FLIGHTS_MAX + 2
        writing.write(FLIGHTS_MAX * REQUEST_BYTES_MAX, bulk, appends=False)  # over one under way
        await turns()
        assert len(_writes(world)) == FLIGHTS_MAX + 2
        _writes(world)[FLIGHTS_MAX].answer()
        await turns()
        assert len(_writes(world)) == FLIGHTS_MAX + 3
        world.channel.held.clear()
        for asked in world.channel.under_way:
            asked.answer()
        await writing.flush()


async def test_a_request_has_its_limits() -> None:
    async with at_work() as world:
        disk = Disk(world)
        world.channel.hold("Files.Write")
        _, writing = _writing(world)
        writing.write(0, b"x", appends=False)
        for number in range(2 * PARTS_MAX):
            writing.write(10 + 2 * number, b"x", appends=False)
        for number in range(5):
            writing.write(10_000 + number * BULK_BYTES, bytes(BULK_BYTES - 1), appends=False)
        world.channel.held.clear()
        await turns()
        _writes(world)[0].answer()
        await writing.flush()
        for asked in _writes(world):
            assert len(asked.message.parts) <= PARTS_MAX
            assert len(asked.data) <= REQUEST_BYTES_MAX
        assert disk.data.count(b"x") == 2 * PARTS_MAX + 1


async def test_a_walk_of_writes_answered_in_any_order(seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(30):
        async with at_work() as world:
            disk = Disk(world)
            world.channel.hold("Files.Write")
            node, writing = _writing(world)
            model = bytearray()
            for _ in range(60):
                step = chosen.random()
                if step < 0.55:
                    size = chosen.choice((1, 10, 4096, BULK_BYTES, REQUEST_BYTES_MAX))
                    offset = chosen.randrange(3 * REQUEST_BYTES_MAX)
                    data = chosen.randbytes(8) * (size // 8 + 1)
                    if chosen.random() < 0.1:
                        offset = len(model)
                        writing.write(offset, data, appends=True)
                    else:
                        writing.write(offset, data, appends=False)
                    model += bytes(max(offset - len(model), 0))
                    model[offset : offset + len(data)] = data
                    assert node.size == len(model)
                elif world.channel.under_way:
                    chosen.choice(world.channel.under_way).answer()
                    await turns(chosen.randrange(8))
            world.channel.held.clear()
            for asked in list(world.channel.under_way):
                asked.answer()
            await writing.flush()
            assert disk.data == model
            assert not writing.failures
            assert world.mount.budget.used_bytes == 0
            assert not world.handover.dirty()


# ---------------------------------------------------------------- flush


async def test_a_flush_waits_for_what_was_written_before_it_only() -> None:
    async with at_work() as world:
        Disk(world)
        world.channel.hold("Files.Write")
        _, writing = _writing(world)
        writing.write(0, b"one", appends=False)
        writing.write(100, b"two", appends=False)
        flush = asyncio.create_task(writing.flush())
        await turns()
        assert len(_writes(world)) == 1
        writing.write(200, b"three", appends=False)  # goes along with two
        _writes(world)[0].answer()
        await turns()
        assert not flush.done()
        writing.write(300, b"four", appends=False)  # somebody goes on and on
        _writes(world)[1].answer()
        await turns()
        assert writing.is_busy
        assert flush.done()
        late = asyncio.create_task(writing.flush())
        await turns()
        assert not late.done()
        _writes(world)[2].answer()
        await late
        assert not writing.is_busy


async def test_many_flushes_and_one_that_gives_up() -> None:
    async with at_work() as world:
        Disk(world)
        world.channel.hold("Files.Write")
        _, writing = _writing(world)
        writing.write(0, b"one", appends=False)
        tasks = [asyncio.create_task(writing.flush()) for _ in range(5)]
        await turns()
        tasks[2].cancel()
        _writes(world)[0].answer()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found].count(asyncio.CancelledError) == 1
        await writing.flush()  # nothing to do


# ---------------------------------------------------------------- sync


async def test_a_small_write_and_its_sync_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing_module, "HOLD_S", 60.0)
    async with at_work() as world:
        disk = Disk(world)
        _, writing = _writing(world)
        writing.write(0, b"first", appends=False)  # nobody knows yet that a sync follows
        await writing.sync()
        assert [asked.name for asked in world.channel.asked] == ["Files.Write", "Files.Sync"]
        for number in range(3):
            world.channel.asked.clear()
            writing.write(10 * number, b"next", appends=False)
            await turns()
            assert not world.channel.asked  # held back for a moment
            await writing.sync()
            (asked,) = world.channel.asked
            assert asked.message.durability == pb.DURABLE
            assert world.channel.unsynced.size_bytes == 0
        assert disk.data[20:24] == b"next"
        assert disk.syncs == 4


async def test_a_write_held_back_in_vain_leaves_soon() -> None:
    async with at_work() as world:
        Disk(world)
        _, writing = _writing(world)
        writing.write(0, b"first", appends=False)
        await writing.sync()
        world.channel.hold("Files.Write")
        writing.write(0, b"held", appends=False)
        asked = await asyncio.wait_for(world.channel.asks(), 1)
        assert asked.message.durability == pb.LAZY
        asked.answer()
        world.channel.held.clear()
        await writing.flush()
        world.channel.asked.clear()
        writing.write(0, b"at once", appends=False)  # it has learnt
        await turns()
        assert len(world.channel.asked) == 1


async def test_a_flush_does_not_wait_for_a_sync_to_come() -> None:
    async with at_work() as world:
        Disk(world)
        _, writing = _writing(world)
        writing.write(0, b"first", appends=False)
        await writing.sync()
        writing.write(0, b"held", appends=False)
        await writing.flush()
        assert not writing.is_busy


async def test_a_sync_sends_again_what_a_dead_server_took_along() -> None:
    async with at_work() as world:
        disk = Disk(world)
        _, writing = _writing(world)
        writing.write(0, b"lost", appends=False)
        await writing.flush()
        disk.data.clear()  # a server that was restarted: another verifier
        handlers = world.channel.handlers

        def write(message: pb.WriteRequest, data: bytes) -> pb.WriteReply:
            reply = disk.write(message, data)
            reply.verifier = b"v2"
            return reply

        handlers["Files.Write"] = write
        handlers["Files.Sync"] = lambda message, data: pb.SyncReply(verifier=b"v2")
        writing.write(10, b"new", appends=False)
        await writing.sync()
        assert disk.data == b"lost" + bytes(6) + b"new"
        assert world.channel.unsynced.size_bytes == 0


async def test_the_end_of_who_syncs_is_not_the_end_of_what_he_wrote() -> None:
    async with at_work() as world:
        disk = Disk(world)
        _, writing = _writing(world)
        writing.write(0, b"first", appends=False)
        await writing.sync()
        world.channel.hold("Files.Write")
        writing.write(0, b"killed", appends=False)
        sync = asyncio.create_task(writing.sync())
        await turns()
        writing.write(3, b"later", appends=False)
        sync.cancel()
        await turns()
        assert sync.cancelled()
        assert writing.is_busy
        assert world.handover.dirty()
        world.channel.held.clear()
        for asked in list(world.channel.under_way):
            asked.answer()
        await writing.flush()
        assert disk.data == b"killater"
        assert world.mount.budget.used_bytes == 0
        assert not writing.failures
        assert not world.handover.dirty()


async def test_the_end_of_who_syncs_an_append_does_not_append_it_twice() -> None:
    async with at_work() as world:
        disk = Disk(world)
        _, writing = _writing(world)
        writing.write(0, b"first\n", appends=True)
        await writing.sync()
        answered = asyncio.Event()

        async def slow(message: pb.WriteRequest, data: bytes) -> pb.WriteReply:
            reply = disk.write(message, data)  # it is done, and the answer does not come
            await answered.wait()
            return reply

        world.channel.handlers["Files.Write"] = slow
        writing.write(6, b"second\n", appends=True)
        sync = asyncio.create_task(writing.sync())
        await world.channel.asks()
        world.channel.handlers["Files.Write"] = disk.write
        sync.cancel()
        answered.set()
        await turns()
        await writing.flush()
        assert disk.data == b"first\nsecond\n"
        assert not writing.failures


# ---------------------------------------------------------------- appends


async def test_an_append_goes_behind_what_another_mount_appended() -> None:
    async with at_work() as world:
        disk = Disk(world)
        disk.data += b"0123"
        node, writing = _writing(world, size=4)
        world.channel.hold("Files.Write")
        writing.write(4, b"mine", appends=True)
        writing.write(8, b"again", appends=True)
        await turns()
        disk.data += b"THEIRS"
        world.channel.held.clear()
        _writes(world)[0].answer()
        await writing.flush()
        assert disk.data == b"0123THEIRSmineagain"
        assert node.size == len(disk.data)
        assert not node.known
        assert ("pages", node.number) in world.kernel.told
        assert ("attributes", node.number) in world.kernel.told
        assert not writing.failures


async def test_an_append_is_under_way_alone() -> None:
    async with at_work() as world:
        disk = Disk(world)
        world.channel.hold("Files.Write")
        _, writing = _writing(world)
        writing.write(0, b"append", appends=True)
        for number in range(3):
            writing.write((number + 1) * REQUEST_BYTES_MAX, bytes(BULK_BYTES), appends=False)
        writing.write(0, bytes(BULK_BYTES), appends=True)
        await turns()
        assert len(_writes(world)) == 1
        for _ in range(3):
            for asked in list(world.channel.under_way):
                asked.answer()
            await turns()
        await writing.flush()
        assert len(disk.data) == 3 * REQUEST_BYTES_MAX + 2 * BULK_BYTES


async def test_an_append_after_a_cut_by_another_mount() -> None:
    async with at_work() as world:
        disk = Disk(world)
        _, writing = _writing(world, size=100)  # as it was
        writing.write(100, b"end", appends=True)
        await writing.flush()
        assert disk.data == b"end"


async def test_an_append_whose_answer_was_lost_is_not_there_twice() -> None:
    async with at_work() as world:
        disk = Disk(world)
        _, writing = _writing(world)
        writing.write(0, b"line\n", appends=True)
        await writing.flush()
        real = disk.write

        def answer_lost(message: pb.WriteRequest, data: bytes) -> pb.WriteReply:
            real(message, data)
            world.channel.connection = object()  # it is sent again on another
            world.channel.handlers["Files.Write"] = real
            return real(message, data)

        world.channel.handlers["Files.Write"] = answer_lost
        writing.write(5, b"next\n", appends=True)
        await writing.flush()
        assert disk.data == b"line\nnext\n"


async def test_an_append_follows_what_is_still_here() -> None:
    async with at_work() as world:
        disk = Disk(world)
        node, writing = _writing(world)
        world.channel.hold("Files.Write")
        writing.write(0, b"plain", appends=False)
        writing.write(0, b"append", appends=True)  # the kernel's idea of the end is old
        writing.write(2, b"X", appends=False)
        world.channel.held.clear()
        await turns()
        _writes(world)[0].answer()
        await writing.flush()
        assert disk.data == b"plXinappend"
        assert node.size == 11


# ---------------------------------------------------------------- failures


async def _opened(world: World) -> tuple[Files, Node, Handle, Handle]:
    names = Names(world.mount)
    files = Files(world.mount, names, Attributes(world.mount, names))
    world.channel.handlers["Namespace.Stat"] = lambda message, data: file_message()
    node = world.file()
    first = (await files.open(node.number, 2, ROOT_ASKS.caller)).handle
    second = (await files.open(node.number, 2, ROOT_ASKS.caller)).handle
    return files, node, first, second


async def _write(files: Files, handle: Handle, data: bytes = b"x", offset: int = 0) -> int:
    return await files.write(
        handle.node.number, handle.number, offset, data, ROOT_ASKS, appends=False, kill_set_id=False
    )


def _full(message: pb.WriteRequest, data: bytes) -> Any:
    raise Exhausted("full", errno=errno.ENOSPC)


async def test_a_failure_is_told_once_to_every_handle() -> None:
    async with at_work() as world:
        files, node, first, second = await _opened(world)
        world.channel.handlers["Files.Write"] = _full
        assert await _write(files, first) == 1
        with pytest.raises(Exhausted):
            await files.sync(node.number, first.number)
        await files.sync(node.number, first.number)
        await files.flush(node.number, first.number)
        with pytest.raises(Exhausted):
            await files.flush(node.number, second.number)
        await files.flush(node.number, second.number)
        third = (await files.open(node.number, 2, ROOT_ASKS.caller)).handle  # opened behind it
        await files.sync(node.number, third.number)
        assert world.mount.budget.used_bytes == 0
        assert not world.handover.dirty()
        assert ("pages", node.number) in world.kernel.told


async def test_a_writer_hears_of_a_failure_before_he_syncs() -> None:
    async with at_work() as world:
        files, node, first, _ = await _opened(world)
        world.channel.handlers["Files.Write"] = _full
        await _write(files, first)
        await turns()
        for _ in range(2):
            with pytest.raises(Exhausted):
                await _write(files, first)
        with pytest.raises(Exhausted):
            await files.flush(node.number, first.number)
        world.channel.handlers["Files.Write"] = lambda message, data: pb.WriteReply()
        assert await _write(files, first) == 1
        await files.flush(node.number, first.number)


@pytest.mark.allow_warnings("a write failed")
async def test_a_defect_is_a_failure_too() -> None:
    async with at_work() as world:
        files, node, first, _ = await _opened(world)

        def defect(message: pb.WriteRequest, data: bytes) -> Any:
            raise KeyError("size")

        world.channel.handlers["Files.Write"] = defect
        await _write(files, first)
        with pytest.raises(PlatformError):
            await files.flush(node.number, first.number)
        assert world.mount.budget.used_bytes == 0


async def test_a_failed_sync_is_raised_and_can_be_tried_again() -> None:
    async with at_work() as world:
        disk = Disk(world)
        _, writing = _writing(world)
        writing.write(0, bytes(BULK_BYTES), appends=False)

        def away(message: pb.SyncRequest, data: bytes) -> Any:
            raise Unavailable("away")

        world.channel.handlers["Files.Sync"] = away
        with pytest.raises(Unavailable):
            await writing.sync()
        assert not writing.failures
        assert world.channel.unsynced.size_bytes == BULK_BYTES
        world.channel.handlers["Files.Sync"] = disk.sync
        await writing.sync()
        assert world.channel.unsynced.size_bytes == 0


async def test_what_a_worker_before_lost_is_told_once() -> None:
    async with at_work() as world:
        node, writing = _writing(world)
        writing.lose()
        handle = Handle(1, node, None)
        handle.seen_failures = 0
        with pytest.raises(OSError, match="lost"):
            handle.raise_failure()
        handle.raise_failure()


# ---------------------------------------------------------------- memory


async def test_who_writes_too_much_waits_and_many_may() -> None:
    async with at_work(dirty_bytes_max=100) as world:
        files, node, first, second = await _opened(world)
        Disk(world)
        world.channel.hold("Files.Write")
        assert await _write(files, first, bytes(100)) == 100
        waiting = [
            asyncio.create_task(_write(files, handle, bytes(60), 1000))
            for handle in (first, second, first)
        ]
        await turns()
        assert not any(task.done() for task in waiting)
        assert world.mount.budget.used_bytes == 100
        waiting[1].cancel()
        world.channel.held.clear()
        _writes(world)[0].answer()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert [done[0], done[2]] == [60, 60]
        with contextlib.suppress(asyncio.CancelledError):
            await waiting[1]
        assert node.writing is not None
        await node.writing.flush()
        assert world.mount.budget.used_bytes == 0


async def test_what_the_server_says_does_not_undo_what_was_written() -> None:
    async with at_work() as world:
        Disk(world)
        world.channel.hold("Files.Write")
        node, writing = _writing(world, size=10)
        mark = world.calls.mark()
        writing.write(100, b"beyond", appends=False)
        now_ns = node.mtime_ns
        world.mount.take(file_message(size=10, mtime_ns=5, ctime_ns=5), mark)
        assert node.size == 106
        assert node.mtime_ns == node.ctime_ns == now_ns
        await turns()
        world.channel.held.clear()
        _writes(world)[0].answer()
        await writing.flush()
