"""The state of one mount: what every operation works on.

Operations (`operations/`) are the meaning of what programs ask, the door (`door/`) is how the
kernel asks, and `watching` keeps what is remembered exact. They meet here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any, Protocol

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.limits import MIB
from dataplatform.client.clients import Client
from dataplatform.client.syncing import Relief
from dataplatform.transport.steps import Steps

from .access import Access
from .blocks import Blocks
from .calls import CLOSE, OPEN, STAT, Calls
from .handles import Handles
from .handover import Handover
from .near import Near
from .nodes import VIEW_BIT, Content, FarVolumes, Node, Nodes
from .operations.views import ViewTree
from .options import MountOptions
from .rights import Rights
from .smallfiles import SmallFiles
from .views import view_of
from .writing import Budget, Fullness, Writing

logger = logging.getLogger(__name__)


UNSYNCED_BYTES = 8 * MIB
"""Answered by the server and kept until they are durable, before a sync is run beside; twice that
before writes wait for it."""


REFRESHES_MAX = 3


class Kernel(Protocol):
    """What operations may tell the kernel of their own accord."""

    def attributes_changed(self, number: int) -> None:
        """Its attributes are to be asked for again. Never waits."""

    def pages_changed(self, number: int) -> None:
        """Its pages are to be read again. Done soon, in the background."""

    def name_changed(self, directory: int, name: bytes) -> None:
        """The name is to be looked up again. Done soon, in the background."""

    def epoch(self) -> None:
        """Every name is to be looked up again, where the kernel can do that. Never waits."""


class Mount:
    """One mounted tree."""

    def __init__(
        self,
        root: pb.Node,
        calls: Calls,
        options: MountOptions,
        blocks: Blocks | None,
        handover: Handover,
        rights: Rights,
    ) -> None:
        self._handover = handover
        self.options = options
        self.calls = calls
        self.stats = calls.stats
        self.client = Client(calls.channel)
        far = FarVolumes(handover.far_volumes(), handover.far_volume_set)
        self.nodes = Nodes((root.volume, root.inode), far)
        self.nodes.let_go = self.let_go
        self.is_successor = handover.generation > 0
        self.handles = Handles()
        self.blocks = blocks
        self.near: Near | None = Near(calls) if options.near else None
        self.small_files = SmallFiles()
        self.budget = Budget(options.dirty_bytes_max)
        self.fullness = Fullness()
        self.relief = Relief(calls.channel, UNSYNCED_BYTES)
        self.loop = asyncio.get_running_loop()
        self.steps = Steps(self.loop)
        self.rights = rights
        self.kernel: Kernel | None = None
        self.view_tree = ViewTree(self)
        self.access = Access(self)
        self._being_held: set[Node] = set()

    # ---- nodes

    async def node(self, number: int) -> Node:
        """The node with its attributes: as remembered, or as the server says now. ESTALE."""
        node = self.nodes.get(number)
        if node.known:
            self.stats.cache_hits += 1
            return node
        if number & VIEW_BIT:
            await self.view_tree.refresh(node)
            return node
        await self.refresh(node)
        return node

    async def refresh(self, node: Node) -> None:
        """Ask the server for the attributes: again when a write of ours overtook the answer."""
        if not node.volume:
            raise OSError(errno.ESTALE, "looked up again, please")
        request = pb.StatRequest(target=pb.Target(volume=node.volume, inode=node.inode))
        for _ in range(REFRESHES_MAX):
            mark = self.calls.mark()
            try:
                message = await self.calls.call(STAT, request)
            except FileNotFoundError as error:
                raise OSError(errno.ESTALE, "it is gone") from error
            self.take(message, mark)
            if node.changed_turn <= mark:
                return

    def take(self, message: pb.Node, mark: int) -> Node:
        """Remember what the server says of a node, if it holds still: see `calls`. Answers may
        overtake one another: an older one does not undo what is known."""
        node = self.nodes.of(message)
        if node.known and message.version < node.version:
            return node
        writing = node.writing
        busy = writing is not None and writing.is_busy
        was_known = node.known
        was = node.size, node.mtime_ns, node.ctime_ns
        node.take(message)
        self.rights.take(node, message.governed)
        node.atime_ns = self.access.latest_ns(node.key, node.atime_ns)
        if busy:
            assert writing is not None
            node.size = max(node.size, writing.end)
            node.mtime_ns, node.ctime_ns = was[1], max(node.ctime_ns, was[2])
        elif node.changed_turn > mark:  # a change of ours was answered since it was asked
            if was_known and message.kind == pb.FILE:
                node.size, node.mtime_ns, node.ctime_ns = was[0], was[1], max(node.ctime_ns, was[2])
            else:
                node.known = False
        if self.calls.told_since(node.key, mark):
            node.promised = node.known = False
        else:
            node.promised = True
            if (
                message.kind == pb.FILE
                and not message.buffered
                and self.calls.are_bytes_as_of(node, mark)
            ):
                node.content = Content(message.version, message.mtime_ns, message.size)
        if message.kind in (pb.TABLE, pb.STREAM):
            node.view = view_of(self.client, message)
        return node

    def doubt(self, node: Node, *names: bytes) -> None:
        """A change of ours to it, or to these names of a directory, ended without the server's
        answer (`UNKNOWN_OUTCOMES`): it was made or not. What is remembered of that is believed no
        more, here and in the kernel; what is being asked just now is not kept."""
        self.calls.told(node.key)
        if names:
            self.nodes.doubt(node, names)
        else:
            self.nodes.distrust(node)
        kernel = self.kernel
        if kernel is None:
            return
        kernel.attributes_changed(node.number)
        kernel.pages_changed(node.number)
        for name in names:
            kernel.name_changed(node.number, name)
        if names:
            kernel.epoch()  # dropping a name may wait for programs; nobody may see it meanwhile

    # ---- files

    def writing(self, node: Node) -> Writing:
        """The file's write path, made at the first write."""
        if node.writing is None:
            node.writing = Writing(node, self, self._handover)
        return node.writing

    def damaged(self, node: Node) -> None:
        """The kernel's pages do not hold what is stored."""
        node.moved()
        if self.kernel is not None:
            self.kernel.attributes_changed(node.number)
            self.kernel.pages_changed(node.number)

    def may_be_open(self, node: Node) -> bool:
        """Whether somebody may have the file open. What was opened before this process came is not
        known here until it is used: until the kernel forgets it, it may be."""
        if node.opens or node.is_ours or not self.is_successor:
            return node.opens > 0
        return node.view is None and node.kind in (0, pb.FILE)

    def closed(self, node: Node) -> None:
        """One of the handles on it is closed."""
        if node.held and not self.may_be_open(node):
            self.let_go(node)

    async def hold(self, node: Node) -> None:
        """The file may lose its last name without a word to us: keep it for those who have it
        open."""
        if node.held or node in self._being_held:
            return
        self._being_held.add(node)
        request = pb.OpenRequest(target=pb.Target(volume=node.volume, inode=node.inode))
        try:
            await self.calls.call(OPEN, request)
        finally:
            self._being_held.discard(node)
        self.kept(node)
        if self.nodes.find(node.number) is not node:
            self.let_go(node)  # forgotten meanwhile
        self.closed(node)

    def kept(self, node: Node) -> None:
        """The server has it open for us."""
        if not node.held:
            node.held = True
            self.calls.channel.file_opened(*node.key)

    def let_go(self, node: Node) -> None:
        """Nobody has it open any more."""
        if node.held:
            node.held = False
            self.calls.channel.file_closed(*node.key)
            self.background(self._close(node))

    async def _close(self, node: Node) -> None:
        request = pb.StatRequest(target=pb.Target(volume=node.volume, inode=node.inode))
        await self.calls.call(CLOSE, request)

    def background(self, work: Any) -> None:
        """Work that nobody waits for; what it meets is logged."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_log_failure)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("background work failed. reason=`%s`", error)
