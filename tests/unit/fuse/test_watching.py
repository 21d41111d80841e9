"""What the server tells is dropped before that is acknowledged; nothing unpromised is believed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Internal, NotFound, Unavailable
from dataplatform_clients.fuse import watching
from dataplatform_clients.fuse.nodes import Node
from dataplatform_clients.fuse.operations.attributes import Attributes
from dataplatform_clients.fuse.operations.files import Files
from dataplatform_clients.fuse.operations.names import Names
from dataplatform_clients.fuse.watching import Watcher

from .fakes import ROOT_ASKS, VERIFIER, FakeKernel, World, at_work, file_message, turns

LEASE_MS = 30_000
Broken = pb.WatchReply.Broken


class Teller:
    """The server's side of watching: polls wait for what `tell` says."""

    def __init__(self, world: World) -> None:
        self.polls: list[pb.WatchRequest] = []
        self.sequence = 0
        self._world = world
        self.replies: asyncio.Queue[pb.WatchReply | Exception] = asyncio.Queue()
        world.channel.handlers["Namespace.Watch"] = self._watch

    async def _watch(self, message: pb.WatchRequest, _: bytes) -> pb.WatchReply:
        self.polls.append(message)
        if message.begin:
            return pb.WatchReply(sequence=self.sequence, lease_ms=LEASE_MS)
        reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def tell(self, *broken: pb.WatchReply.Broken, **fields: Any) -> int:
        """Say it, and wait until it is acknowledged; by which poll."""
        self.sequence += 1
        await self.say(
            pb.WatchReply(sequence=self.sequence, broken=broken, lease_ms=LEASE_MS, **fields)
        )
        return self.polls[-1].acknowledged

    async def say(self, reply: pb.WatchReply | Exception) -> None:
        polls = len(self.polls)
        await self.replies.put(reply)
        await until(lambda: len(self.polls) > polls)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def watched(
    *, kernel: FakeKernel | None = None, resumes: bool = False
) -> AsyncIterator[tuple[World, Teller, Watcher]]:
    async with at_work() as world:
        world.calls.watch_ended()
        if kernel is not None:
            world.kernel = world.mount.kernel = kernel
        teller = Teller(world)
        watcher = Watcher(world.mount, world.kernel, resumes=resumes)  # type: ignore[arg-type]
        if not resumes:
            await watcher.begin()
        task = asyncio.create_task(watcher.run())
        try:
            await until(lambda: teller.polls and not teller.polls[-1].begin)
            yield world, teller, watcher
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _is_believed(node: Node) -> bool:
    return node.known or node.promised


async def test_a_change_is_dropped_here_and_in_the_kernel() -> None:
    async with watched() as (world, teller, _):
        node, other = world.file(7, size=5), world.file(8)
        assert _is_believed(node)
        turn = node.data_turn
        acknowledged = await teller.tell(Broken(volume=1, inode=7, data=True))
        assert acknowledged == teller.sequence
        assert not _is_believed(node)
        assert node.data_turn != turn
        assert _is_believed(other)
        assert world.kernel.told == [("attributes", 7), ("pages", 7)]
        assert node.invalidating == 1
        world.kernel.pages_done(7)
        assert node.invalidating == 0


async def test_nothing_is_acknowledged_before_the_kernel_is_rid_of_it() -> None:
    async with watched() as (world, teller, _):
        settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def slow(timeout_s: float) -> bool:
            return await settled

        world.kernel.settled = slow  # type: ignore[method-assign]
        polls = len(teller.polls)
        telling = asyncio.create_task(
            teller.tell(Broken(volume=1, inode=3, entries=True, names=["a", "ü"], kept=True))
        )
        await turns()
        assert len(teller.polls) == polls
        assert ("name", 3, b"a") in world.kernel.told
        assert ("name", 3, "ü".encode()) in world.kernel.told
        settled.set_result(True)
        assert await telling == teller.sequence
        assert ("epoch",) not in world.kernel.told


@pytest.mark.parametrize("has_epoch", [True, False])
async def test_when_a_name_cannot_be_dropped_soon_all_are_looked_up_again(has_epoch: bool) -> None:
    kernel = FakeKernel(has_epoch=has_epoch)
    kernel.is_slow = True
    async with watched(kernel=kernel) as (_, teller, _):
        await teller.tell(Broken(volume=1, inode=3, entries=True, names=["a"]))
        if has_epoch:
            assert kernel.told[-1] == ("epoch",)
        else:
            assert kernel.told[-2:] == [("settled",), ("settled",)]  # then it is waited for longer


