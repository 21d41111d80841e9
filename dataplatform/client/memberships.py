"""Membership in a consumer group, after KIP-848: the server decides who owns what.

Background work sends heartbeats. Their replies say which partitions the member shall own; the
consumer lets go of the others when the program asks for more records (so never in the middle of its
work), and the next heartbeat, sent at once, says so. Only then does the server hand them on.
"""

from __future__ import annotations

import logging
import os
from typing import NamedTuple, Self

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import NotFound, PlatformError, Stale, Unavailable
from .connection import PROGRAM, Channel
from .fetching import Place
from .messages import build
from .runtime import Task

JOIN = METHODS["Groups.Join"]
HEARTBEAT = METHODS["Groups.Heartbeat"]
LEAVE_PATIENCE_S = 2.0
SETTLE_WAIT_S = 5.0
SETTLED_REPLIES = 2
"""The first may answer a heartbeat that was under way already."""

MEMBER_BYTES = 16

log = logging.getLogger(__name__)


class News(NamedTuple):
    """What a consumer has to do about its partitions."""

    let_go: frozenset[Place]
    take_on: frozenset[Place]
    doubtful: frozenset[Place]
    """Kept, but in between they may have been another member's: see how far the group is."""


class Membership:
    """One member, its heartbeats, and what the server assigns to it."""

    def __init__(
        self,
        channel: Channel,
        stream: pb.Target,
        group: str,
        topics: list[str],
        session_timeout_s: float,
    ) -> None:
        self.group = group
        self.member = os.urandom(MEMBER_BYTES).hex()  # our choice: a repeated join is the same one
        self.epoch = 0
        self._channel = channel
        self._stream = stream
        self._topics = topics
        self._session_timeout_ms = int(session_timeout_s * 1000)
        self._heartbeat_s = 1.0
        self._changed = channel.runtime.condition()  # guards what follows
        self._assigned: frozenset[Place] = frozenset()
        self._owned: frozenset[Place] = frozenset()
        self._is_owned_news = False
        self._is_lost = False  # forgotten by the server, and joined again
        self._replies = 0
        self._is_closing = False
        self._error: PlatformError | None = None
        self._task: Task | None = None

    async def join(self) -> Self:
        await self._join()
        self._task = self._channel.runtime.spawn(self._work, "dataplatform group member")
        return self

    async def _join(self) -> None:
        request = build(
            pb.JoinGroupRequest,
            stream=self._stream,
            group=self.group,
            member=self.member,
            topics=self._topics,
            session_timeout_ms=self._session_timeout_ms,
            program=PROGRAM,
        )
        reply, _ = await self._channel.call(JOIN, request)
        await self._accept(reply)

    async def _accept(self, reply: pb.MembershipReply) -> None:
        async with self._changed:
            self.member, self.epoch = reply.member, reply.epoch
            self._heartbeat_s = max(reply.heartbeat_ms, 50) / 1000
            self._assigned = frozenset((o.topic, o.partition) for o in reply.assigned)
            self._replies += 1
            self._changed.notify_all()

    # --------------------------------------------------------------------------- the consumer

    async def news(self) -> News | None:
        """What has changed, if anything. To be called while the consumer works on nothing: the
        server is told at once what is owned from here on, so the consumer must do as it is told
        before anything else."""
        async with self._changed:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            owned, assigned = self._owned, self._assigned
            if owned == assigned and not self._is_lost:
                return None
            doubtful = owned & assigned if self._is_lost else frozenset()
            self._owned, self._is_lost = assigned, False
            self._is_owned_news = True
            self._changed.notify_all()
            return News(owned - assigned, assigned - owned, doubtful)

    async def settled(self) -> None:
        """Have the server's word on this member, which may be that it has to join again."""
        async with self._changed:
            wanted = self._replies + SETTLED_REPLIES
            while self._replies < wanted and self._error is None:
                self._is_owned_news = True
                self._changed.notify_all()
                if not await self._changed.wait(SETTLE_WAIT_S):
                    return

    async def wait_for_news(self, timeout_s: float) -> None:
        """Until there may be some."""
        async with self._changed:
            if self._assigned == self._owned and not self._is_lost and self._error is None:
                await self._changed.wait(timeout_s)

    async def leave(self) -> None:
        async with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._task is not None:
            await self._task.join()
        request = await self._heartbeat(leave=True)
        try:
            await self._channel.call(HEARTBEAT, request, patience_s=LEAVE_PATIENCE_S)
        except (NotFound, Stale, Unavailable) as error:
            log.debug("could not leave group %s: %s", self.group, error)  # it will expire

    # ------------------------------------------------------------------------ background work

    async def _heartbeat(self, *, leave: bool = False) -> pb.HeartbeatRequest:
        async with self._changed:  # epoch and owned belong together
            self._is_owned_news = False
            return pb.HeartbeatRequest(
                stream=self._stream,
                group=self.group,
                member=self.member,
                epoch=self.epoch,
                owned=[
                    pb.Owned(topic=topic, partition=number) for topic, number in sorted(self._owned)
                ],
                leave=leave,
            )

    async def _work(self) -> None:
        while await self._wait():
            try:
                reply, _ = await self._channel.call(HEARTBEAT, await self._heartbeat())
                await self._accept(reply)
            except (NotFound, Stale):
                await self._join_again()
            except PlatformError as error:
                if not await self._survive(error):
                    return
            except ValueError:
                return  # the client is closed

    async def _wait(self) -> bool:
        """Until the next heartbeat is due. False: there is none any more."""
        async with self._changed:
            if not self._is_owned_news and not self._is_closing:
                await self._changed.wait(self._heartbeat_s)
            return not self._is_closing

    async def _join_again(self) -> None:
        """The server has forgotten this member: it was silent for too long."""
        async with self._changed:
            self._is_lost = True
        try:
            await self._join()
        except PlatformError as error:
            await self._survive(error)

    async def _survive(self, error: PlatformError) -> bool:
        """Whether to go on in spite of it; the consumer is told otherwise."""
        if isinstance(error, Unavailable):
            return True
        async with self._changed:
            self._error = error
            self._changed.notify_all()
        return False
