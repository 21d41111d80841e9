"""Rows, topics and partitions: names below tables and streams (`views/`) as nodes of the mount.

The kernel keeps nothing of them: each question comes here, and each answer is what the server says
at that moment. A name keeps its number while the kernel knows it.
"""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from dataplatform.api import platform_pb2 as pb

from ..nodes import VIEW_BIT
from .callers import name_text

if TYPE_CHECKING:
    from ..mount import Mount
    from ..nodes import Node
    from ..views.base import ViewNode


class ViewTree:
    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._places: dict[tuple[int, str], int] = {}

    async def lookup(self, directory: Node, name: bytes) -> Node | None:
        text = self._text(name)
        if text is None:
            return None
        try:
            view = await self._view(directory).lookup(text)
        except FileNotFoundError:
            return None
        return await self._node(directory, text, view)

    async def create(self, directory: Node, name: bytes) -> Node:
        text = name_text(name)
        return await self._node(directory, text, await self._view(directory).create(text))

    async def mkdir(self, directory: Node, name: bytes) -> Node:
        text = name_text(name)
        return await self._node(directory, text, await self._view(directory).mkdir(text))

    async def remove(self, directory: Node, name: bytes, *, is_directory: bool) -> None:
        view, text = self._view(directory), name_text(name)
        await (view.rmdir(text) if is_directory else view.unlink(text))

    async def removal(self, node: Node) -> pb.RemoveRequest.Expect:
        """rmdir(2) of a table or stream: as of a directory, only when nothing is in it."""
        async for _ in self._view(node).entries():
            raise OSError(errno.ENOTEMPTY, "there are rows or topics in it")
        return pb.RemoveRequest.ANYTHING

    async def rename(self, source: Node, name: bytes, target: Node, new_name: bytes) -> None:
        if source.view is None or target.view is None:
            raise OSError(errno.EXDEV, "files and rows are different things: copy")
        await source.view.rename(name_text(name), target.view, name_text(new_name))

    async def set_attributes(self, node: Node, size: int | None) -> None:
        """Owner, permissions and times are the table's or stream's: setting them here does nothing,
        so that programs which copy and edit files do not stumble."""
        view = self._view(node)
        if size is not None:
            await view.set_attributes(size=size)
        await self.refresh(node)

    async def refresh(self, node: Node) -> None:
        """The attributes as of now."""
        found = await self._view(node).attributes()
        node.mode = stat.S_IMODE(found.mode)
        node.kind = pb.DIRECTORY if stat.S_ISDIR(found.mode) else pb.FILE
        node.size = found.size
        node.used_bytes = found.size
        node.links = found.links
        node.uid, node.gid = found.uid, found.gid
        node.atime_ns, node.mtime_ns, node.ctime_ns = (
            found.atime_ns,
            found.mtime_ns,
            found.ctime_ns,
        )
        node.packed = None

    async def _node(self, directory: Node, name: str, view: ViewNode) -> Node:
        nodes = self._mount.nodes
        place = directory.number, name
        number = self._places.get(place)
        node = nodes.find(number) if number is not None else None
        if node is None or (node.view is not view and node.opens):
            node = nodes.add_view(view, directory.volume)
            if len(self._places) > 4 * len(nodes) + 1000:
                self._places = {p: n for p, n in self._places.items() if nodes.find(n)}
            self._places[place] = node.number
        else:
            node.view = view
        node.governed = directory.governed  # what it is made of decides
        node.is_snapshot = directory.is_snapshot
        await self.refresh(node)
        return node

    def _view(self, node: Node) -> ViewNode:
        if node.view is None:
            assert node.number & VIEW_BIT
            raise OSError(errno.ESTALE, "look it up again, please")
        return node.view

    def _text(self, name: bytes) -> str | None:
        """A name that is looked for; None if nothing can have it."""
        if len(name) > 255:
            raise OSError(errno.ENAMETOOLONG, "names have at most 255 bytes")
        try:
            return name.decode()
        except UnicodeDecodeError:
            return None
