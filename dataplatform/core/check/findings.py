"""What a check finds, and how it is put right.

A repair is a unit of work that reads again what it changes, so the server may go on meanwhile.
A wrong count is repaired by the difference that was found: every correct operation adds to and
takes from what is stored, so the difference stays the same whatever happens until the repair.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...base.errors import Invalid, PlatformError
from ..replication.seam import is_replicable
from ..units import SYSTEM, Unit

if TYPE_CHECKING:
    from ..volumes import Volume

log = logging.getLogger(__name__)

FINDINGS_MAX = 10_000
"""Findings listed for one volume; a broken disk could bring millions."""


@dataclass(slots=True)
class Finding:
    """Something that is not as it must be. `path` may have `:topic/partition` behind it."""

    path: str
    problem: str
    repairable: bool
    repaired: bool = False


@dataclass(slots=True)
class Report:
    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    """What is as it may be, and probably not as it was meant."""
    counts: dict[str, int] = field(default_factory=dict)
    named: dict[tuple[str, str], str] = field(default_factory=dict)
    """Names in access expressions and where each was seen first: see `rights`."""


class Step(enum.IntEnum):
    """How far one unit of a repair came."""

    DONE = 1
    MORE = 2  # run another unit
    NOT_NEEDED = 3  # it is not so any more


Repair = Callable[[Unit], Awaitable[Step]]


@dataclass(slots=True)
class _Planned:
    finding: Finding
    below: str  # the path within the volume, for the event
    repair: Repair


class Findings:
    """Collects findings of one volume, and repairs them in the order in which they came."""

    def __init__(self, path_prefix: str) -> None:
        self._prefix = path_prefix.rstrip("/")
        self._planned: list[_Planned] = []
        self._unlisted = 0
        self.listed: list[Finding] = []

    def add(self, path: str, problem: str, repair: Repair | None = None) -> None:
        """`path` counts from the volume's root."""
        if len(self.listed) >= FINDINGS_MAX:
            self._unlisted += 1
            return
        finding = Finding(self.shown(path), problem, repair is not None)
        self.listed.append(finding)
        if repair is not None:
            self._planned.append(_Planned(finding, path, repair))

    def shown(self, path: str) -> str:
        """From the platform's root."""
        if not self._prefix:
            return path
        return self._prefix if path == "/" else f"{self._prefix}/{path.removeprefix('/')}"

    def end(self) -> list[Finding]:
        if self._unlisted:
            self.listed.append(
                Finding(
                    self._prefix or "/",
                    f"{self._unlisted} further problems are not listed: check again after a repair",
                    False,
                )
            )
        return self.listed

    async def repair(self, volume: Volume) -> None:
        failed = [p for p in self._planned if await self._fails(volume, p, logging.DEBUG)]
        for planned in failed:  # what stood in its way may be repaired by now
            await self._fails(volume, planned, logging.WARNING)

    async def _fails(self, volume: Volume, planned: _Planned, level: int) -> bool:
        try:
            await self._repair(volume, planned)
        except PlatformError as error:
            finding = planned.finding
            log.log(level, "cannot be repaired: %s: %s: %s", finding.path, finding.problem, error)
            return True
        return False

    async def _repair(self, volume: Volume, planned: _Planned) -> None:
        async def work(unit: Unit) -> int:
            step = await planned.repair(unit)
            if step == Step.DONE:
                unit.event("repaired", planned.below, "volume", problem=planned.finding.problem)
            return int(step)

        step = Step.MORE
        while step == Step.MORE:
            if volume.settings.mirror:
                step = Step(await _repair_mirror(volume, work))
            else:
                step = Step(await volume.run(SYSTEM, work, durable=False))
        planned.finding.repaired = step == Step.DONE


async def _repair_mirror(volume: Volume, work: Callable[[Unit], Awaitable[int]]) -> int:
    """INVALID for what a mirror has from its source: only that can put it right."""
    steps: list[int] = []

    async def own(unit: Unit) -> None:
        steps.append(await work(unit))
        if unit.used_bytes_delta or unit.entries_delta or any(map(is_replicable, unit.writes)):
            raise Invalid("a mirror is as its source is: make it anew if that is in order")

    await volume.lane.apply(own, durable=False)
    return steps[0]
