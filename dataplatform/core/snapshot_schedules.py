"""Schedules: snapshots that are taken by the clock, and let go when there are enough newer ones.

A schedule divides time into periods, and each period has at most one snapshot, which is named for
its beginning (`hourly-2026-11-26T15-00`, in UTC). So nothing has to be remembered: after a restart,
or a clock that went back, the name says that the period's snapshot is there. A period that began
while no server was running has its snapshot as soon as one is; one that is over has none.

Schedules stand in the volume's settings, so that who promotes a mirror has them, too.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base.errors import Corrupt, ErrorKind, Exhausted, Invalid, NotFound, PlatformError
from ..base.limits import SNAPSHOT_SCHEDULES_MAX, SNAPSHOTS_MAX
from ..keyspace import keys
from ..keyspace.records import ROOT_VOLUME
from .snapshot_names import check_name
from .snapshots import check_admin
from .units import SYSTEM, Request, Unit
from .volumes import Volume

if TYPE_CHECKING:
    from .platform import Platform
    from .snapshots import Snapshot

_SECOND_NS = 10**9
_MINUTE_S, _HOUR_S, _DAY_S, _WEEK_S = 60, 3600, 86_400, 604_800

WORDS = {_MINUTE_S: "minutely", _HOUR_S: "hourly", _DAY_S: "daily", _WEEK_S: "weekly"}
"""What a schedule is called that has no name."""

EVERY_S_MAX = 10 * 366 * _DAY_S

_NAME_CHARACTERS_MAX = 64

LOOKS = 3
"""Closed volumes that one run opens at most to see what schedules they have."""


class Schedule(NamedTuple):
    name: str
    every_s: int
    keep: int
    since_ns: int = 0  # periods that began before have no snapshot

    def period(self, now_ns: int) -> int:
        """When the period began that goes on now."""
        every_ns = self.every_s * _SECOND_NS
        return now_ns // every_ns * every_ns

    def snapshot(self, period_ns: int) -> str:
        """The name of that period's snapshot."""
        form = "%Y-%m-%dT%H-%M" if self.every_s % _MINUTE_S == 0 else "%Y-%m-%dT%H-%M-%S"
        begun = datetime.fromtimestamp(period_ns // _SECOND_NS, UTC)
        return f"{self.name}-{begun.strftime(form)}"


def default_name(every_s: int) -> str:
    """`hourly`; `every-15m` where there is no word."""
    if every_s in WORDS:
        return WORDS[every_s]
    for size, letter in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m")):
        if every_s % size == 0:
            return f"every-{every_s // size}{letter}"
    return f"every-{every_s}s"


def schedules_of(stored: list[list[Any]]) -> list[Schedule]:
    """As the settings have them. CORRUPT."""
    try:
        found = [Schedule(*one) for one in stored]
        if not all(isinstance(s.name, str) and s.every_s > 0 and s.keep > 0 for s in found):
            raise ValueError("a field is out of bounds")
    except (TypeError, ValueError) as error:
        raise Corrupt("the schedules of snapshots cannot be read", reason=error) from error
    return found


# ---------------------------------------------------------------- setting


async def set_schedule(
    request: Request, volume: Volume, every_s: int, keep: int, name: str = ""
) -> Schedule:
    """A new schedule, or another interval or retention for the one of that name. INVALID; DENIED to
    whoever has no `admin` of the volume."""
    if not 0 < every_s <= EVERY_S_MAX:
        raise Invalid("snapshots are a second to ten years apart", every_s=every_s)
    if not 0 < keep <= SNAPSHOTS_MAX // 2:
        raise Invalid("so many snapshots cannot be kept", keep=keep, keep_max=SNAPSHOTS_MAX // 2)
    name = check_name(name or default_name(every_s))
    if len(name) > _NAME_CHARACTERS_MAX:
        raise Invalid("the name is too long", name=name, characters_max=_NAME_CHARACTERS_MAX)
    await check_admin(request, volume)

    async def work(unit: Unit) -> list[Any]:
        wanted = Schedule(name, every_s, keep, unit.now_ns)
        known = {one.name: one for one in schedules_of(volume.settings.snapshots)}
        if name in known and known[name].every_s == every_s:
            wanted = wanted._replace(since_ns=known[name].since_ns)
        known[name] = wanted
        if len(known) > SNAPSHOT_SCHEDULES_MAX:
            raise Exhausted("the volume has too many schedules", count_max=SNAPSHOT_SCHEDULES_MAX)
        _store(unit, list(known.values()))
        unit.event("snapshots scheduled", "/", "volume", name=name, every_s=every_s, keep=keep)
        return list(wanted)

    return Schedule(*await volume.run(request, work, durable=True))


async def remove_schedule(request: Request, volume: Volume, name: str) -> None:
    """Its snapshots stay, for good. NOT_FOUND; DENIED to whoever has no `admin` of the volume."""
    await check_admin(request, volume)

    async def work(unit: Unit) -> None:
        known = schedules_of(volume.settings.snapshots)
        left = [one for one in known if one.name != name]
        if len(left) == len(known):
            raise NotFound("no such schedule: dp snapshot schedule PATH lists them", name=name)
        _store(unit, left)
        unit.event("snapshots not scheduled", "/", "volume", name=name)

    await volume.run(request, work, durable=True)


def _store(unit: Unit, schedules: list[Schedule]) -> None:
    volume = unit.volume
    settings = replace(volume.settings, snapshots=[list(one) for one in schedules])
    unit.put(keys.SETTINGS_KEY, settings.pack())
    unit.on_commit(lambda _: setattr(volume, "settings", settings))


# ---------------------------------------------------------------- by the clock

_UNKNOWN: list[Schedule] = []


class Schedules:
    """What all schedules of a platform have to do now."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._known: dict[int, list[Schedule]] = {}
        """By volume, as they were when it was looked at last: so that it may stay closed."""
        self._served: dict[tuple[int, str], int] = {}
        """The period that a schedule was served last in this life of the server: a snapshot that
        somebody removed does not come back."""

    async def run_once(self) -> int:
        """Take the snapshots that are due, and let go of those that are too many; how many came.
        What goes wrong with one volume is raised after the others had their turn."""
        volumes = [ROOT_VOLUME, *await self._platform.catalog.ready()]
        for gone in self._known.keys() - set(volumes):
            del self._known[gone]
        taken, failed, looks = 0, None, LOOKS
        for volume_id in volumes:
            if volume_id not in self._known:
                looks -= 1
                if looks < 0:
                    continue  # after a start: nobody is kept waiting for many to be opened
            try:
                taken += await self._run(volume_id)
            except PlatformError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return taken

    async def _run(self, volume_id: int) -> int:
        volume = self._platform.hold(volume_id)
        if volume is None:
            known = self._known.setdefault(volume_id, _UNKNOWN)
            if known is not _UNKNOWN and not any(self._is_busy(volume_id, one) for one in known):
                return 0
            self._known[volume_id] = []  # looked at again when somebody has opened it
            try:
                volume = await self._platform.acquire(volume_id)
            except PlatformError as error:
                if error.kind in (ErrorKind.NOT_FOUND, ErrorKind.DENIED):
                    return 0  # removed meanwhile, or locked
                raise
        try:
            schedules = self._known[volume_id] = schedules_of(volume.settings.snapshots)
            taken = 0
            for one in schedules:
                taken += await self._serve(volume, one)
            return taken
        finally:
            self._platform.release(volume)

    def _is_busy(self, volume_id: int, schedule: Schedule) -> bool:
        return self._is_due(volume_id, schedule) or bool(self._spare(volume_id, schedule))

    async def _serve(self, volume: Volume, schedule: Schedule) -> int:
        snapshots, taken = self._platform.snapshots, 0
        if self._is_due(volume.id, schedule):
            period_ns = schedule.period(self._platform.clock.now_ns())
            name = schedule.snapshot(period_ns)
            await snapshots.create(SYSTEM, volume, name, schedule=schedule.name)
            self._served[volume.id, schedule.name] = period_ns
            taken = 1
        for spare in self._spare(volume.id, schedule):
            await snapshots.remove(SYSTEM, volume, spare.name)
        return taken

    def _is_due(self, volume_id: int, schedule: Schedule) -> bool:
        """Whether the period that goes on now has no snapshot yet, and is to have one."""
        period_ns = schedule.period(self._platform.clock.now_ns())
        if period_ns < schedule.since_ns:
            return False
        if self._served.get((volume_id, schedule.name)) == period_ns:
            return False
        name = schedule.snapshot(period_ns)
        return self._platform.snapshots.find_name(volume_id, name) is None

    def _spare(self, volume_id: int, schedule: Schedule) -> list[Snapshot]:
        """Those beyond what is kept, the oldest first, but for those that clones need."""
        own = [
            one
            for one in self._platform.snapshots.of(volume_id)
            if one.record.schedule == schedule.name
        ]
        return [one for one in own[: -schedule.keep] if not one.record.users]
