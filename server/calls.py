"""One call under way: who asks, and what it holds in use until it ends."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, NotFound
from dataplatform.core.platform import NewName, Node, Platform
from dataplatform.core.units import Request
from dataplatform.core.volumes import Volume

from .packing import node_message

if TYPE_CHECKING:
    from .sessions import Session


class Call:
    """What a handler works with. `end` lets go of every volume that was found through it."""

    __slots__ = ("_held", "platform", "session")

    def __init__(self, platform: Platform, session: Session) -> None:
        self.platform = platform
        self.session = session
        self._held: list[Volume] = []

    def end(self) -> None:
        for volume in self._held:
            self.platform.release(volume)
        self._held.clear()

    def release(self, volume: Volume) -> None:
        """Let go of one volume early."""
        self._held.remove(volume)
        self.platform.release(volume)

    # ---- what the message asks for

    def request(self, message: Any) -> Request:
        """Who asks, and the id by which a retry is known."""
        if not message.HasField("request"):
            return Request(self.session.principal)
        given = message.request
        return Request(self.session.principal, given.session, given.slot, given.sequence)

    def durable(self, message: Any, *, customary: bool) -> bool:
        """Whether the reply waits until the change is durable (D5)."""
        wanted = message.durability
        return customary if wanted == pb.CUSTOMARY else bool(wanted == pb.DURABLE)

    # ---- what the targets name

    async def node(self, target: pb.Target, *, follow: bool = True) -> Node:
        """What the target names. NOT_FOUND."""
        node = await self.platform.locate(
            target.path, target.volume, target.inode, follow=follow
        )
        self._held.append(node.volume)
        return node

    async def reference(self, target: pb.Target) -> tuple[Volume, int]:
        """Volume and inode number; an inode given by number is not looked at yet."""
        if target.inode and not target.path:
            volume = await self.platform.acquire(target.volume)
            self._held.append(volume)
            return volume, target.inode
        node = await self.node(target)
        return node.volume, node.inode.number

    async def new_name(self, target: pb.Target, *, parents: bool = False) -> NewName:
        """Where to create, remove or rename. NOT_FOUND if directories are missing and not
        `parents`."""
        at = await self.platform.locate_name(target.path, target.volume, target.inode)
        self._held.append(at.volume)
        if at.missing and not parents:
            raise NotFound(
                "no such directory: create it first, or ask for parents",
                path=target.path,
                missing=at.missing[0],
            )
        return at

    def same_volume(self, first: Volume, second: Volume) -> None:
        if first is not second:
            raise Invalid(
                "the two are in different volumes: copy instead", errno=errno.EXDEV
            )

    async def describe(self, volume: Volume, number: int) -> pb.Node:
        """The node as it is now."""
        return node_message(Node(volume, await self.platform.describe(volume, number)))
