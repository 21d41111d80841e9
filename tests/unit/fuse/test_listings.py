"""Directories: every name once, whatever the size of pages; remembered when that is exact."""

from __future__ import annotations

import asyncio
import random

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import NotFound
from dataplatform_clients.fuse import listings
from dataplatform_clients.fuse import nodes as nodes_module
from dataplatform_clients.fuse.listings import DOTS, Listing
from dataplatform_clients.fuse.nodes import Node

from .fakes import ROOT_ASKS, World, at_work, file_message, turns


class Directory:
    """At the server: sorted names."""

    def __init__(self, world: World, names: list[str]) -> None:
        self.names = dict.fromkeys(names)
        self._numbers = {name: 100 + index for index, name in enumerate(sorted(names))}
        self.reads = 0
        world.channel.handlers["Namespace.List"] = self.list

    def number(self, name: str) -> int:
        return self._numbers.setdefault(name, 100 + len(self._numbers))

    def list(self, message: pb.ListRequest, _: bytes) -> pb.ListReply:
        self.reads += 1
        names = sorted(name for name in self.names if name > message.after)
        page = names[: message.limit]
        return pb.ListReply(
            nodes=[file_message(self.number(name), name=name) for name in page],
            end=len(page) == len(names),
        )


async def _all(listing: Listing, step: int = 3) -> list[bytes]:
    """As the kernel reads it: some items, then from there on."""
    found: list[bytes] = []
    position = DOTS
    while items := (await listing.at(position))[:step]:
        found += [item.name for item in items]
        position += len(items)
    return found


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "PAGE_ENTRIES", 5)


def _names(count: int) -> list[str]:
    return [f"name-{number:04}" for number in range(count)]


def _listed(world: World) -> tuple[Node, Listing]:
    node = world.directory(3)
    return node, Listing(world.mount, node, ROOT_ASKS.caller)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 23])
@pytest.mark.parametrize("step", [1, 3, 100])
async def test_every_name_once(count: int, step: int) -> None:
    async with at_work() as world:
        Directory(world, _names(count))
        node, listing = _listed(world)
        assert await _all(listing, step) == [name.encode() for name in _names(count)]
        assert node.complete
        assert len(node.entries or {}) == count


async def test_it_is_remembered_whole_and_asked_for_no_more() -> None:
    async with at_work() as world:
        directory = Directory(world, _names(12))
        node, listing = _listed(world)
        first = await _all(listing)
        reads = directory.reads
        assert await _all(Listing(world.mount, node, ROOT_ASKS.caller)) == first
        assert directory.reads == reads
        world.mount.nodes.distrust(node)
        node.promised = True
        assert await _all(Listing(world.mount, node, ROOT_ASKS.caller)) == first
        assert directory.reads > reads


async def test_going_back_shows_what_is_there_by_now() -> None:
    async with at_work() as world:
        directory = Directory(world, _names(12))
        node, listing = _listed(world)
        node.promised = False
        await _all(listing)
        directory.names["a-new"] = None
        world.calls.told(node.key)
        world.mount.nodes.distrust(node)
        listing.begin()
        assert b"a-new" in await _all(listing)
        middle = await listing.at(DOTS + 7)  # seekdir(3) to a position from before
        assert middle[0].name in {name.encode() for name in _names(12)}


async def test_names_that_come_and_go_while_it_is_read(seed: int) -> None:
    chosen = random.Random(seed)
    async with at_work() as world:
        stable = _names(40)
        directory = Directory(world, stable)
        node, listing = _listed(world)
        found: list[bytes] = []
        position = DOTS
        while items := (await listing.at(position))[:3]:
            found += [item.name for item in items]
            position += len(items)
            name = f"name-{chosen.randrange(40):04}x"
            if chosen.random() < 0.5:
                directory.names[name] = None
            else:
                directory.names.pop(name, None)
            world.calls.told(node.key)
            world.mount.nodes.distrust(node)
        assert len(set(found)) == len(found)
        assert {name.encode() for name in stable} <= set(found)
        assert not node.complete


