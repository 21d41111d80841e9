"""One other cluster, as the server sees it: there or not, and the links of our clients to it.

A connection of its own finds out whether the cluster is there: it is asked every second, and given
up when it is silent. So nobody waits for a cluster that is known to be away, and nobody but that
connection tries again; a restart of its server is waited for. What answers must be the store that
was added (core/clusters.py). Nothing is connected before somebody asks for something, nor for long
after the last client left that did.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import PlatformError, Unavailable
from dataplatform.core.clusters import Access
from dataplatform.core.platform import Platform
from dataplatform.keyspace.records import ClusterRecord
from dataplatform.transport.async_connections import AsyncConnection

from .asking import SESSION_BYTES, asked_of, connect

logger = logging.getLogger(__name__)

CONNECT_S = 3.0
"""Until a cluster that does not answer is away."""

PING_EVERY_S = 1.0
SILENT_S = 3.0
GRACE_S = 4.0
"""How long a cluster that was there and is not any more is waited for: a server's restart."""

PAUSE_S = 0.1
PAUSE_S_MAX = 2.0
IDLE_S = 120.0

CLUSTER = "cluster"
CREDENTIAL = "credential"
TIMEOUT = "timeout_s"

_PING = METHODS["System.Ping"]


def away(name: str, error: PlatformError) -> PlatformError:
    """The error as somebody hears it who asked for something of the cluster."""
    facts = {k: v for k, v in error.facts.items() if k not in (CREDENTIAL, CLUSTER, "errno")}
    if isinstance(error, Unavailable):
        reason = error.message.partition(":")[0]  # the advice is for clients
        message = f"the cluster {name} cannot be reached: {reason}"
        return Unavailable(message, cluster=name, **facts, errno=errno.EHOSTDOWN)
    message = f"the cluster {name} does not work with this one: {error.message}"
    return PlatformError(error.kind, message, cluster=name, **facts)


class Remote:
    """See the module's text. `lost` is called whenever it is not there any more."""

    def __init__(
        self,
        platform: Platform,
        name: str,
        lost: Callable[[], None],
        is_linked: Callable[[], bool],
    ) -> None:
        self.name = name
        self.slot = platform.clusters.get(name).slot
        self.welcome = pb.HelloReply()
        """Of the server that answered last."""
        self._platform = platform
        self._lost = lost
        self._is_linked = is_linked
        record = platform.clusters.get(name)
        self._reached = record.address, record.token, record.authority
        self._access: Access | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: PlatformError | None = None
        self._is_there = False
        self._changed = asyncio.Event()
        self._used_s = 0.0
        self._is_closed = False

    @property
    def access(self) -> Access:
        """How it was reached."""
        assert self._access is not None
        return self._access

    def is_as_in(self, record: ClusterRecord) -> bool:
        """Whether it is reached as the record says."""
        return (record.address, record.token, record.authority) == self._reached

    async def ready(self) -> None:
        """Return if it is there. UNAVAILABLE, or whatever keeps us from it, if it is known not to
        be, or cannot be found out soon."""
        loop = asyncio.get_running_loop()
        self._used_s = loop.time()
        if self._is_there:
            return
        if self._is_closed:
            raise away(self.name, Unavailable("it is not known any more, or in another way"))
        if self._task is None or self._task.done():
            self._failure = None
        deadline_s = loop.time() + CONNECT_S + GRACE_S
        while not self._is_there and self._failure is None:
            if self._task is None or self._task.done():
                self._changed.clear()
                self._task = asyncio.create_task(self._watch(), name=f"cluster {self.name}")
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._changed.wait()
            except TimeoutError:
                raise away(self.name, Unavailable("no answer")) from None
        if self._failure is not None:
            raise away(self.name, self._failure)

    async def close(self) -> None:
        self._is_closed = True
        self._went(Unavailable("it is not known any more, or in another way"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    # ---- finding out

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s, was_there_s = PAUSE_S, -GRACE_S
        while not self._is_closed:
            connection: AsyncConnection | None = None
            try:
                connection = await self._connect()
                self._came(connection.welcome)
                pause_s = PAUSE_S
                while not self._is_idle():
                    await self._ask(connection)
                self._is_there = False
                self._changed.clear()
                self._lost()
                return
            except PlatformError as error:
                if self._is_there:
                    is_silent = TIMEOUT in error.facts  # then it has had its time
                    was_there_s = loop.time() - (GRACE_S if is_silent else 0)
                    self._is_there = False
                    self._changed.clear()
                    self._lost()
                if loop.time() - was_there_s >= GRACE_S or not isinstance(error, Unavailable):
                    self._went(error)
                    if self._is_idle():
                        return
            finally:
                if connection is not None:
                    await connection.close()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _is_idle(self) -> bool:
        """Nobody has anything there, nor asked for something lately."""
        idle_s = asyncio.get_running_loop().time() - self._used_s
        return idle_s >= IDLE_S and not self._is_linked()

    async def _connect(self) -> AsyncConnection:
        self._access = await self._platform.clusters.access(self.name)
        session = os.urandom(SESSION_BYTES)
        connection: AsyncConnection
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await connect(self._access, self._platform.cluster, session)
        except TimeoutError:
            raise Unavailable("no answer from its server", address=self._access.address) from None
        try:
            await self._platform.clusters.learn(self.name, asked_of(connection.welcome))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _ask(self, connection: AsyncConnection) -> None:
        """Once, and again after a while; until the connection is lost, if that is sooner."""
        await connection.call(_PING, pb.Empty(), timeout_s=SILENT_S)
        await asyncio.wait((connection.lost,), timeout=PING_EVERY_S)

    def _came(self, welcome: pb.HelloReply) -> None:
        if self._failure is not None:
            logger.info("a cluster is there again. cluster=`%s`", self.name)
        self.welcome = welcome
        self._failure = None
        self._is_there = True
        self._changed.set()

    def _went(self, error: PlatformError) -> None:
        if self._failure is None and not self._is_closed:
            logger.warning("a cluster is away. cluster=`%s`, reason=`%s`", self.name, error)
        self._failure = error
        if self._is_there:
            self._is_there = False
            self._lost()
        self._changed.set()
