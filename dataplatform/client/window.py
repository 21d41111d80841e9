"""A bounded number of requests under way at a time: the pipeline behind every bulk operation."""

from __future__ import annotations

from collections import deque
from typing import Any

from ..api.methods import Method
from ..transport.connections import Data
from .connection import Channel, Pending


class Window:
    """Starts requests; replies are awaited, oldest first, whenever `depth` are under way.

    The first error is kept and raised by the next `start` or by `drain`, after which the rest has
    been awaited too, so that nothing is under way any more.
    """

    def __init__(self, channel: Channel, depth: int) -> None:
        self._channel = channel
        self._depth = depth
        self._pending: deque[Pending] = deque()
        self._error: Exception | None = None

    async def start(self, method: Method, message: Any, data: Data = b"") -> None:
        """Start a request, after the oldest reply if the window is full."""
        while len(self._pending) >= self._depth:
            await self._take()
        await self._raise_error()
        self._pending.append(await self._channel.start(method, message, data))

    async def drain(self) -> None:
        """Wait for every reply; raises the first error."""
        while self._pending:
            await self._take()
        await self._raise_error()

    async def _take(self) -> None:
        try:
            await self._pending.popleft()
        except Exception as error:
            self._error = self._error or error

    async def _raise_error(self) -> None:
        error = self._error
        if error is None:
            return
        while self._pending:
            await self._take()
        self._error = None
        raise error