async def test_names_that_are_told_of_and_those_that_are_not() -> None:
    async with watched() as (world, teller, _):
        directory = world.directory(3)
        world.mount.nodes.name(directory, b"a", 7)
        world.mount.nodes.name(directory, b"b", 8)
        directory.complete = True
        await teller.tell(Broken(volume=1, inode=3, entries=True, names=["a"], kept=True))
        assert directory.entries == {b"b": 8}
        assert not directory.complete
        assert directory.promised
        assert not directory.known
        await teller.tell(Broken(volume=1, inode=3, entries=True, names=["b"]))
        assert directory.entries is None
        assert not directory.promised


async def test_what_is_not_in_memory_is_dropped_in_the_kernel_all_the_same() -> None:
    async with watched() as (world, teller, _):
        await teller.tell(Broken(volume=3, inode=99, data=True))
        number = world.mount.nodes.number_of((3, 99))
        assert world.mount.nodes.find(number) is None
        assert world.kernel.told == [("attributes", number), ("pages", number)]


async def test_an_answer_that_was_overtaken_is_not_kept() -> None:
    async with watched() as (world, teller, _):
        mark = world.calls.mark()
        await teller.tell(Broken(volume=1, inode=7, data=True))
        node = world.mount.take(file_message(7), mark)
        assert not _is_believed(node)
        assert node.content is None
        assert _is_believed(world.mount.take(file_message(8), mark))  # of which nothing was told
        assert _is_believed(world.mount.take(file_message(7), world.calls.mark()))


async def test_a_name_that_was_overtaken_is_not_kept() -> None:
    async with watched() as (world, teller, _):
        names = Names(world.mount)
        directory = world.directory(3)

        def missing(message: pb.StatRequest, data: bytes) -> pb.Node:
            raise NotFound("no such name")

        world.channel.handlers["Namespace.Stat"] = missing
        world.channel.hold("Namespace.Stat")
        looking = asyncio.create_task(names.lookup(directory.number, b"new", ROOT_ASKS.caller))
        await until(lambda: world.channel.named("Namespace.Stat"))
        await teller.tell(Broken(volume=1, inode=3, entries=True, names=["new"], kept=True))
        world.channel.named("Namespace.Stat")[0].answer()
        assert await looking == (None, False)
        assert not directory.entries


# ---------------------------------------------------------------- unlinked while open


async def test_an_open_file_that_loses_its_name_is_held_before_that_is_acknowledged() -> None:
    async with watched() as (world, teller, _):
        node = world.file(7)
        node.opens = 1
        world.channel.hold("Files.Open")
        polls = len(teller.polls)
        telling = asyncio.create_task(
            teller.tell(Broken(volume=1, inode=7, data=True, unlinked=True))
        )
        await turns()
        (opening,) = world.channel.named("Files.Open")
        assert opening.message.target.inode == 7
        assert len(teller.polls) == polls
        opening.answer()
        await telling
        assert node.held
        assert world.channel.opened == [(1, 7)]
        await teller.tell(Broken(volume=1, inode=7, unlinked=True))  # again: no effect
        assert len(world.channel.named("Files.Open")) == 1
        node.opens = 0
        world.mount.let_go(node)
        await turns()
        assert world.channel.opened == []
        assert len(world.channel.named("Files.Close")) == 1


async def test_an_open_file_whose_promise_ends_is_held() -> None:
    """Nobody would tell us that it loses its last name."""
    async with watched() as (world, teller, _):
        node, closed = world.file(7), world.file(8)
        node.opens = 1
        await teller.tell(Broken(volume=1, inode=7, data=True), Broken(volume=1, inode=8))
        assert node.held
        assert not closed.held
        await teller.tell(Broken(volume=1, inode=7, unlinked=True))
        assert len(world.channel.named("Files.Open")) == 1


async def test_a_successor_holds_what_may_have_been_opened_before_it_came() -> None:
    async with watched() as (world, teller, _):
        world.mount.is_successor = True
        await teller.tell(Broken(volume=1, inode=7, unlinked=True))
        assert world.mount.nodes.get(7).held
        await teller.tell(Broken(volume=1, inode=3, entries=True, names=["x"], kept=True))
        assert len(world.channel.named("Files.Open")) == 1


