"""An open directory: its names, one page after the other.

A position is a count: 0 is the beginning, 1 and 2 lie behind "." and "..", and so on. A page is
kept so that the kernel can go on where its buffer was full; going back means to begin anew. Every
name that is there all the time is seen exactly once, since pages follow the order of names (POSIX
readdir); what comes or goes meanwhile is seen or not.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, NamedTuple

from dataplatform.api import platform_pb2 as pb

from .calls import LIST
from .nodes import Node, type_bits
from .operations.callers import Caller

if TYPE_CHECKING:
    from .mount import Mount

PAGE_ENTRIES = 4000
DOTS = 2

COMPLETE_NAMES_MAX = 30_000
"""Directories with more names are not kept in memory whole."""


class Item(NamedTuple):
    """A name; the node is None when only its number and type are known."""

    name: bytes
    number: int
    type_bits: int
    node: Node | None


class Listing:
    """One open directory."""

    def __init__(self, mount: Mount, node: Node, caller: Caller) -> None:
        self._mount = mount
        self.node = node
        self._caller = caller  # who opened it
        self._items: list[Item] = []
        self._first = DOTS  # the position of the first item
        self._after = ""
        self._is_end = False
        self._is_begun = False
        self._names: dict[bytes, int] | None = {}
        self._mark = 0
        self._turn = 0
        self._page_mark = 0

    def begin(self) -> None:
        """rewinddir(3): what is there by now is read."""
        self._is_begun = False

    @property
    def is_kept(self) -> bool:
        """Whether the kernel may keep the names of the last page."""
        node = self.node
        return node.promised and not self._mount.calls.told_since(node.key, self._page_mark)

    async def at(self, position: int) -> list[Item]:
        """Items from a position on (2 is the first name); empty at the end."""
        if not self._is_begun or position < self._first:
            self._begin()
        while position >= self._first + len(self._items):
            if self._is_end:
                return []
            await self._next_page()
        return self._items[position - self._first :]

    def _begin(self) -> None:
        self._is_begun = True
        self._items = []
        self._first = DOTS
        self._after = ""
        self._is_end = False
        self._names = {}
        self._mark = self._mount.calls.mark()
        self._turn = self.node.names_turn

    async def _next_page(self) -> None:
        self._first += len(self._items)
        self._items = []
        node = self.node
        if node.view is not None:
            await self._mount.rights.on_behalf(self._caller, self._view_page())
        elif not (self._first == DOTS and self._is_from_memory()):
            await self._server_page()

    def _is_from_memory(self) -> bool:
        """Whether the directory is known whole, with the type of everything in it: programs that
        may read a directory, but not enter it, rely on types."""
        node = self.node
        if not (node.complete and node.promised and node.entries is not None):
            return False
        find = self._mount.nodes.find
        for name, number in node.entries.items():
            if not number:
                continue
            child = find(number)
            if child is None or not child.kind:
                self._items = []
                return False
            known = child if child.known else None
            self._items.append(Item(name, number, type_bits(child.kind), known))
        self._page_mark = self._mount.calls.mark()
        self._mount.stats.cache_hits += 1
        self._is_end = True
        return True

    async def _server_page(self) -> None:
        mount, node = self._mount, self.node
        request = pb.ListRequest(
            target=pb.Target(volume=node.volume, inode=node.inode),
            after=self._after,
            limit=PAGE_ENTRIES,
        )
        mark = self._page_mark = mount.calls.mark()
        try:
            reply = await mount.calls.call(LIST, request)
        except FileNotFoundError as error:
            raise OSError(errno.ENOENT, "the directory was removed") from error
        items = self._items
        for message in reply.nodes:
            child = mount.nodes.of(message)
            if message.volume_root:  # the directory that a volume covers: a look finds that
                self._names = None
                name = message.name.encode()
                items.append(Item(name, child.number, type_bits(message.kind), None))
                continue
            if child.writing is None or not child.writing.is_busy:
                child = mount.take(message, mark)
            items.append(Item(message.name.encode(), child.number, type_bits(message.kind), child))
        if reply.nodes:
            self._after = reply.nodes[-1].name
        self._is_end = reply.end
        self._remember()

    def _remember(self) -> None:
        """A directory that was read whole while nothing was told of it is known whole."""
        names, node, mount = self._names, self.node, self._mount
        if names is None:
            return
        if len(names) + len(self._items) > COMPLETE_NAMES_MAX:
            self._names = None
            return
        names.update((item.name, item.number) for item in self._items)
        if not self._is_end:
            return
        self._names = None
        if mount.calls.told_since(node.key, self._mark) or node.names_turn != self._turn:
            return
        node.promised = True
        for name, number in names.items():
            mount.nodes.name(node, name, number)
        if node.entries is None and not names:
            node.entries = {}
        # There may have been no room for all of them.
        node.complete = node.entries is not None and names.keys() <= node.entries.keys()

    async def _view_page(self) -> None:
        view = self.node.view
        assert view is not None
        async for name, child in view.entries(self._after):
            kind = stat.S_IFDIR if child.is_directory else stat.S_IFREG
            self._items.append(Item(name.encode(), self.node.number, kind, None))
            self._after = name
            if len(self._items) >= PAGE_ENTRIES:
                return
        self._is_end = True