@pytest.mark.parametrize("what", ["told", "changed here", "lost"])
async def test_what_changed_meanwhile_is_not_known_whole(what: str) -> None:
    async with at_work() as world:
        Directory(world, _names(12))
        node, listing = _listed(world)
        world.channel.hold("Namespace.List")
        listed = asyncio.create_task(_all(listing))
        await turns()
        if what == "told":
            world.calls.told(node.key)
        elif what == "lost":
            world.calls.told_all()
        else:
            node.names_turn += 1
        world.channel.held.clear()
        world.channel.under_way[0].answer()
        await listed
        assert not node.complete


@pytest.mark.parametrize("what", ["told", "lost", "nothing"])
async def test_the_kernel_keeps_no_name_that_was_told_of_meanwhile(what: str) -> None:
    async with at_work() as world:
        Directory(world, _names(12))
        node, listing = _listed(world)
        await listing.at(DOTS)
        assert listing.is_kept
        if what == "told":
            world.calls.told(node.key)
        elif what == "lost":
            world.calls.told_all()
        assert listing.is_kept == (what == "nothing")
        await listing.at(DOTS + 5)
        assert listing.is_kept  # the next page came behind it


async def test_what_is_said_of_a_file_that_was_told_of_meanwhile_is_not_kept() -> None:
    async with at_work() as world:
        directory = Directory(world, _names(3))
        _, listing = _listed(world)
        world.channel.hold("Namespace.List")
        listed = asyncio.create_task(listing.at(DOTS))
        await turns()
        world.calls.told((1, directory.number("name-0001")))
        world.channel.under_way[0].answer()
        items = await listed
        assert [item.node.known for item in items if item.node] == [True, False, True]


async def test_a_file_that_is_being_written_stays_as_it_is_here() -> None:
    async with at_work() as world:
        directory = Directory(world, _names(3))
        child = world.file(directory.number("name-0001"), size=0)
        world.channel.hold("Files.Write")
        world.mount.writing(child).write(0, b"12345", appends=False)
        await _all(_listed(world)[1])
        assert child.size == 5
        await turns()
        world.channel.under_way[0].answer()
        await world.mount.writing(child).flush()


async def test_a_directory_that_was_removed() -> None:
    async with at_work() as world:

        def gone(message: pb.ListRequest, _: bytes) -> pb.ListReply:
            raise NotFound("gone")

        world.channel.handlers["Namespace.List"] = gone
        with pytest.raises(OSError, match="removed"):
            await _all(_listed(world)[1])


async def test_a_very_large_one_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "COMPLETE_NAMES_MAX", 20)
    async with at_work() as world:
        Directory(world, _names(30))
        node, listing = _listed(world)
        assert len(await _all(listing)) == 30
        assert not node.complete
        assert not node.entries


async def test_one_that_has_no_room_is_not_known_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "NAMES_MAX", 20)
    async with at_work() as world:
        Directory(world, _names(15))
        node, listing = _listed(world)
        for number in range(12):
            world.mount.nodes.name(node, b"missing-%d" % number, 0)
        assert len(await _all(listing)) == 15
        assert not node.complete or len(node.entries or {}) >= 15


async def test_a_listing_from_memory_has_the_type_of_everything() -> None:
    async with at_work() as world:
        directory = Directory(world, _names(4))
        node, listing = _listed(world)
        await _all(listing)
        reads = directory.reads
        child = world.mount.nodes.get(directory.number("name-0002"))
        child.kind = 0  # as a node that was let go of, and is known by its number only
        items = await Listing(world.mount, node, ROOT_ASKS.caller).at(DOTS)
        assert len(items) == 4
        assert all(item.type_bits for item in items)
        assert directory.reads == reads + 1
