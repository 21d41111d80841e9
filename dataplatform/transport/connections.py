"""A client's connection: one request out, one reply back, no retries.

`AsyncConnection` multiplexes many calls in an event loop. `BlockingConnection` has the same
`async def` API and never suspends, so that synchronous code can drive it with `send(None)`.
Both shake hands while they open, and after a loss fail every call with UNAVAILABLE: retrying, which
needs to know what is safe to repeat, is the client library's.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import Method

from .addresses import Address
from .async_connections import AsyncConnection
from .blocking_connections import BlockingConnection
from .frames import Bulk, Data

__all__ = ["AsyncConnection", "BlockingConnection", "Bulk", "Connection", "Data", "Reply"]

Reply = tuple[Any, bytes | memoryview]
"""The reply message, and the bulk bytes that came with it (`b""` if none)."""


class Connection(Protocol):
    """What both have. Open one with `await Class.open(address, hello, timeout_s=…, tls=…)`."""

    address: Address
    welcome: pb.HelloReply
    """What the server said in the handshake; `instance` tells a restarted server."""

    @property
    def closed(self) -> bool:
        """Whether it was closed or lost: open another."""

    @property
    def calls_under_way(self) -> int:
        """Calls whose reply has not arrived."""

    def start(self, method: Method, message: Any, data: Data = b"") -> Awaitable[Reply]:
        """Send now, in the order of the calls of `start`; await the reply later.

        Raises at once EXHAUSTED when the request is larger than a frame, UNAVAILABLE when closed.
        `message` may be changed as soon as `start` returns, `data` only when the reply is there.
        """

    async def call(
        self, method: Method, message: Any, data: Data = b"", timeout_s: float | None = None
    ) -> Reply:
        """Send and wait. After `timeout_s` it raises UNAVAILABLE and tells the server (CANCEL)."""

    async def drain(self) -> None:
        """Wait until the socket takes more: for use between many `start`s."""

    async def close(self) -> None:
        """Close; calls under way fail with UNAVAILABLE."""
