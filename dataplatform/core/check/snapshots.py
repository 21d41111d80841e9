"""What a volume knows of snapshots: their records, and which segments are there for them alone; and
whether each of them is there, which is told without reading all that is in it: for that, check the
snapshot's own path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import Corrupt, PlatformError
from ...engine.base import scan_all
from ...keyspace import keys
from ...keyspace.records import ROOT_VOLUME, Segment, SnapshotRecord
from ..units import Unit
from .findings import Finding, Repair, Report, Step
from .picture import read_record

if TYPE_CHECKING:
    from ..platform import Platform
    from ..snapshots import Snapshot
    from ..volumes import Volume
    from .context import Check

_COMMIT_BYTES = 8


async def check_snapshot_records(check: Check) -> int:
    """The list of snapshots; the highest number in it."""
    highest = 0
    async for page in check.pages(keys.SNAPSHOT, "snapshots"):
        for key, value in page:
            volume, name = (
                keys.number_of(key),
                keys.name_of(key).decode("utf-8", "backslashreplace"),
            )
            what = f"the record of snapshot {name} of volume {volume}"
            check.counts["snapshots"] += 1
            if check.volume.home.id != ROOT_VOLUME:
                check.add("/", f"{what} stands outside of the root volume")
                continue
            try:
                record = read_record(SnapshotRecord, value)
            except Corrupt:
                check.add("/", f"{what} cannot be read")
                continue
            highest = max(highest, record.number)
    return highest


async def check_dead_segments(check: Check) -> None:
    """Segments that nothing in the volume refers to, and a snapshot does. Whether they are there is
    found with the snapshot."""
    async for page in check.pages(keys.DEAD_SEGMENT, "segments"):
        for key, value in page:
            number = keys.number_of(key)
            check.counts["dead segments that snapshots need"] += 1
            if len(value) != _COMMIT_BYTES:
                check.add(
                    "/",
                    f"it cannot be read when segment {number} died",
                    _mark_anew(key, value),
                )
            elif await check.picture.find(keys.segment(number)) is not None:
                check.add(
                    "/", f"segment {number} is marked as dead, and has an account", _unmark(key)
                )


async def check_snapshots(platform: Platform, volume_id: int, report: Report) -> None:
    """Those of a volume: each can be opened, is the commit that its record says, and has all of its
    segments."""
    for snapshot in platform.snapshots.of(volume_id):
        try:
            then = await platform.acquire(snapshot.number)
            try:
                problems = await _problems(snapshot, then)
            finally:
                platform.release(then)
        except PlatformError as error:
            problems = [f"the snapshot cannot be read: {error}"]
        if problems and platform.snapshots.find(snapshot.number) is not None:  # not removed
            path = await platform.catalog.path_for_people(snapshot.number)
            report.findings += [Finding(path, problem, False) for problem in problems]


async def _problems(snapshot: Snapshot, then: Volume) -> list[str]:
    commit, said = then.state.commit, snapshot.record.commit
    found = (
        [f"the snapshot is commit {commit}, and its record says {said}"] if commit != said else []
    )
    sizes = await then.storage.segments.sizes()
    async for key, value in scan_all(then.storage.engine, *keys.prefix_range(keys.SEGMENT)):
        number = keys.number_of(key)
        if number not in sizes and Segment.unpack(value).live_bytes:
            found.append(f"segment {number} is missing, and the snapshot refers to it")
    return found


def _mark_anew(key: bytes, value: bytes) -> Repair:
    """As if it had died just now: then no snapshot loses it that may need it."""

    async def repair(unit: Unit) -> Step:
        if await unit.get(key) != value:
            return Step.NOT_NEEDED
        unit.put(key, unit.commit.to_bytes(_COMMIT_BYTES, "big"))
        return Step.DONE

    return repair


def _unmark(key: bytes) -> Repair:
    async def repair(unit: Unit) -> Step:
        account = keys.segment(keys.number_of(key))
        if await unit.get(key) is None or await unit.get(account) is None:
            return Step.NOT_NEEDED
        unit.delete(key)
        return Step.DONE

    return repair
