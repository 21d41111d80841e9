"""What a volume knows of snapshots: their records, and which segments are there for them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import Corrupt
from ...keyspace import keys
from ...keyspace.records import ROOT_VOLUME, SnapshotRecord
from ..units import Unit
from .findings import Repair, Step
from .picture import read_record

if TYPE_CHECKING:
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
            if check.volume.id != ROOT_VOLUME:
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
