"""What all parts of one check share."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from ...base.errors import Corrupt
from ...engine.base import Pair, View
from ...keyspace import keys
from ...keyspace.records import ROOT_INODE, DirectoryQuota, Inode, Statistics, VolumeState
from ..volumes import Volume
from .findings import Findings, Repair
from .inodes import Inodes
from .keytable import NOUNS, is_key
from .picture import Picture, read_record
from .references import References

Progress = Callable[[str, int], None]

PATHS_MAX = 100_000

INODE_KEY_BYTES = 9
"""A key's tag and the number of the inode that it belongs to."""


class Moment(NamedTuple):
    """A view, and what the volume holds in memory of the same commit: repairs of counts begin from
    that, because that is what every unit adds to."""

    view: View
    state: VolumeState
    statistics: dict[int, Statistics]
    quotas: dict[int, DirectoryQuota]


class Check:
    """One check of one volume, under way."""

    def __init__(
        self,
        volume: Volume,
        moment: Moment,
        sizes: dict[int, int],
        findings: Findings,
        progress: Progress | None,
    ) -> None:
        self.volume = volume
        self.findings = findings
        self.moment = moment
        self.picture = Picture(moment.view, self._on_unreadable)
        self.state: VolumeState | None = None
        self.inodes = Inodes()
        self.references = References(self, sizes)
        self.counts: Counter[str] = Counter()
        self.named: dict[tuple[str, str], str] = {}  # see `rights`
        self.used_bytes = 0
        self.quotas: dict[int, DirectoryQuota] = {}
        self.used_below: Counter[int] = Counter()  # bytes by directory, if there are quotas
        self.usage_is_sure = True
        self.highest_producer = 0
        self.unreadable_statistics: set[int] = set()
        self._progress = progress
        self._seen = 0
        self._paths: dict[int, str] = {ROOT_INODE: "/"}

    # ---- reading

    async def pages(self, prefix: bytes, stage: str) -> AsyncIterator[list[Pair]]:
        """The rows of one kind that have well-formed keys, and progress."""
        async for page in self.range(*keys.prefix_range(prefix), stage):
            yield page

    async def range(self, start: bytes, end: bytes, stage: str) -> AsyncIterator[list[Pair]]:
        async for page in self.picture.pages(start, end):
            self.saw(len(page), stage)
            good = [pair for pair in page if is_key(pair[0])]
            if len(good) < len(page):
                for key, _ in page:
                    if not is_key(key):
                        self.unknown_row(key)
            yield good

    def saw(self, count: int, stage: str) -> None:
        self._seen += count
        if self._progress is not None:
            self._progress(stage, self._seen)

    @property
    def commit(self) -> int | None:
        """The last commit, if it is known."""
        return self.state.commit if self.state is not None else None

    def is_too_new(self, version: int) -> bool:
        return self.state is not None and version > self.state.commit

    # ---- saying

    def add(self, path: str, problem: str, repair: Repair | None = None) -> None:
        self.findings.add(path, problem, repair)

    def unknown_row(self, key: bytes) -> None:
        self.add("/", f"a row of unknown meaning is stored in the engine: {key!r}")

    async def _on_unreadable(self, first: bytes, last: bytes, error: Corrupt) -> None:
        """Named by what the range ends in, which is surely damaged; it may begin in another."""
        noun, is_about_inode = NOUNS.get(last[:1], ("rows of unknown meaning", False))
        if not is_about_inode or len(last) < INODE_KEY_BYTES:
            self.add("/", f"{noun} cannot be read: {error.message}")
            return
        path = await self.path_of(keys.number_of(last))
        since = await self.path_of(keys.number_of(first)) if len(first) >= INODE_KEY_BYTES else path
        begins = f"; the damage begins behind those of {since}" if since != path else ""
        self.add(path, f"{noun} cannot be read: {error.message}{begins}")

    async def path_of(self, number: int) -> str:
        """From the volume's root, by way of first names, as they were at this moment."""
        names: list[str] = []
        passed: set[int] = set()
        current = number
        while current not in self._paths:
            inode = await self._find_inode(current)
            if inode is None or not inode.parent or current in passed:
                names.append(f"(inode {current})")
                return "/".join(reversed(names))
            passed.add(current)
            names.append(inode.name.decode("utf-8", "backslashreplace"))
            current = inode.parent
        path = self._paths[current]
        if names:
            path = path.rstrip("/") + "/" + "/".join(reversed(names))
            if len(self._paths) < PATHS_MAX:
                self._paths[number] = path
        return path

    def name_path(self, number: int, path: str) -> None:
        """The path of something whose own record cannot tell it."""
        self._paths.setdefault(number, path)

    async def entry_path(self, directory: int, name: bytes) -> str:
        base = await self.path_of(directory)
        return base.rstrip("/") + "/" + name.decode("utf-8", "backslashreplace")

    async def inode(self, number: int) -> Inode | None:
        """The record of an inode that was readable when all inodes were looked at."""
        return await self._find_inode(number)

    async def _find_inode(self, number: int) -> Inode | None:
        if number in self.inodes.damaged:
            return None
        value = await self.picture.find(keys.inode(number))
        if value is None:
            return None
        try:
            return read_record(Inode, value)
        except Corrupt:
            return None

    # ---- what is missing

    def is_missing(self, number: int) -> bool:
        """Whether there is surely no such inode."""
        return not self.inodes.has(number) and not self.picture.is_unreadable(keys.inode(number))

    def use(self, number: int, size_bytes: int) -> None:
        """The inode's data takes so many bytes."""
        if self.inodes.is_named(number):
            self.used_bytes += size_bytes
            index = self.inodes.find(number) if self.quotas else -1
            if index >= 0:
                self.used_below[self.inodes.parents[index]] += size_bytes

    async def is_unchanged(self, key: bytes, value: bytes) -> bool:
        """Whether it is still so: what was rewritten meanwhile may rightly have lost its bytes."""
        try:
            return await self.volume.storage.engine.get(key) == value
        except Corrupt:
            return True
