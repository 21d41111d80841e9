"""Who reads the change feed knows the tree: rebuilt from it after a random walk, names and sizes of
files equal the live ones, whether it is read in pages of any size or from a published stream; and
the feed of a directory is what happened there, wherever it stood.

Through restarts, renames of whole subtrees, exchanges, hard links, files that are written under
another name or none. `--seed N` repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import PlatformError
from dataplatform.core import change_texts, changes, places
from dataplatform.core.change_texts import Told
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_INODE, Kind
from tests.unit.core.publications.world import copied, make_stream, publish, settle

from .platform_driver import Driver, Handle, Place, at_work, engines

STEPS = {"memory": 1500, "rocks": 600, "slate": 150}
NAMES = ("a", "b", "c", "ä", "w")
WATCHED = "/w"


@dataclass
class Node:
    kind: str
    size: int = 0


@dataclass
class Replica:
    """A tree that knows nothing but the feed."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def take(self, event: str, kind: str, path: str, facts: dict[str, Any]) -> None:
        if not path.startswith("/"):
            return  # of a file without a name
        if event == "created":
            assert path not in self.nodes
            self.nodes[path] = Node(kind)
        elif event == "linked":
            self.nodes[path] = self.nodes[facts["existing"]]
        elif event == "removed":
            del self.nodes[path]
        elif event == "renamed":
            self._drop(facts["to"])
            self._put(self._cut(facts["from"]), facts["to"])
        elif event == "exchanged":
            one, other = self._cut(facts["from"]), self._cut(facts["to"])
            self._put(one, facts["to"])
            self._put(other, facts["from"])
        elif event == "written":
            node = self.nodes[path]
            node.size = max(node.size, int(facts["offset"]) + int(facts["length"]))
        elif event == "truncated":
            self.nodes[path].size = int(facts["size"])

    def _drop(self, path: str) -> None:
        assert not any(each.startswith(f"{path}/") for each in self.nodes)
        self.nodes.pop(path, None)

    def _cut(self, path: str) -> dict[str, Node]:
        """By what stands behind the path."""
        cut = [each for each in self.nodes if each == path or each.startswith(f"{path}/")]
        return {each[len(path) :]: self.nodes.pop(each) for each in cut}

    def _put(self, cut: dict[str, Node], path: str) -> None:
        for rest, node in cut.items():
            self.nodes[path + rest] = node

    def shown(self) -> dict[str, tuple[str, int | None]]:
        return {
            path: (node.kind, node.size if node.kind == "file" else None)
            for path, node in self.nodes.items()
        }


class Walk:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.driver: Driver
        self.volume: Volume
        self.open: list[Handle] = []
        self.watched = 0
        self.stood: list[tuple[int, str]] = []  # the watched directory, from which commit on where

    def path(self) -> str:
        return "/" + "/".join(self.rng.choice(NAMES) for _ in range(self.rng.choice((1, 1, 2, 3))))

    async def step(self) -> None:
        rng, driver = self.rng, self.driver
        path, other = self.path(), self.path()
        offset, size = rng.randrange(20_000), rng.choice((0, 1, 700, 90_000))
        target: Any = rng.choice(self.open) if self.open and rng.random() < 0.3 else path
        does = {
            "mkdir": lambda: driver.mkdir(path),
            "create": lambda: self._create(path),
            "write": lambda: driver.write(target, offset, rng.randbytes(size)),
            "put": lambda: driver.write_file(path, rng.randbytes(size)),
            "truncate": lambda: driver.truncate(target, offset),
            "link": lambda: driver.link(path, other),
            "symlink": lambda: driver.symlink("a", path),
            "rename": lambda: driver.rename(path, other),
            "exchange": lambda: driver.rename(path, other, exchange=True),
            "unlink": lambda: driver.unlink(path),
            "rmdir": lambda: driver.rmdir(path),
            "chmod": lambda: driver.chmod(target, 0o600),
            "table": lambda: driver.table(path),
            "copy": lambda: driver.copy_range(path, target, 0, offset, size),
        }
        weights = (4, 6, 4, 4, 2, 2, 1, 5, 2, 3, 1, 1, 1, 1)
        what = rng.choices(list(does), weights)[0]
        with contextlib.suppress(PlatformError):
            await does[what]()
        await self._look()

    async def _create(self, path: str) -> None:
        handle = await self.driver.create(path)
        if self.rng.random() < 0.3 and len(self.open) < 10:
            self.open.append(handle)

    async def _look(self) -> None:
        """Where the watched directory stands by now."""
        inode = await self.volume.find_inode(self.watched)
        if inode is not None and inode.links:
            path = await self.volume.path_of(self.watched)
            if path != self.stood[-1][1]:
                self.stood.append((self.volume.state.commit, path))

    async def make_watched(self) -> None:
        with contextlib.suppress(PlatformError):
            self.watched = (await self.driver.mkdir(WATCHED)).inode
            self.stood = [(0, WATCHED)]


