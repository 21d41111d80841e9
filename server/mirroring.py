"""Following: a task for each mirror, which runs its rounds until it is promoted or removed.

What a round does is in `core/replication/mirrors.py`; here is when the next one comes. After an
error it waits longer and longer; whoever sets, pauses or resumes a mirror makes its turn come at
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from dataplatform.base.errors import NotFound, PlatformError, Unavailable
from dataplatform.core.replication.mirrors import Mirrors

logger = logging.getLogger(__name__)

AGAIN_FIRST_S = 0.5
AGAIN_LAST_S = 30.0

LOOK_S = 5.0
"""So often it is looked for mirrors that nobody told of."""


class Mirroring:
    """The tasks of one server."""

    def __init__(self, mirrors: Mirrors) -> None:
        self._mirrors = mirrors
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look(), name="mirrors")

    async def stop(self) -> None:
        """End all rounds."""
        tasks = [*self._tasks.values()]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(PlatformError):  # it is logged where it matters
                for record in await self._mirrors.records():
                    self._follow(record.volume)
            await self._mirrors.changed.wait(LOOK_S)

    def _follow(self, volume: int) -> None:
        task = self._tasks.get(volume)
        if task is None or task.done():
            name = f"mirror {volume}"
            self._tasks[volume] = asyncio.create_task(self._run(volume), name=name)

    async def _run(self, volume: int) -> None:
        pause_s, said = AGAIN_FIRST_S, ""
        while True:
            try:
                wait_s = await self._mirrors.step(volume)
            except NotFound as error:
                if error.facts.get("volume") == volume:
                    return  # it was removed
                wait_s, pause_s, said = self._failed(volume, error, pause_s, said)
            except PlatformError as error:
                wait_s, pause_s, said = self._failed(volume, error, pause_s, said)
            except Exception:
                logger.exception("a mirror failed. volume=`%d`", volume)
                wait_s, pause_s = pause_s, min(pause_s * 2, AGAIN_LAST_S)
            else:
                if wait_s is None:
                    return
                if said:
                    logger.info("a mirror follows again. volume=`%d`", volume)
                pause_s, said = AGAIN_FIRST_S, ""
            if wait_s:
                await self._mirrors.signal_of(volume).wait(wait_s)
            else:
                await asyncio.sleep(0)

    def _failed(
        self, volume: int, error: PlatformError, pause_s: float, said: str
    ) -> tuple[float, float, str]:
        """How long to wait now, and after the next failure. Each reason is logged once."""
        if error.message != said:
            level = logging.INFO if isinstance(error, Unavailable) else logging.WARNING
            logger.log(level, "a mirror does not follow. volume=`%d`, reason=`%s`", volume, error)
        return pause_s, min(pause_s * 2, AGAIN_LAST_S), error.message
