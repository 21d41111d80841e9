"""One client's way to another cluster: its session there, its open files, what it was promised.

A client is there what it is here: a session of its own, so that what it holds, and whom a change is
news to, is as if it had come itself. Its requests keep their ids. A link goes on after a restart of
the other server as a client's channel does (client/connection.py).

A mount's promises are passed on (core/promises.py): the link watches for it, tells the client's
keeper here, and acknowledges there when that has acknowledged here. When the other cluster is not
heard from for SILENT_S, the keeper hears that everything is over. That is exact: a mount believes
nothing for longer than LEASE_PART of a lease after it asked us, which together with SILENT_S is
less than the lease that the other cluster waits for us.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import Denied, PlatformError
from dataplatform.client.connection import Channel
from dataplatform.client.runtime import AsyncRuntime
from dataplatform.client.slots import Slots
from dataplatform.core.clusters import SLOT_SHIFT
from dataplatform.core.promises import Keeper
from dataplatform.transport.addresses import parse
from dataplatform.transport.async_connections import AsyncConnection
from dataplatform.transport.connections import Connection
from dataplatform.transport.tls import Trust

from .asking import PROGRAM, SESSION_BYTES
from .remotes import CLUSTER, Remote

logger = logging.getLogger(__name__)

PATIENCE_S = 4.0
"""How long a request is repeated that met a restart of the other server."""

WATCH_S = 1.0
SILENT_S = 2.5
ACKNOWLEDGE_S = 1.0

_WATCH = METHODS["Namespace.Watch"]
_OPEN = METHODS["Files.Open"].number
_CLOSE = METHODS["Files.Close"].number
_CREATE = METHODS["Namespace.Create"].number


class Link(Channel):
    """Of one session, with the token or without it."""

    def __init__(
        self, remote: Remote, own_cluster: str, identity: bytes, session: bytes, *, with_token: bool
    ) -> None:
        access = remote.access
        token = access.token if with_token else ""
        trust = Trust(authorities=access.authority)
        super().__init__(
            parse(access.address),
            AsyncRuntime(trust),
            token=token,
            patience_s=PATIENCE_S,
            session=_session_there(session, identity, token),
        )
        # What the link itself asks is numbered apart from what the client asks.
        self._slots = Slots(os.urandom(SESSION_BYTES), self.runtime.condition())
        self._remote = remote
        self._own_cluster = own_cluster
        self._watching: tuple[Keeper, asyncio.Task[None]] | None = None
        self._beginning = asyncio.Lock()
        self.is_changed = False
        """Something was changed there that nobody synced since."""

    def _hello(self, token: str) -> pb.Hello:
        hello = super()._hello(token)
        hello.program, hello.cluster = PROGRAM, self._own_cluster
        return hello

    async def _open(self) -> Connection:
        await self._remote.ready()
        connection = await super()._open()
        welcome, access = connection.welcome, self._remote.access
        if welcome.cluster != self._remote.name or (
            access.identity and welcome.store != access.identity
        ):
            await connection.close()
            raise Denied("another cluster answers there", answered=welcome.cluster)
        return connection

    def cut(self) -> None:
        """The other cluster is away: requests under way fail, and nothing is promised any more."""
        connection = self.runtime.holder().connection
        if isinstance(connection, AsyncConnection) and not connection.closed:
            connection.give_up()
        self._stop_watching()

    async def close(self) -> None:
        self._stop_watching()
        await super().close()

    async def ask(
        self, keeper: Keeper | None, method: Method, message: Any, data: Any
    ) -> tuple[Any, Any]:
        """The reply of the other cluster, in its own words."""
        if keeper is not None:
            await self._watch_for(keeper)
        try:
            reply, bulk = await self.call(method, message, data, is_numbered=False)
        except PlatformError as error:
            self.is_changed |= not method.read_only and CLUSTER not in error.facts
            raise
        self.is_changed |= not method.read_only
        number = method.number
        if number == _OPEN or (number == _CREATE and message.open):
            self.file_opened(reply.volume, reply.inode)
        elif number == _CLOSE:
            self.file_closed(message.target.volume, message.target.inode)
        elif isinstance(reply, pb.NamesReply) and reply.kept_open:
            target = message.target
            if target.inode:
                self.file_opened(target.volume, reply.lost)
        return reply, bulk

    # ---- promises

    async def _watch_for(self, keeper: Keeper) -> None:
        """From now on the keeper hears of what changes there."""
        watching = self._watching
        if watching is not None and watching[0] is keeper and not watching[1].done():
            return
        async with self._beginning:
            watching = self._watching
            if watching is not None and watching[0] is keeper and not watching[1].done():
                return
            self._stop_watching()
            began_s = asyncio.get_running_loop().time()
            reply, _ = await self.call(_WATCH, pb.WatchRequest(begin=True), timeout_s=SILENT_S)
            task = asyncio.create_task(self._watch(keeper, reply.sequence, began_s))
            self._watching = keeper, task

    def _stop_watching(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching[1].cancel()
            _end(watching[0])

    async def _watch(self, keeper: Keeper, acknowledged: int, heard_s: float) -> None:
        loop = asyncio.get_running_loop()
        told = acknowledged
        try:
            while not keeper.over:
                wait_ms = int(WATCH_S * 1000) if told == acknowledged else 0
                request = pb.WatchRequest(acknowledged=acknowledged, wait_ms=wait_ms)
                asked_s = loop.time()
                async with asyncio.timeout_at(heard_s + WATCH_S + SILENT_S):
                    reply, _ = await self.call(_WATCH, request, patience_s=0)
                heard_s = asked_s
                if reply.everything:
                    return
                if reply.sequence > told:
                    told, here = reply.sequence, self._relay(keeper, reply)
                if told > acknowledged:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(ACKNOWLEDGE_S):
                            await keeper.wait(here, loop.time())
                            acknowledged = told
        except (PlatformError, TimeoutError) as error:
            logger.debug("a cluster is not heard any more. reason=`%s`", error)
        except ValueError:
            pass  # the link was closed
        finally:
            _end(keeper)

    def _relay(self, keeper: Keeper, reply: pb.WatchReply) -> int:
        """Tell the keeper; with which number."""
        above = self._remote.slot << SLOT_SHIFT
        sequence = keeper.sequence
        for broken in reply.broken:
            sequence = keeper.relay(
                above | broken.volume,
                broken.inode,
                entries=broken.entries,
                data=broken.data,
                unlinked=broken.unlinked,
                names=[name.encode("utf-8", "surrogateescape") for name in broken.names],
                kept=broken.kept,
            )
        return sequence


def _end(keeper: Keeper) -> None:
    if not keeper.over:
        keeper.end_everything()


def _session_there(session: bytes, identity: bytes, token: str) -> bytes:
    """A session belongs to one principal: with another token it is another one."""
    said = b"%b %b %b" % (session, identity, token.encode())
    return hashlib.blake2b(said, digest_size=SESSION_BYTES).digest()
