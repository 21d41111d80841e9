"""Puts of single rows that come at the same time become one unit.

A unit costs more than a row, so many clients that put one row each, all of them waiting for the
same sync, share a unit: each has its own event and its own stored reply, and all rows have the
version of their commit. Two puts of one row never share one: a row's version tells them apart. If
the unit is refused nothing was done, and each put is a unit of its own and gets its own answer.

Only plain puts of one principal into one table share; the ones with a condition, or that nobody
waits for, go their own way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base.gathering import Gatherer
from . import tables
from .principals import Principal
from .units import Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume

Put = tuple[Request, bytes, bytes]
"""Who asks, the row's key, and its packed columns."""

GATHERERS_MAX = 1000
"""Tables, by principal, whose gatherers are kept while they are idle."""


class Puts:
    """The plain, durable puts of one volume."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._gatherers: dict[tuple[int, Principal], Gatherer[Put, int]] = {}

    def put(self, request: Request, table: int, key: bytes, columns: bytes) -> asyncio.Future[int]:
        """As `tables.put`; the row's version once it is durable."""
        gatherer = self._gatherers.get((table, request.principal))
        if gatherer is None:
            gatherer = self._make(table, request.principal)
        return gatherer.start((request, key, columns))

    def _make(self, table: int, principal: Principal) -> Gatherer[Put, int]:
        if len(self._gatherers) >= GATHERERS_MAX:
            self._gatherers = {k: g for k, g in self._gatherers.items() if not g.idle}

        async def alone(put: Put) -> int:
            request, key, columns = put
            return await self._volume.run(
                request, lambda unit: tables.put(unit, table, key, columns), durable=True
            )

        async def together(puts: Sequence[Put]) -> list[int]:
            async def work(unit: Unit, fresh: Sequence[int]) -> int:
                version = await tables.put_each(unit, table, (puts[index][1:] for index in fresh))
                for event, index in enumerate(fresh):  # of each row, in their order
                    unit.by(puts[index][0], event, event + 1)
                return version

            return await self._volume.lane.run_together([put[0] for put in puts], work)

        gatherer = self._gatherers[table, principal] = Gatherer(alone, together, subject=_row_key)
        return gatherer


def _row_key(put: Put) -> bytes:
    return put[1]
