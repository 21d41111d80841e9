"""What a mirror knew of its source's extents means nothing once it was promoted: it goes, in small
steps. That is no commit: nobody sees it."""

from __future__ import annotations

from functools import partial

from ...keyspace import keys
from ..units import Unit
from ..volumes import Volume

ROWS_PER_UNIT = 2_000
ROWS_PER_RUN = 20_000


async def run_once(volume: Volume) -> int:
    """How many rows went."""
    gone = 0
    while not volume.settings.mirror and gone < ROWS_PER_RUN:
        start, end = keys.prefix_range(keys.MIRRORED)
        page = await volume.storage.engine.scan(start, end, limit=ROWS_PER_UNIT)
        if not page:
            break

        await volume.lane.apply(partial(_delete, [key for key, _ in page]), durable=False)
        gone += len(page)
    return gone


async def _delete(rows: list[bytes], unit: Unit) -> None:
    if not unit.volume.settings.mirror:
        for key in rows:
            unit.delete(key)
