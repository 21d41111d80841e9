"""What a mount remembers: numbers, attributes, names, and when none of it may be believed."""

from __future__ import annotations

import asyncio
import random

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform_clients.fuse import calls as calls_module
from dataplatform_clients.fuse import nodes as nodes_module
from dataplatform_clients.fuse.nodes import (
    INODE_MASK,
    ROOT_NUMBER,
    VIEW_BIT,
    Content,
    Node,
    Nodes,
    type_bits,
)
from dataplatform_clients.fuse.views.base import ViewNode

from .fakes import World, at_work, file_message, turns


def _directory(nodes: Nodes, inode: int = 3) -> Node:
    node = nodes.get(nodes.number_of((1, inode)))
    node.kind = pb.DIRECTORY
    node.promised = True
    return node


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("root", [(1, 1), (1, 77), (3, 1)])
def test_a_number_is_a_key_and_back(root: tuple[int, int], seed: int) -> None:
    chosen = random.Random(seed)
    nodes = Nodes(root)
    keys = {(chosen.randrange(1, 1 << 17), chosen.randrange(1, INODE_MASK)) for _ in range(2000)}
    keys |= {root, (1, 1), (1, 2), (2, 1), (1, INODE_MASK), (1 << 17, INODE_MASK)}
    numbers = {nodes.number_of(key) for key in keys}
    assert len(numbers) == len(keys)
    assert all(0 < number < 1 << 63 for number in numbers)
    assert all(not number & VIEW_BIT for number in numbers)
    assert nodes.number_of(root) == ROOT_NUMBER
    for key in keys:
        assert nodes.key_of(nodes.number_of(key)) == key


def test_views_have_numbers_of_their_own() -> None:
    nodes = Nodes((1, 1))
    first, second = nodes.add_view(ViewNode(), 1), nodes.add_view(ViewNode(), 1)
    assert first.number != second.number
    assert first.number & second.number & VIEW_BIT
    assert nodes.find(first.number) is first
    nodes.forget(first.number)
    assert nodes.find(first.number) is None


def test_kinds_look_like_files() -> None:
    for kind in pb.Kind.values():
        assert type_bits(kind) & 0o170000


# ---------------------------------------------------------------- memory


def test_the_oldest_go_but_not_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "NODES_MAX", 100)
    nodes = Nodes((1, 1))
    root, opened, held = nodes.get(ROOT_NUMBER), nodes.get(2), nodes.get(3)
    opened.opens = 1
    held.held = True
    for number in range(10, 2000):
        node = nodes.get(number)
        node.promised = True
        nodes.name(node, b"x", 1)
    assert len(nodes) <= 100
    assert nodes.find(ROOT_NUMBER) is root
    assert nodes.find(2) is opened
    assert nodes.find(3) is held
    assert nodes.find(10) is None
    assert nodes._names == sum(len(node.entries or ()) for node in nodes)


def test_what_the_kernel_forgets() -> None:
    nodes = Nodes((1, 1))
    nodes.get(ROOT_NUMBER)
    nodes.forget(ROOT_NUMBER)
    assert nodes.find(ROOT_NUMBER) is not None
    node = nodes.get(7)
    node.opens = 1
    nodes.forget(7)
    assert nodes.find(7) is node
    node.opens = 0
    nodes.forget(7)
    nodes.forget(7)
    assert nodes.find(7) is None


def test_turns_are_never_used_again() -> None:
    nodes = Nodes((1, 1))
    node = nodes.get(7)
    turn = node.data_turn
    nodes.forget(7)
    assert nodes.get(7).data_turn > turn
    node = nodes.get(7)
    seen = {node.data_turn}
    for change in (node.moved, node.wrote, node.distrust) * 5:
        change()
        assert node.data_turn not in seen
        seen.add(node.data_turn)


# ---------------------------------------------------------------- names


def test_names_are_remembered_under_a_promise_only() -> None:
    nodes = Nodes((1, 1))
    directory = _directory(nodes)
    directory.promised = False
    nodes.name(directory, b"a", 7)
    assert directory.entries is None
    directory.promised = True
    nodes.name(directory, b"a", 7)
    nodes.name(directory, b"gone", 0)
    assert directory.entries == {b"a": 7, b"gone": 0}
    nodes.distrust(directory)
    assert directory.entries is None
    assert not directory.promised


