"""Background work: each task is a plain `run_once`, run here at its interval until the end.

A task that fails is logged (once per reason, not once per run) and tried again; it never dies and
never keeps another from running.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from dataplatform.base.errors import PlatformError, Unavailable
from dataplatform.core import (
    change_log,
    change_trims,
    compaction,
    encryption,
    expiry,
    orphans,
    retention,
)
from dataplatform.core.platform import Platform
from dataplatform.core.replication import leftovers
from dataplatform.core.volumes import Volume

from .sessions import Sessions

logger = logging.getLogger(__name__)


GATHER_S = 0.02
"""What wakes a task seldom comes alone."""


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    every_s: float
    run_once: Callable[[], Awaitable[Any]]
    woken: asyncio.Event | None = None  # when it is set, it runs soon


def platform_tasks(platform: Platform, sessions: Sessions) -> list[Task]:
    """Everything that keeps a platform tidy."""

    async def expire_sessions() -> None:
        sessions.run_once()

    async def expire_pins() -> None:
        platform.pins.run_once()

    async def expire_promises() -> None:
        platform.promises.run_once()

    # These change what others see of a volume, so they have nothing to do in one that is only read.
    changing = {
        "orphans",
        "expired rows",
        "retention",
        "change log",
        "replies",
        "mirrors' leftovers",
    }
    per_volume: list[tuple[str, float, Callable[[Volume], Awaitable[Any]]]] = [
        # "Durable within a second" (D5): half of it to flush, the rest to sync.
        ("writeback", 0.5, lambda volume: volume.writeback.run_once()),
        ("lazy commits", 0.5, lambda volume: volume.lane.run_once()),
        ("group members", 1.0, _expire_members),
        ("orphans", 5.0, orphans.run_once),
        ("expired rows", 10.0, expiry.run_once),
        ("retention", 10.0, retention.run_once),
        ("compaction", 30.0, compaction.run_once),
        ("key rotation", 1.0, encryption.run_once),
        ("change log", 30.0, change_trims.run_once),
        ("cut change log", 30.0, change_log.drop_cut),
        ("replies", 60.0, lambda volume: volume.replies.run_once(volume)),
        ("mirrors' leftovers", 30.0, leftovers.run_once),
    ]
    return [
        Task("sessions", 5.0, expire_sessions),
        Task("pins", 5.0, expire_pins),
        Task("promises", 0.25, expire_promises),
        Task("audit", 0.25, platform.audit.run_once),
        Task("publications", 1.0, platform.publications.run_once, platform.publications.woken),
        Task("idle volumes", 30.0, platform.close_idle),
        Task("old tokens", 60.0, platform.identities.run_once),
        Task("snapshots", 1.0, platform.schedules.run_once),
        Task("half made volumes", 30.0, platform.catalog.run_once),
        *(
            Task(name, every_s, _each(platform, run, is_changing=name in changing))
            for name, every_s, run in per_volume
        ),
    ]


async def _expire_members(volume: Volume) -> None:
    volume.groups.run_once(volume.clock.monotonic())


def _each(
    platform: Platform, run: Callable[[Volume], Awaitable[Any]], *, is_changing: bool
) -> Callable[[], Awaitable[None]]:
    """Over every open volume, which is in use meanwhile but does not count as used."""

    async def run_once() -> None:
        failed: Exception | None = None
        for volume in platform.volumes:
            if volume not in platform.volumes or volume.lane.broken is not None:
                continue
            if volume.is_snapshot or (is_changing and volume.read_only):
                continue
            volume.users += 1
            try:
                await run(volume)
            except Exception as e:
                failed = failed or e  # the other volumes have their turn first
            finally:
                platform.release(volume)
        if failed is not None:
            raise failed

    return run_once


class Tasks:
    """Runs tasks in the background of the running loop."""

    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks
        self._stopping = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for task in self._tasks:
            self._running.append(asyncio.create_task(self._run(task), name=task.name))

    async def stop(self) -> None:
        """Begin no run any more; those under way end first."""
        self._stopping.set()
        for task in self._tasks:
            if task.woken is not None:
                task.woken.set()
        await asyncio.gather(*self._running)

    async def _run(self, task: Task) -> None:
        failure: str | None = None
        while not await self._stopped_within(task):
            try:
                await task.run_once()
            except Exception as e:
                if f"{type(e)} {e}" != failure:
                    failure = f"{type(e)} {e}"
                    _log_failure(task, e)
            else:
                if failure is not None:
                    failure = None
                    logger.info("background task works again. task=`%s`", task.name)

    async def _stopped_within(self, task: Task) -> bool:
        """Wait until it is the task's turn, or all are to stop."""
        try:
            async with asyncio.timeout(task.every_s):
                await (task.woken or self._stopping).wait()
        except TimeoutError:
            return False
        if task.woken is not None:
            task.woken.clear()
            if not self._stopping.is_set():
                await asyncio.sleep(GATHER_S)
        return self._stopping.is_set()


def _log_failure(task: Task, error: Exception) -> None:
    if isinstance(error, Unavailable):
        logger.warning("background task has to wait. task=`%s`, reason=`%s`", task.name, error)
    elif isinstance(error, PlatformError):
        logger.error("background task failed. task=`%s`, reason=`%s`", task.name, error)
    else:
        logger.error("background task failed. task=`%s`", task.name, exc_info=error)
