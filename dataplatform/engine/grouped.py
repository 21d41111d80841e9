"""What engines have in common whose commits become durable in groups (see groups.py).

A checkpoint is made of what is durable, deleting one is a write, and closing makes everything
durable first; a broken engine only lets go.
"""

from __future__ import annotations

import abc
import asyncio
from typing import Any, Protocol

from .base import Engine, Ticket, View
from .checkpoints import check_checkpoint_name
from .groups import Group


class Checkpoints(Protocol):
    """The named checkpoints of one database."""

    async def make(self, name: str, database: Any) -> None: ...

    async def open(self, name: str) -> View: ...

    async def delete(self, name: str) -> None: ...

    async def names(self) -> list[str]: ...

    async def size(self, name: str) -> int: ...


class GroupedEngine(Engine):
    """A database, the group of those who wait for it, and its checkpoints."""

    _database: Any

    def __init__(self, group: Group, checkpoints: Checkpoints) -> None:
        self._group = group
        self._named = checkpoints
        self._closing = asyncio.Lock()
        self._closed = False

    @property
    def durable_ticket(self) -> Ticket:
        return self._group.durable

    @property
    def broken(self) -> bool:
        return self._group.broken

    @property
    def closed(self) -> bool:
        return self._closed

    async def durable(self, ticket: Ticket) -> None:
        await self._group.wait(ticket)

    async def checkpoint(self, name: str) -> None:
        self._group.check()
        check_checkpoint_name(name)
        await self._group.wait(self._group.last)
        await self._named.make(name, self._database)

    async def open_checkpoint(self, name: str) -> View:
        self._group.check_open()
        check_checkpoint_name(name)
        return await self._named.open(name)

    async def delete_checkpoint(self, name: str) -> None:
        self._group.check()
        check_checkpoint_name(name)
        await self._named.delete(name)

    async def checkpoints(self) -> list[str]:
        self._group.check_open()
        return await self._named.names()

    async def checkpoint_size(self, name: str) -> int:
        self._group.check_open()
        check_checkpoint_name(name)
        return await self._named.size(name)

    async def close(self) -> None:
        async with self._closing:
            if self._closed:
                return
            try:
                await self._group.close()
            finally:
                await self._let_go()
                self._closed = True

    @abc.abstractmethod
    async def _let_go(self) -> None:
        """Close views, checkpoints and the database; everything is durable or broken by now."""