async def test_open_files_are_held_before_watching_begins_anew() -> None:
    async with watched() as (world, teller, _):
        node = world.file(7)
        node.opens = 1
        world.channel.hold("Files.Open")
        polls = len(teller.polls)
        world.channel.on_lost()
        await teller.replies.put(Unavailable("lost"))
        opening = await world.channel.asks_for("Files.Open")
        assert len(teller.polls) == polls
        opening.answer()
        await until(lambda: len(teller.polls) > polls)
        assert teller.polls[polls].begin
        assert node.held


# ---------------------------------------------------------------- written here, changed there


async def test_what_was_written_here_is_durable_before_a_change_is_acknowledged() -> None:
    async with watched() as (world, teller, _):
        unsynced = world.channel.unsynced
        unsynced.add((1, 7), 0, [b"ours"], VERIFIER)
        unsynced.add((1, 8), 0, [b"other"], VERIFIER)
        world.channel.hold("Files.Sync")
        polls = len(teller.polls)
        telling = asyncio.create_task(teller.tell(Broken(volume=1, inode=7, data=True)))
        syncing = await world.channel.asks_for("Files.Sync")
        assert syncing.message.target.inode == 7
        await turns()
        assert len(teller.polls) == polls
        syncing.answer()
        assert await telling == teller.sequence
        assert unsynced.files() == {(1, 8)}
        await teller.tell(Broken(volume=1, inode=8))  # its mode, say
        assert unsynced.files() == {(1, 8)}


async def test_what_is_kept_is_synced_though_writes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "UNSYNCED_AGE_S", 0.01)
    async with watched() as (world, _, _):
        unsynced = world.channel.unsynced
        async with asyncio.timeout(5):
            while not world.channel.named("Files.Sync"):
                unsynced.add((1, 7), 0, [b"x"], VERIFIER)
                await asyncio.sleep(0.001)


async def test_a_closed_file_is_let_go() -> None:
    async with watched() as (world, teller, _):
        world.file(7)
        await teller.tell(Broken(volume=1, inode=7, unlinked=True))
        assert not world.channel.named("Files.Open")


@pytest.mark.allow_warnings("an open file is gone")
async def test_a_file_that_cannot_be_held_any_more_holds_nobody_up() -> None:
    async with watched() as (world, teller, _):

        def gone(message: pb.OpenRequest, data: bytes) -> pb.Node:
            raise NotFound("gone")

        world.channel.handlers["Files.Open"] = gone
        node = world.file(7)
        node.opens = 1
        assert await teller.tell(Broken(volume=1, inode=7, unlinked=True)) == teller.sequence


# ---------------------------------------------------------------- nothing is told


async def test_a_lost_connection_loses_everything_and_begins_anew() -> None:
    async with watched() as (world, teller, _):
        node, opened, directory = world.file(7), world.file(8), world.directory(3)
        opened.opens = 1
        world.mount.nodes.name(directory, b"a", 7)
        world.channel.on_lost()
        assert not any(map(_is_believed, (node, opened, directory)))
        assert directory.entries is None
        assert ("epoch",) in world.kernel.told
        assert ("pages", 8) in world.kernel.told
        assert {("attributes", 7), ("attributes", 8), ("attributes", 3)} <= set(world.kernel.told)
        told = len(world.kernel.told)
        world.channel.on_lost()  # again: there is nothing to lose
        assert len(world.kernel.told) == told
        await teller.say(Unavailable("the connection was lost"))
        await until(lambda: teller.polls[-2].begin)


async def test_nothing_is_kept_while_nothing_is_told() -> None:
    """The server that answers may not even know that we want to be told."""
    async with watched() as (world, teller, _):
        world.channel.on_lost()
        mark = world.calls.mark()
        assert not _is_believed(world.file(7))
        assert not _is_believed(world.mount.take(file_message(8), mark))
        names = Names(world.mount)
        world.channel.handlers["Namespace.Stat"] = lambda message, data: file_message(9)
        found = await names.lookup(1, b"f", ROOT_ASKS.caller)
        assert found.node is not None
        assert not found.is_kept
        await teller.say(Unavailable("lost"))
        await until(lambda: world.calls.is_told)
        # Asked before it began, answered behind it: the promise, if there was one, is over.
        assert not _is_believed(world.mount.take(file_message(8), mark))
        assert _is_believed(world.file(7))


async def test_a_poll_that_was_answered_before_the_loss_does_not_end_it() -> None:
    async with watched() as (_, teller, watcher):
        reply = pb.WatchReply(sequence=1, lease_ms=LEASE_MS)
        polls = len(teller.polls)
        await teller.replies.put(reply)
        watcher.lose_all()  # after the server had answered, before that was read
        await until(lambda: len(teller.polls) > polls)
        assert teller.polls[polls].begin


