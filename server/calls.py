"""One call under way: who asks, and what it holds in use until it ends."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Invalid, NotFound, PlatformError, Unavailable
from dataplatform.core import damages
from dataplatform.core.platform import NewName, Node, Platform
from dataplatform.core.principals import Principal
from dataplatform.core.units import SYSTEM, Request, Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_VOLUME, Inode
from dataplatform.transport.frames import Data

from .facts import ServerFacts
from .fairness import Fairness
from .identity import Attachment
from .limits import Limiter, Limits
from .packing import node_message
from .sessions import SESSION_BYTES

TARGETS: dict[type[Any], tuple[str, ...]] = {
    method.request: tuple(
        field.name
        for field in method.request.DESCRIPTOR.fields
        if field.message_type is pb.Target.DESCRIPTOR
    )
    for method in METHODS.values()
}
"""The fields of a request that say what it acts on."""

FIRST_TARGETS = {message: names[0] for message, names in TARGETS.items() if names}
"""The first of them, which also says whom the request is for."""


@lru_cache(maxsize=4096)
def _asking(principal: Principal, session: bytes, origin: str) -> Request:
    """A request without an id; making one costs more than finding it."""
    return Request(principal, caller=session, origin=origin)


class Call:
    """What a handler works with. `end` lets go of every volume that was found through it."""

    # What holds for few calls is set on those alone: making a call is a part of all that it costs.
    _is_fresh = False  # the answer is of a change that was made just now
    _left_behind: tuple[bytes, Inode] | None = None  # what `left` packed
    _spoken_for: Callable[[], Principal] | None = None
    fairness: Fairness | None = None
    limits: Limits | None = None
    """Of all volumes, with `message` and `data`, what it brings; None: it is not limited."""
    limiters: dict[int, Limiter] | None = None
    """Of the volumes for which it was admitted; None as long as nothing limits it."""
    message: Any = None
    data: bytes | memoryview = b""
    as_of_ns = 0
    """It is answered by a mirror, which is as its source was then; 0: by what it is about."""
    cluster = ""
    """Whose server passes it on, for one of its own clients; "": it comes from a client."""
    about: tuple[Volume, int] | None = None
    """The volume and inode that a target led to, the last one if there are several."""

    def __init__(
        self,
        platform: Platform,
        attachment: Attachment,
        server: ServerFacts,
        method: int = 0,
    ) -> None:
        """DENIED if the caller's credential is not good any more."""
        self.session = session = attachment.session
        self.credential = credential = attachment.credential
        self.principal = credential.now()
        self.origin = attachment.origin
        if attachment.cluster:
            self.cluster = attachment.cluster
        self.method = method
        self.platform = platform
        self.server = server
        self.keeper = platform.promises.keepers.get(session.id)
        """The session, if it keeps in a cache what it is answered: it comes with promises."""
        self._held: list[Volume] = []

    def who_now(self) -> Principal:
        """Whom the call is for, at this moment. DENIED if it is nobody any more."""
        find = self._spoken_for
        return self.credential.now() if find is None else find()

    def speak(self, find: Callable[[], Principal]) -> None:
        """It is not for whoever the connection is of, but for somebody that it speaks for. DENIED
        to whoever may not speak."""
        self._spoken_for = find
        self.principal = find()

    @property
    def speaks(self) -> bool:
        """Whether the connection's principal may speak for others."""
        return self.credential.now().may_speak

    def end(self) -> None:
        while self._held:
            self.platform.release(self._held.pop())

    def note_change(self) -> None:
        """It changed something in the volumes that it led to."""
        self.session.changed.update([volume.id for volume in self._held])

    def _must_wait(self, volume: Volume) -> bool:
        """It led to the volume: whether it has to be `_admitted`."""
        volume = volume.home
        if self.fairness is not None:
            self.fairness.saw(self.session, volume.id)
        limits, settings = self.limits, volume.settings
        return limits is not None and bool(settings.iops or settings.bandwidth or limits.limiters)

    async def _admitted(self, volume: Volume) -> None:
        """Wait until the volume's limits let this call begin: once, wherever it leads to it."""
        assert self.limits is not None
        volume = volume.home
        settings = volume.settings
        limiter = self.limits.of(volume.id, settings.iops, settings.bandwidth)
        if self.limiters is None:
            self.limiters = {}
        if limiter is not None and volume.id not in self.limiters:
            await limiter.admit(request_bytes(self.message, self.data))
            self.limiters[volume.id] = limiter

    def charge(self, reply: Any, bulk: Data) -> None:
        """What the reply moves, if the call was limited."""
        for limiter in (self.limiters or {}).values():
            limiter.charge(reply_bytes(reply, bulk))

    def release(self, volume: Volume) -> None:
        """Let go of one volume early."""
        self._held.remove(volume)
        self.platform.release(volume)

    async def named(self, error: PlatformError, message: Any) -> PlatformError:
        """The error; if it tells of damage, with the path that the message is about."""
        targets = [getattr(message, name) for name in TARGETS.get(type(message), ())]
        about = targets[0] if targets else pb.Target(volume=ROOT_VOLUME)
        return await damages.name(self.platform, error, about.volume, about.inode, about.path)

    # ---- what the message asks for

    def ask(self) -> Request:
        """As `asker`, as of this moment: whoever works for long asks again. DENIED if the caller's
        credential is not good any more."""
        self.principal = principal = self.who_now()
        if principal.is_free:
            return SYSTEM  # there is nothing to ask about
        return _asking(principal, self.session.id, self.origin)

    @property
    def asker(self) -> Request:
        """Who asks, for what changes nothing."""
        if self.principal.is_free:
            return SYSTEM  # there is nothing to ask about
        return _asking(self.principal, self.session.id, self.origin)

    def request(self, message: Any) -> Request:
        """Who asks, and the id by which a retry is known."""
        if not message.HasField("request"):
            return _asking(self.principal, self.session.id, self.origin)
        given = message.request
        if len(given.session) != SESSION_BYTES:
            raise Invalid("the session of a request id is not 16 bytes", length=len(given.session))
        return Request(
            self.principal,
            given.session,
            given.slot,
            given.sequence,
            self.method,
            self.session.id,
            self.origin,
        )

    def durable(self, message: Any, *, customary: bool) -> bool:
        """Whether the reply waits until the change is durable (D5)."""
        wanted = message.durability
        if wanted == pb.CUSTOMARY:
            return customary
        if wanted not in (pb.DURABLE, pb.LAZY):
            raise Invalid("unknown durability", durability=wanted)
        return bool(wanted == pb.DURABLE)

    async def find_reply(self, message: Any) -> tuple[Volume, Any] | None:
        """The volume and what its lane keeps for a retry, if this very request was done before.

        Looked for where the request's targets lead, as far as their paths lead anywhere; in the
        root volume, where volumes come and go; and, as a volume may be mounted elsewhere by now,
        in those that this session changed lately. UNAVAILABLE if nobody can know it.
        """
        request = self.request(message)
        if request.session is None:
            return None
        targets = [getattr(message, name) for name in TARGETS[type(message)]]
        targets.append(pb.Target(volume=ROOT_VOLUME))
        for volume in self.platform.volumes:
            if volume.replies.knows(request.session):
                targets.append(pb.Target(volume=volume.id))
        looked: set[int] = set()
        for target in targets:
            try:
                volume = await self.platform.reach(target.path, target.volume, target.inode)
                self._held.append(volume)
                if volume.id in looked:
                    continue
                looked.add(volume.id)
                known, result = await volume.lane.find_reply(request)
            except Unavailable:
                raise
            except PlatformError:
                continue  # no such volume, or an id that was used for something else
            if known:
                return volume, result
        return None

    # ---- what the targets name

    async def node(self, target: pb.Target, *, follow: bool = True) -> Node:
        """What the target names. NOT_FOUND."""
        node = await self.platform.locate(
            target.path,
            target.volume,
            target.inode,
            follow=follow,
            keeper=self.keeper,
            request=self.asker,
        )
        self._held.append(node.volume)
        if self._must_wait(node.volume):
            await self._admitted(node.volume)
        self.about = node.volume, node.inode.number
        return node

    def reference_now(self, target: pb.Target) -> tuple[Volume, int] | None:
        """As `reference`, if that needs no waiting: an inode by number, of an open volume."""
        if target.path or not target.inode:
            return None
        volume = self.platform.hold(target.volume)
        if volume is None:
            return None
        self._held.append(volume)
        home = volume.home
        if home.settings.iops or home.settings.bandwidth:
            return None  # it may have to wait
        if self.fairness is not None:
            self.fairness.saw(self.session, home.id)
        self.about = found = volume, target.inode
        return found

    async def reference(self, target: pb.Target) -> tuple[Volume, int]:
        """Volume and inode number; an inode given by number is not looked at yet."""
        if target.inode and not target.path:
            volume = await self.platform.acquire(target.volume)
            self._held.append(volume)
            if self._must_wait(volume):
                await self._admitted(volume)
            self.about = found = volume, target.inode
            return found
        node = await self.node(target)
        return node.volume, node.inode.number

    async def volume(self, volume_id: int) -> Volume:
        """The volume, in use until the call ends. NOT_FOUND."""
        volume = await self.platform.acquire(volume_id)
        self._held.append(volume)
        if self._must_wait(volume):
            await self._admitted(volume)
        return volume

    async def new_name(
        self, target: pb.Target, *, parents: bool = False, look: bool = False
    ) -> NewName:
        """Where to create, remove or rename. NOT_FOUND if directories are missing and not
        `parents`. Without `look`, one name relative to an inode is left to the unit."""
        at = await self.platform.locate_name(
            target.path, target.volume, target.inode, look=look, request=self.asker
        )
        self._held.append(at.volume)
        if self._must_wait(at.volume):
            await self._admitted(at.volume)
        if at.missing and not parents:
            raise NotFound(
                "no such directory: create it first, or ask for parents",
                path=target.path,
                missing=at.missing[0],
            )
        return at

    def same_volume(self, first: Volume, second: Volume) -> None:
        if first is not second:
            raise Invalid("the two are in different volumes: copy instead", errno=errno.EXDEV)

    async def shown(self, node: Node, *, name: str = "") -> pb.Node:
        """The node's message; with what expressions decide, for who leaves the rest to a kernel."""
        message = node_message(node, name=name)
        if self.keeper is not None and self.speaks and node.inode.links:
            guard = self.platform.guard
            governed = guard.governed_now(node.volume, node.inode)
            if governed is None:
                governed = await guard.governed(node.volume, node.inode)
            if governed:
                message.governed = governed
        return message

    async def describe(self, volume: Volume, number: int) -> pb.Node:
        """The node as it is now."""
        if self.keeper is not None:
            await self.keeper.keep(volume, number)
        return await self.shown(Node(volume, await self.platform.describe(volume, number)))

    async def left(self, unit: Unit, number: int) -> bytes:
        """The inode as this unit leaves it: what a lane keeps to answer with a node."""
        packed = await unit.packed(number)
        self._left_behind = packed, await unit.inode(number)
        if self.keeper is not None:
            unit.on_commit(lambda _: self._left(unit.volume, number))
        return packed

    def _left(self, volume: Volume, number: int) -> None:
        assert self.keeper is not None
        self.keeper.keep_now(volume, number)
        self._is_fresh = True

    async def node_left(self, volume: Volume, packed: bytes) -> pb.Node:
        """The node as its change left it, whatever became of it since: see `left`.

        A keeper gets it as it is now, if it was told meanwhile that it has changed: or it would
        keep what the promise that it has is not about.
        """
        inode = self.inode_left(packed)
        keeper = self.keeper
        if keeper is not None and not (self._is_fresh and keeper.keeps(volume.id, inode.number)):
            await keeper.keep(volume, inode.number)
            inode = await volume.find_inode(inode.number) or inode
        node = Node(volume, await volume.complete(inode))
        return node_message(node) if keeper is None else await self.shown(node)

    def inode_left(self, packed: bytes) -> Inode:
        """The inode as its change left it, not to be changed: see `left`."""
        known = self._left_behind
        return known[1] if known is not None and known[0] is packed else Inode.unpack(packed)


def request_bytes(message: Any, data: bytes | memoryview) -> int:
    """What a request moves; the bytes of a write that lie in shared memory, too."""
    moved: int = message.ByteSize() + len(data)
    if type(message) is pb.WriteRequest and message.area:
        moved += sum(part.length for part in message.parts) if message.parts else message.length
    return moved


def reply_bytes(reply: Any, bulk: Data) -> int:
    """What a reply moves."""
    parts = (bulk,) if isinstance(bulk, (bytes, bytearray, memoryview)) else bulk
    return int(reply.ByteSize()) + sum(map(len, parts))
