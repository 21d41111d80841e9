"""The read cache on local disk: blocks of files, kept within a size, checked when they are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dataplatform.transport.connections import Bulk

from .nodes import Node


class Blocks:
    async def read(
        self, node: Node, offset: int, size: int, ask: Callable[[int, int], Awaitable[Bulk]]
    ) -> Bulk:
        return await ask(offset, size)
