"""The check of many volumes, and of what spans them: each is mounted where the list says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import NotFound, PlatformError
from ...keyspace import keys
from ...keyspace.records import ROOT_VOLUME, VolumePhase, VolumeRecord
from ..identities import RESERVED
from .context import Progress
from .findings import Finding, Report
from .picture import read_record
from .rights import USER
from .snapshots import check_snapshots
from .volumes import check_one

if TYPE_CHECKING:
    from ..platform import Platform

_Mounted = dict[tuple[int, int], int]
"""Volumes by where they are mounted: (volume, inode)."""


async def check_platform(
    platform: Platform,
    volume_id: int | None = None,
    *,
    repair: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Check one volume, or all of them and how they hang together.

    A volume that cannot be checked at all is a finding. NOT_FOUND for an unknown `volume_id`.
    """
    if volume_id is not None:
        report = Report()
        await _check_one(platform, volume_id, report, repair=repair, progress=progress)
        await check_snapshots(platform, volume_id, report)
        return report
    report = Report()
    records = await _ready(platform, report)
    mounted: _Mounted = {}
    for id_ in (ROOT_VOLUME, *records):
        if id_ in platform.withdrawn:
            report.counts["locked volumes, which were not looked at"] = (
                report.counts.get("locked volumes, which were not looked at", 0) + 1
            )
            continue
        try:
            found = await _check_one(platform, id_, report, repair=repair, progress=progress)
        except PlatformError as error:
            if isinstance(error, NotFound) and not await _is_ready(platform, id_):
                continue  # it was removed meanwhile
            path = await _mount_path(platform, id_)
            report.findings.append(Finding(path, f"the volume cannot be checked: {error}", False))
        else:
            mounted |= {(id_, inode): volume for inode, volume in found.items()}
            await check_snapshots(platform, id_, report)
    _check_owners(platform, {ROOT_VOLUME, *records}, report)
    for record in records.values():
        await _check_junction(platform, record, report)
    await _check_mounted(platform, mounted, report)
    _check_names(platform, report)
    return report


async def _check_one(
    platform: Platform,
    volume_id: int,
    report: Report,
    *,
    repair: bool,
    progress: Progress | None,
) -> dict[int, int]:
    """What is mounted in it: volumes by the inodes of their junctions."""
    path = await _mount_path(platform, volume_id)
    before = sum(report.counts.values())

    def further(stage: str, seen: int) -> None:
        if progress is not None:
            progress(f"{path}: {stage}", before + seen)

    volume = await platform.acquire(volume_id)
    try:
        prefix = "" if path == "/" else path
        found, mounted = await check_one(
            volume, repair=repair, progress=further, path_prefix=prefix
        )
    finally:
        platform.release(volume)
    report.findings += found.findings
    for named, where in found.named.items():
        report.named.setdefault(named, where)
    for name, count in found.counts.items():
        report.counts[name] = report.counts.get(name, 0) + count
    return mounted


async def _mount_path(platform: Platform, volume_id: int) -> str:
    try:
        path = await platform.catalog.mount_path(volume_id)
    except PlatformError:
        path = ""
    return path if path.startswith("/") else f"(volume {volume_id})"


def _check_names(platform: Platform, report: Report) -> None:
    """Rules name somebody. Users of this machine's system are somebody, too."""
    identities = platform.identities
    accounts = identities.accounts
    for (kind, name), where in sorted(report.named.items()):
        if kind == USER:
            known = identities.has_user(name) or accounts.uid_of(name) is not None
            if not known and name not in RESERVED and not name.startswith("uid:"):
                report.warnings.append(Finding(where, f"nobody is called {name}", False))
        elif not identities.has_group(name) and accounts.gid_of(name) is None:
            report.warnings.append(Finding(where, f"no group is called {name}", False))


def _check_owners(platform: Platform, volumes: set[int], report: Report) -> None:
    """A snapshot is of a volume that is there."""
    for volume_id in platform.snapshots.volumes() - volumes:
        for snapshot in platform.snapshots.of(volume_id):
            problem = f"snapshot {snapshot.name} is of volume {volume_id}, which is missing"
            report.findings.append(Finding(f"(volume {volume_id})", problem, False))


# ---------------------------------------------------------------- the list of volumes


async def _ready(platform: Platform, report: Report) -> dict[int, VolumeRecord]:
    """Volumes that users see, parents first in the order of their making."""
    root = await platform.acquire(ROOT_VOLUME)
    found = {}
    try:
        start, end = keys.prefix_range(keys.VOLUME)
        while page := await root.storage.engine.scan(start, end):
            for key, value in page:
                try:
                    record = read_record(VolumeRecord, value)
                except PlatformError:
                    continue  # reported with the root volume
                if record.phase == VolumePhase.READY and record.volume == keys.number_of(key):
                    found[record.volume] = record
            start = page[-1][0] + b"\x00"
    except PlatformError as error:
        report.findings.append(Finding("/", f"the list of volumes cannot be read: {error}", False))
    finally:
        platform.release(root)
    return found


async def _is_ready(platform: Platform, volume_id: int) -> bool:
    if volume_id == ROOT_VOLUME:
        return True
    record = await platform.catalog.find(volume_id)
    return record is not None and record.phase == VolumePhase.READY


async def _check_junction(platform: Platform, record: VolumeRecord, report: Report) -> None:
    """A volume that is ready is mounted. What was removed meanwhile is not ready any more."""
    problem = await _junction_problem(platform, record)
    if problem and await _is_ready(platform, record.volume):
        report.findings.append(Finding(f"(volume {record.volume})", problem, False))


async def _junction_problem(platform: Platform, record: VolumeRecord) -> str:
    name = record.name.decode("utf-8", "backslashreplace")
    if record.volume not in await platform.storages.volumes():
        return f"the volume mounted as {name} has no data at all"
    try:
        parent = await platform.acquire(record.parent_volume)
    except NotFound:
        return f"the volume mounted as {name} is in volume {record.parent_volume}, which is missing"
    except PlatformError:
        return ""  # reported with that volume
    try:
        junction = await parent.find_inode(record.junction)
    except PlatformError:
        return ""  # reported with that volume
    finally:
        platform.release(parent)
    if junction is None or not junction.links or junction.volume != record.volume:
        return f"the volume is not mounted anywhere: it was called {name}"
    return ""


async def _check_mounted(platform: Platform, mounted: _Mounted, report: Report) -> None:
    """Where a volume is mounted, the list knows it: it does from before the mounting until after
    the unmounting."""
    for (parent_id, inode), volume_id in mounted.items():
        try:
            if await platform.catalog.find(volume_id) is not None:
                continue
            parent = await platform.acquire(parent_id)
        except PlatformError:
            continue  # reported with the root volume or the parent
        try:
            junction = await parent.find_inode(inode)
            if junction is not None and junction.links and junction.volume == volume_id:
                path = await platform.path_of(parent, inode)
                problem = f"volume {volume_id} is mounted here, and is not in the list of volumes"
                report.findings.append(Finding(path, problem, False))
        except PlatformError:
            continue
        finally:
            platform.release(parent)