def test_a_name_that_went() -> None:
    nodes = Nodes((1, 1))
    directory = _directory(nodes)
    nodes.unname(directory, b"a")  # nothing is known
    nodes.name(directory, b"a", 7)
    nodes.unname(directory, b"a")
    assert directory.entries == {b"a": 0}
    nodes.unname(directory, b"never seen")
    directory.complete = True
    nodes.name(directory, b"b", 8)
    nodes.unname(directory, b"b")
    assert b"b" not in (directory.entries or {})
    nodes.doubt(directory, [b"a", b"c"])
    assert directory.entries == {}
    assert not directory.complete


def test_names_are_counted_whatever_happens_to_them(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chosen = random.Random(seed)
    monkeypatch.setattr(nodes_module, "NAMES_MAX", 300)
    nodes = Nodes((1, 1))
    directories = [_directory(nodes, inode) for inode in range(2, 12)]
    for _ in range(5000):
        directory = chosen.choice(directories)
        name = b"%d" % chosen.randrange(120)
        step = chosen.randrange(12)
        if step < 8:
            directory.promised = True
            nodes.name(directory, name, chosen.randrange(3))
        elif step == 8:
            nodes.unname(directory, name)
        elif step == 9:
            nodes.doubt(directory, [name])
        elif step == 10:
            directory.complete = directory.entries is not None
        elif chosen.random() < 0.1:
            nodes.distrust(directory)
        assert nodes._names == sum(len(d.entries or ()) for d in directories)
        assert nodes._names <= 300


# ---------------------------------------------------------------- what the server says


async def test_an_older_answer_does_not_undo_a_newer_one() -> None:
    async with at_work() as world:
        mark = world.calls.mark()
        node = world.mount.take(file_message(7, version=11, mode=0o600), mark)
        world.mount.take(file_message(7, version=10, mode=0o644), mark)
        assert node.mode == 0o600
        node.known = False  # then anything is better than nothing
        world.mount.take(file_message(7, version=10, mode=0o644), mark)
        assert node.mode == 0o644


async def test_an_answer_that_a_write_of_ours_overtook_does_not_shorten_the_file() -> None:
    async with at_work() as world:
        node = world.file(7, size=10, mode=0o644)
        mark = world.calls.mark()
        world.mount.writing(node).write(10, b"more", appends=False)
        await turns()
        assert not world.mount.writing(node).is_busy
        now_ns = node.mtime_ns
        world.mount.take(file_message(7, size=10, mode=0o600, mtime_ns=5), mark)
        assert (node.size, node.mtime_ns, node.mode) == (14, now_ns, 0o600)
        assert node.known
        assert node.content is None
        world.mount.take(file_message(7, size=14, mtime_ns=now_ns), world.calls.mark())
        assert node.content == Content(5, now_ns, 14)


async def test_what_is_asked_when_a_write_overtakes_the_answer_is_asked_again() -> None:
    async with at_work() as world:
        node = world.file(7, size=10)
        node.known = False
        asked = []

        def stat(message: pb.StatRequest, _: bytes) -> pb.Node:
            asked.append(1)
            if len(asked) == 1:
                world.calls.changed(node)
            return file_message(7, size=10 + len(asked))

        world.channel.handlers["Namespace.Stat"] = stat
        await world.mount.refresh(node)
        assert len(asked) == 2
        assert node.known
        assert node.size == 12


async def test_content_is_known_until_the_bytes_change() -> None:
    async with at_work() as world:
        mark = world.calls.mark()
        assert world.file(7, buffered=True).content is None
        node = world.file(7, size=3, mtime_ns=9)
        assert node.content == Content(5, 9, 3)
        node.wrote()
        assert node.content is None
        world.mount.take(file_message(7), mark)  # asked before that, but it is not answered yet
        world.calls.changed(node)
        assert node.content is None
        world.mount.take(file_message(7), mark)
        assert node.content is None
        world.mount.take(file_message(7), world.calls.mark())
        assert node.content is not None
        world.mount.nodes.distrust(node)
        assert node.content is None


async def test_what_is_not_told_of_is_not_kept() -> None:
    async with at_work() as world:
        mark = world.calls.mark()
        world.calls.told((1, 7))
        assert not world.mount.take(file_message(7), mark).known
        assert world.mount.take(file_message(8), mark).known
        world.calls.told_all()
        assert not world.mount.take(file_message(8), mark).promised


def test_what_was_told_is_remembered_for_all_who_asked_before(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(calls_module, "TOLD_MAX", 20)
    chosen = random.Random(seed)
    calls = calls_module.Calls.__new__(calls_module.Calls)
    calls._turn, calls._told, calls._told_all, calls.is_told = 0, {}, 0, True
    told: list[tuple[int, int]] = []  # in order
    marks: list[tuple[int, int]] = []  # mark, and how many were told by then
    for _ in range(2000):
        key = (1, chosen.randrange(40))
        if chosen.random() < 0.5:
            calls.told(key)
            told.append(key)
        else:
            marks.append((calls.mark(), len(told)))
        mark, count = chosen.choice(marks) if marks else (calls.mark(), len(told))
        if key in told[count:]:
            assert calls.told_since(key, mark)  # the other way round it may say too much
    assert not calls.told_since((1, 1), calls.mark())


async def test_times_before_1970_stay_as_they_are() -> None:
    async with at_work() as world:
        node = world.file(7, atime_ns=-5, mtime_ns=-6, ctime_ns=-7)
        assert (node.atime_ns, node.mtime_ns, node.ctime_ns) == (-5, -6, -7)
        world.mount.access.read(node)
        read_ns = node.atime_ns
        assert read_ns > 0
        assert world.file(7, atime_ns=-5).atime_ns == read_ns


async def test_a_held_file_is_closed_once() -> None:
    async with at_work() as world:
        node = world.file(7)
        node.opens = 1
        await world.mount.hold(node)
        await world.mount.hold(node)
        world.mount.kept(node)  # its last name went through us as well
        assert world.channel.opened == [(1, 7)]
        world.mount.let_go(node)
        world.mount.let_go(node)
        await turns()
        assert _names(world) == ["Files.Open", "Files.Close"]
        assert world.channel.opened == []


async def test_a_successor_holds_files_until_the_kernel_forgets_them() -> None:
    """It does not know what was opened before it came."""
    async with at_work() as world:
        mount = world.mount
        mount.is_successor = True
        node, ours, directory = world.file(7), world.file(8), world.directory(3)
        ours.is_ours = True
        assert mount.may_be_open(node)
        assert not mount.may_be_open(ours)
        assert not mount.may_be_open(directory)
        await mount.hold(node)
        node.opens = 1
        mount.nodes.forget(7)
        node.opens = 0
        mount.closed(node)
        await turns()
        assert node.held
        mount.nodes.forget(7)
        await turns()
        assert _names(world) == ["Files.Open", "Files.Close"]
        assert world.channel.opened == []


async def test_a_file_that_is_forgotten_while_it_is_to_be_held_is_let_go() -> None:
    async with at_work() as world:
        world.mount.is_successor = True
        node = world.mount.nodes.get(7)
        world.channel.hold("Files.Open")
        holding = asyncio.create_task(world.mount.hold(node))
        opening = await world.channel.asks()
        world.mount.nodes.forget(7)
        opening.answer()
        await holding
        await turns()
        assert world.channel.opened == []


async def test_a_file_that_is_closed_while_it_is_to_be_held_is_let_go() -> None:
    async with at_work() as world:
        node = world.file(7)
        node.opens = 1
        world.channel.hold("Files.Open")
        holding = asyncio.create_task(world.mount.hold(node))
        opening = await world.channel.asks()
        node.opens = 0
        assert not node.held
        opening.answer()
        await holding
        await turns()
        assert _names(world) == ["Files.Open", "Files.Close"]
        assert world.channel.opened == []


@pytest.mark.allow_warnings("background work failed")
async def test_background_work_that_fails_is_logged() -> None:
    async with at_work() as world:

        async def fail() -> None:
            raise ValueError("defect")

        world.mount.background(fail())
        await turns()


def _names(world: World) -> list[str]:
    return [asked.name for asked in world.channel.asked]
