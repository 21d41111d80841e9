"""The check of the stored data as a job: one request starts it, others poll it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import ClassVar
from weakref import WeakKeyDictionary

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import NotFound, PlatformError, Unavailable
from dataplatform.core.check import check_platform
from dataplatform.core.platform import Platform

logger = logging.getLogger(__name__)

JOBS_KEPT_MAX = 16
"""Finished checks whose findings can still be asked for."""


class CheckJob:
    """One check, running or done."""

    def __init__(self, number: int, platform: Platform, volume_id: int, repair: bool) -> None:
        self.number = number
        self.volume_id = volume_id
        self.repair = repair
        self._reply = pb.CheckReply(job=number, stage="starting")
        self._error: PlatformError | None = None
        self._task = asyncio.create_task(self._run(platform, volume_id, repair))

    @property
    def is_done(self) -> bool:
        return self._task.done()

    async def wait(self, timeout_s: float) -> None:
        """Until it is done, at most so long."""
        await asyncio.wait((self._task,), timeout=timeout_s)

    def report(self) -> pb.CheckReply:
        """How far it is; findings when done. Raises what the check failed with."""
        if self._error is not None:
            raise self._error
        return self._reply

    async def _run(self, platform: Platform, volume_id: int, repair: bool) -> None:
        try:
            report = await check_platform(
                platform, volume_id or None, repair=repair, progress=self._progress
            )
        except PlatformError as e:
            self._error = e
            return
        except asyncio.CancelledError:
            self._error = Unavailable("the server stopped during the check")
            raise
        except Exception as e:
            logger.exception("check failed")
            self._error = PlatformError(PlatformError.kind, "the check failed", error=repr(e))
            return
        for finding in report.findings:
            self._reply.findings.add(
                path=finding.path,
                problem=finding.problem,
                repairable=finding.repairable,
                repaired=finding.repaired,
            )
        for warning in report.warnings:
            self._reply.warnings.add(path=warning.path, problem=warning.problem)
        for name, count in report.counts.items():
            self._reply.counts[name] = count
        self._reply.stage = "done"
        self._reply.done = True

    def _progress(self, stage: str, checked: int) -> None:
        self._reply.stage = stage
        self._reply.checked = checked


class Checks:
    """The jobs of one platform; one runs at a time on each volume."""

    _of_platforms: ClassVar[WeakKeyDictionary[Platform, Checks]] = WeakKeyDictionary()

    @classmethod
    def of(cls, platform: Platform) -> Checks:
        return cls._of_platforms.setdefault(platform, cls(platform))

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._jobs: OrderedDict[int, CheckJob] = OrderedDict()
        self._last = 0

    def start(self, volume_id: int, *, repair: bool) -> CheckJob:
        """Of one volume, or of all (0). The same check, if it is running already, is joined, so a
        request may be repeated. UNAVAILABLE while a different one looks at the volume."""
        for job in self._jobs.values():
            if job.is_done or (job.volume_id and volume_id and job.volume_id != volume_id):
                continue
            if (job.volume_id, job.repair) == (volume_id, repair):
                return job
            raise Unavailable("a check is running: wait for it, or poll its job", job=job.number)
        self._last += 1
        job = self._jobs[self._last] = CheckJob(self._last, self._platform, volume_id, repair)
        done = [number for number, job in self._jobs.items() if job.is_done]
        for number in done[: max(0, len(self._jobs) - JOBS_KEPT_MAX)]:
            del self._jobs[number]
        return job

    def find(self, number: int) -> CheckJob:
        """NOT_FOUND after a restart, or when newer ones took its place."""
        job = self._jobs.get(number)
        if job is None:
            raise NotFound("no such check: start one", job=number)
        return job
