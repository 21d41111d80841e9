"""The server's side of the mount: requests over one channel, their promises, their times.

A reply may arrive after the server told that what it says has changed (the two travel apart). So
whoever means to remember a reply takes a `mark` before the request, and asks `told_since` when the
reply is there: if it was told meanwhile, the reply may be used once and must not be kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import Internal, Stale, Unavailable
from dataplatform.base.limits import SLOTS_MAX
from dataplatform.client.connection import Channel, Pending
from dataplatform.client.runtime import AsyncRuntime
from dataplatform.client.slots import Slots
from dataplatform.client.tokens import TokenSource
from dataplatform.transport.addresses import Address
from dataplatform.transport.connections import AsyncConnection, Connection, Data, Reply
from dataplatform.transport.tls import Trust

from .areas import Areas
from .handover import Handover
from .nodes import Key, Node
from .stats import Stats

logger = logging.getLogger(__name__)

STAT = METHODS["Namespace.Stat"]
LIST = METHODS["Namespace.List"]
CREATE = METHODS["Namespace.Create"]
LINK = METHODS["Namespace.Link"]
REMOVE = METHODS["Namespace.Remove"]
RENAME = METHODS["Namespace.Rename"]
SET_ATTRIBUTES = METHODS["Namespace.SetAttributes"]
GET_XATTR = METHODS["Namespace.GetXattr"]
LIST_XATTRS = METHODS["Namespace.ListXattrs"]
SET_XATTR = METHODS["Namespace.SetXattr"]
REMOVE_XATTR = METHODS["Namespace.RemoveXattr"]
USAGE = METHODS["Namespace.Usage"]
WATCH = METHODS["Namespace.Watch"]
OPEN = METHODS["Files.Open"]
CLOSE = METHODS["Files.Close"]
READ = METHODS["Files.Read"]
WRITE = METHODS["Files.Write"]
SYNC = METHODS["Files.Sync"]
ALLOCATE = METHODS["Files.Allocate"]
MAP = METHODS["Files.Map"]
COPY_RANGE = METHODS["Files.CopyRange"]
LOCATE = METHODS["Files.Locate"]
ACCESS = METHODS["Namespace.Access"]

UNKNOWN_OUTCOMES = (asyncio.CancelledError, Unavailable, Internal)
"""What a change may end with although it was made, or still is going to be: see `Mount.doubt`."""

CALLER: ContextVar[pb.Caller | None] = ContextVar("caller", default=None)
"""For whom the requests of a task are, in all that they do."""

_FIRST_TARGETS = {
    method.request: next(
        (
            f.name
            for f in method.request.DESCRIPTOR.fields
            if f.message_type is pb.Target.DESCRIPTOR
        ),
        None,
    )
    for method in METHODS.values()
}


def _name(message: Any, caller: pb.Caller) -> None:
    """Say in the request whom it is for."""
    field = _FIRST_TARGETS[type(message)]
    if field is not None:
        getattr(message, field).caller.CopyFrom(caller)


TOLD_MAX = 50_000
"""Keys of which it is remembered when they were told of."""


class MountChannel(Channel):
    """A channel that says when a connection was lost, and whose session goes on with the next
    process: every other generation has one half of the slots, so that the ids of what the one
    before left unanswered stay untouched."""

    def __init__(
        self,
        address: Address,
        *,
        token: str | TokenSource | None,
        patience_s: float,
        handover: Handover,
        areas: Areas,
        trust: Trust | None = None,
    ) -> None:
        runtime = AsyncRuntime(trust)
        super().__init__(
            address, runtime, token=token, patience_s=patience_s, session=handover.session
        )
        self.on_lost: Callable[[], None] = lambda: None
        self._areas = areas
        self.current: AsyncConnection | None = None  # the one used last
        generation, half = handover.generation, SLOTS_MAX // 2
        first = half * (generation % 2)
        self.slots = self._slots = Slots(
            handover.session,
            self.runtime.condition(),
            first=first,
            end=first + half,
            last_sequence=generation << 40,
        )

    async def call(self, method: Method, message: Any, data: Data = b"", **more: Any) -> Reply:
        caller = CALLER.get()
        if caller is not None:
            _name(message, caller)
        return await super().call(method, message, data, **more)

    async def start(self, method: Method, message: Any, data: Data = b"", **more: Any) -> Pending:
        caller = CALLER.get()
        if caller is not None:
            _name(message, caller)
        return await super().start(method, message, data, **more)

    async def _open(self) -> Connection:
        connection = await super()._open()
        if isinstance(connection, AsyncConnection):
            self.current = connection
            connection.lost.add_done_callback(lambda _: self.on_lost())
            area = await self._areas.share(connection)
            if area is not None:
                shared = area
                connection.lost.add_done_callback(lambda _: self._areas.abandon(shared))
        return connection

    @property
    def welcome(self) -> pb.HelloReply:
        """What the server said of itself, and of whom it takes us for."""
        connection = self.runtime.holder().connection
        return pb.HelloReply() if connection is None else connection.welcome

    @property
    def store(self) -> bytes:
        """What the server serves, whichever server that is."""
        return self.welcome.store

    def cut(self) -> None:
        """Give the connection up: requests under way are repeated on another."""
        connection = self.runtime.holder().connection
        if isinstance(connection, AsyncConnection) and not connection.closed:
            connection.give_up()


class Calls:
    """Requests to the server, counted and timed."""

    def __init__(
        self, channel: MountChannel, stats: Stats, handover: Handover, areas: Areas
    ) -> None:
        self.channel = channel
        self.areas = areas
        self.stats = stats
        self._handover = handover
        self._resent = handover.journal() if handover.generation else {}
        self.owed: dict[int, int] = {}  # slots of requests that the kernel is not answered yet
        self._turn = 0
        self._told: dict[Key, int] = {}
        self._told_all = 0  # the turn since which nothing is known of keys that are not in there
        self.is_told = False  # whether the server tells us at all

    async def call(self, method: Method, message: Any, data: Data = b"") -> Any:
        """The reply's message."""
        return (await self.call_bulk(method, message, data))[0]

    async def call_bulk(self, method: Method, message: Any, data: Data = b"") -> Reply:
        """The reply's message and bulk bytes."""
        started_s = time.perf_counter()
        try:
            return await self.channel.call(method, message, data)
        finally:
            self.stats.answered(time.perf_counter() - started_s)

    async def once(self, method: Method, message: Any, key: int) -> Any:
        """The reply to a change that must not be made twice, for the kernel's request `key`: when
        the kernel sends that again to a process after this one, the server knows it. Its slot is
        kept until `done`."""
        started_s = time.perf_counter()
        known = self._resent.pop(key, None) if self._resent else None
        if known is not None:
            slot, sequence = known
            message.request.session = self.channel.session
            message.request.slot, message.request.sequence = slot, sequence
        else:
            request = await self.channel.slots.take()
            message.request.CopyFrom(request)
            self._handover.slot_set(request.slot, key, request.sequence)
            self.owed[key] = request.slot
        try:
            return (await self.channel.call(method, message, is_numbered=False))[0]
        finally:
            self.stats.answered(time.perf_counter() - started_s)

    def done(self, key: int, *, is_answered: bool = True) -> None:
        """The kernel has its answer; the server gave one, too, unless its request was given up."""
        slot = self.owed.pop(key, None)
        if slot is not None:
            self.channel.slots.let_go(slot, is_answered=is_answered)

    async def write(self, message: Any, data: Data) -> Any:
        """A write at offsets: repeating it changes nothing, so it needs no number."""
        started_s = time.perf_counter()
        # Who waits for a durable one may give up, and then it would have to be waited for here.
        area = self.areas.name(message, data) if message.durability == pb.LAZY else None
        try:
            if area is not None:
                try:
                    return (await self.channel.call(WRITE, message, is_numbered=False))[0]
                except Stale:
                    message.ClearField("area")  # taken by the connection that is lost
                except (Unavailable, asyncio.CancelledError):
                    self.areas.abandon(area)  # the server may be reading it
                    raise
            return (await self.channel.call(WRITE, message, data, is_numbered=False))[0]
        finally:
            self.stats.answered(time.perf_counter() - started_s)

    # ---- promises

    def mark(self) -> int:
        """This moment, for `told_since`."""
        return self._turn

    def told(self, key: Key) -> None:
        """The server said that this has changed."""
        self._turn += 1
        if len(self._told) >= TOLD_MAX:
            self.told_all()
        self._told[key] = self._turn

    def watch_began(self) -> None:
        """From now on the server tells; what it answered before may have changed unsaid."""
        self.told_all()
        self.is_told = True

    def watch_ended(self) -> None:
        """The server does not tell any more: until it does, nothing that it answers is kept."""
        self.told_all()
        self.is_told = False

    def told_all(self) -> None:
        """Whatever is known may have changed."""
        self._turn += 1
        self._told.clear()
        self._told_all = self._turn

    def told_since(self, key: Key, mark: int) -> bool:
        """Whether what was asked about it at this mark may have changed since."""
        turn = self._turn
        if turn == mark:
            return not self.is_told
        return not self.is_told or self._told.get(key, self._told_all) > mark

    # ---- changes of ours

    def overtaken(self, node: Node) -> None:
        """A change of ours was answered: what was asked before may be of before."""
        self._turn += 1
        node.changed_turn = self._turn

    def written(self, node: Node) -> None:
        """The same of a write: it is another content now."""
        self.overtaken(node)
        node.wrote()

    def changed(self, node: Node) -> None:
        """The same of any other change of ours to the file's bytes."""
        self.written(node)
        node.moved()

    def are_bytes_as_of(self, node: Node, mark: int) -> bool:
        """Whether what was answered about the file's bytes, asked at this mark, holds still and
        goes on to hold until it is told of: nobody, here or elsewhere, has written meanwhile."""
        return (
            node.promised
            and node.changed_turn <= mark
            and (node.writing is None or not node.writing.is_busy)
            and not self.told_since(node.key, mark)
        )