async def live(driver: Driver, volume: Volume) -> dict[str, tuple[str, int | None]]:
    """The tree as it is, but for the stream."""
    found: dict[str, tuple[str, int | None]] = {}

    async def below(path: str) -> None:
        for name in sorted(await driver.names(path or "/")):
            each = f"{path}/{name}"
            inode = await driver.stat(each, follow=False)
            word = Kind(inode.kind).word
            found[each] = (word, inode.size if word == "file" else None)
            if inode.is_directory and not inode.volume:
                await below(each)

    await below("")
    return found


async def read_all(walk: Walk, number: int) -> list[Told]:
    """In pages of any size."""
    found: list[Told] = []
    since = 0
    while True:
        limit = walk.rng.choice((1, 3, 50, 0))
        page = await changes.read_of(walk.volume, number, since, limit, 0)
        found += [change_texts.tell(change, "/") for change in page.changes]
        since = page.next
        if walk.rng.random() < 0.1:
            walk.volume.places._known.clear()
        if since == page.end:
            return found


def happened_there(walk: Walk, whole: list[Told]) -> list[Told]:
    """What concerns the watched directory, by where it stood before and after a commit."""
    found = []
    for told in whole:
        before = [path for commit, path in walk.stood if commit < told.commit]
        after = [path for commit, path in walk.stood if commit <= told.commit]
        places = {before[-1] if before else WATCHED, after[-1]}
        moves = [told.facts["from"], told.facts["to"]] if "to" in told.facts else []
        is_there = any(
            path == place or path.startswith(f"{place}/")
            for place in places
            for path in [told.path, *moves]
        )
        if is_there or len(places) > 1:
            found.append(told)
    return found


@pytest.mark.parametrize("engine", engines())
async def test_the_tree_follows_from_the_feed(engine: str, tmp_path: Path, seed: int) -> None:
    place = Place(engine, tmp_path)
    walk = Walk(seed)
    steps = 0
    for life in range(3):
        async with at_work(place) as (driver, volume):
            walk.driver, walk.volume, walk.open = driver, volume, []
            if life == 0:
                await driver.create_volume("/v")
                await make_stream(driver, "/v/log")
                await publish(driver.platform, "/", "/v/log", since=0)
                await walk.make_watched()
            while steps < STEPS[engine] * (life + 1) // 3:
                steps += 1
                await walk.step()
                if walk.rng.random() < 0.02:
                    await driver.platform.publications.run_once()
                if walk.rng.random() < 0.02:
                    await volume.sync()
                await asyncio.sleep(0)
            await volume.sync()
            await settle(driver.platform)
            whole = await read_all(walk, ROOT_INODE)
            replica, published = Replica(), Replica()
            for told in whole:
                replica.take(told.event, told.kind, told.path, told.facts)
            for each in await copied(driver.platform, "/v/log"):
                value = each.value
                published.take(value["event"], value["kind"], value["path"], value["facts"])
            there = {p: v for p, v in (await live(driver, volume)).items() if p != "/v/log"}
            assert replica.shown() == there
            assert published.shown() == there
            inode = await volume.find_inode(walk.watched)
            if inode is not None and inode.links:
                assert await read_all(walk, walk.watched) == happened_there(walk, whole)
            assert len(whole) > steps // 8, "hardly anything happened"


async def _walk(tmp_path: Path, seed: int) -> None:
    for number in range(seed, seed + 5):
        directory = tmp_path / str(number)
        directory.mkdir()
        await test_the_tree_follows_from_the_feed("memory", directory, number)


BUGS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "a directory that is renamed is lost": (changes, "moved", lambda place, event: place),
    "the place of before is that of now": (places, "moved_back", lambda place, event: place),
    "what leaves is not told": (
        changes,
        "concerns",
        lambda event, path: places.is_at_or_below(event.path, path),
    ),
    "a row too many is passed over": (changes, "may_move", lambda row: False),
}


@pytest.mark.parametrize("bug", BUGS)
async def test_planted_bugs_are_found(
    bug: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BUGS[bug])
    with pytest.raises(AssertionError):
        await _walk(tmp_path, seed)
