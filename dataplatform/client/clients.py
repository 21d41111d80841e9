"""The asynchronous `Client`: every group of operations over one channel, and how it comes about."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from ..transport.addresses import Address, default_address, parse
from ..transport.tls import Trust
from .access import AccessOperations
from .changes import ChangeOperations
from .clusters import ClusterOperations
from .connection import FIRST_PATIENCE_S, Channel
from .entering import Entering
from .files import FileOperations
from .gathers import GatherOperations
from .identities import IdentityOperations
from .mirrors import MirrorOperations
from .quotas import QuotaOperations
from .runtime import AsyncRuntime, BlockingRuntime, Runtime
from .snapshots import SnapshotOperations
from .streams import StreamOperations
from .system import SystemOperations
from .tables import TableOperations
from .tokens import TokenSource, token_source
from .transactions import TransactionOperations
from .volumes import VolumeOperations


class Client(
    FileOperations,
    TableOperations,
    StreamOperations,
    TransactionOperations,
    ChangeOperations,
    VolumeOperations,
    SnapshotOperations,
    QuotaOperations,
    IdentityOperations,
    ClusterOperations,
    MirrorOperations,
    GatherOperations,
    SystemOperations,
    AccessOperations,
):
    """A connected client of an event loop. The operations are those of `dataplatform.Client`, with
    the same arguments, as coroutines and asynchronous iterators; they are documented there."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @property
    def channel(self) -> Channel:
        """What requests go through, for programs that speak in messages, such as the mount."""
        return self._channel

    @property
    def address(self) -> str:
        """The server's address, for people."""
        return str(self._channel.address)

    @property
    def as_of_ns(self) -> int:
        """As of when the oldest is that was read from mirrors so far; 0: nothing was."""
        return self._channel.as_of_ns

    async def close(self) -> None:
        """End the connection. Open files, producers and consumers should be closed before."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<dataplatform.aio.Client {self.address}>"


def connect(
    address: str | None = None,
    token: str | None = None,
    *,
    patience_s: float | None = None,
    token_file: str | os.PathLike[str] | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    stale_ok: bool = False,
) -> Entering[Client]:
    """Connect to a server, as `dataplatform.connect`: `await` it, or enter it with `async with`."""
    trust = Trust.from_environment(ca, cert, key)
    source = token_source(token, token_file)
    runtime = AsyncRuntime(trust)
    return Entering(lambda: _connected(address, source, patience_s, runtime, stale_ok=stale_ok))


async def blocking_client(
    address: str | None,
    token: TokenSource,
    patience_s: float | None,
    trust: Trust,
    *,
    stale_ok: bool = False,
) -> Client:
    """A client whose coroutines never suspend, for the synchronous surface."""
    runtime = BlockingRuntime(trust)
    return await _connected(address, token, patience_s, runtime, stale_ok=stale_ok)


async def _connected(
    address: str | Address | None,
    token: TokenSource,
    patience_s: float | None,
    runtime: Runtime,
    *,
    stale_ok: bool = False,
) -> Client:
    if address is None:
        place = default_address()
    else:
        place = parse(address) if isinstance(address, str) else address
    channel = Channel(place, runtime, token=token, patience_s=patience_s)
    channel.stale_ok = stale_ok
    await channel.connect(FIRST_PATIENCE_S if patience_s is None else patience_s)
    return Client(channel)