async def test_it_waits_for_a_server_that_is_away() -> None:
    async with at_work() as world:
        world.calls.watch_ended()
        teller = Teller(world)
        real, failures = world.channel.handlers["Namespace.Watch"], [Unavailable("away")] * 2

        def away(message: pb.WatchRequest, data: bytes) -> Any:
            if failures:
                raise failures.pop()
            return real(message, data)

        world.channel.handlers["Namespace.Watch"] = away
        watcher = Watcher(world.mount, world.kernel)  # type: ignore[arg-type]
        await watcher.begin()
        assert world.calls.is_told
        assert [poll.begin for poll in teller.polls] == [True]


async def test_everything_is_over_when_the_server_says_so() -> None:
    async with watched() as (world, teller, _):
        node = world.file(7)
        await teller.tell(everything=True)
        assert not _is_believed(node)
        await until(lambda: world.calls.is_told)
        assert [poll.begin for poll in teller.polls][-2:] == [True, False]


async def test_a_silent_server_is_not_believed_for_longer_than_its_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with watched() as (world, _, watcher):
        node = world.file(7)
        monkeypatch.setattr(watcher, "_lease_s", 0.01)
        await until(lambda: not _is_believed(node))
        assert not world.calls.is_told


async def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SILENCE_S", -watching.WAIT_S + 0.01)
    async with at_work() as world:
        cuts = []
        world.channel.cut = lambda: cuts.append(1)  # type: ignore[method-assign]
        Teller(world)
        watcher = Watcher(world.mount, world.kernel)  # type: ignore[arg-type]
        await watcher.begin()
        logger = watching.logger
        monkeypatch.setattr(logger, "warning", lambda *args: None)
        task = asyncio.create_task(watcher.run())
        await until(lambda: cuts)
        task.cancel()


@pytest.mark.allow_warnings("not understood", "does not let us watch")
@pytest.mark.parametrize("error", [Internal("defect"), ValueError("defect")])
async def test_no_error_ends_the_watching(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = asyncio.sleep
    monkeypatch.setattr(watching.asyncio, "sleep", lambda s: real(min(s, 0.01)))
    async with watched() as (world, teller, _):
        node = world.file(7)
        await teller.say(error)
        assert not _is_believed(node)
        await until(lambda: world.calls.is_told)
        world.file(7)
        assert await teller.tell(Broken(volume=1, inode=7)) == teller.sequence


# ---------------------------------------------------------------- pages


async def _files(world: World) -> Files:
    names = Names(world.mount)
    world.channel.handlers["Namespace.Stat"] = lambda message, data: file_message(
        message.target.inode
    )
    return Files(world.mount, names, Attributes(world.mount, names))


async def test_pages_are_kept_for_as_long_as_their_promise_only() -> None:
    async with watched() as (world, teller, _):
        files = await _files(world)
        world.file(7)

        async def keeps() -> bool:
            opened = await files.open(7, 0, ROOT_ASKS.caller)
            await files.release(7, opened.handle.number)
            return opened.keep_cache

        assert not await keeps()  # nobody knows when the kernel's pages came
        assert await keeps()
        await teller.tell(Broken(volume=1, inode=7, data=True))
        world.file(7)  # promised again, by looking its name up
        assert not await keeps()  # the kernel is only about to drop them
        world.kernel.pages_done(7)
        assert await keeps()
        # The pages of a closed file are not dropped one by one when all is lost.
        world.channel.on_lost()
        await teller.say(Unavailable("lost"))
        await until(lambda: world.calls.is_told)
        world.file(7)
        assert not await keeps()
        assert await keeps()


async def test_a_successor_hears_what_was_told_between_the_two() -> None:
    async with watched(resumes=True) as (world, teller, _):
        assert not any(poll.begin for poll in teller.polls)
        assert not world.calls.is_told  # not before there was an answer
        await teller.tell(Broken(volume=1, inode=7, data=True))
        assert ("attributes", 7) in world.kernel.told
        assert world.calls.is_told
        assert _is_believed(world.file(7))


async def test_a_successor_whose_promises_are_over_drops_all() -> None:
    async with watched(resumes=True) as (world, teller, _):
        await teller.tell(everything=True)
        assert ("epoch",) in world.kernel.told
        await until(lambda: world.calls.is_told)
        assert any(poll.begin for poll in teller.polls)
