"""The check of one volume: every part in turn, on one moment of it."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from weakref import WeakKeyDictionary

from ..volumes import Volume
from . import (
    accounts,
    filedata,
    inodes,
    keytable,
    log,
    mirrors,
    names,
    quotas,
    rights,
    snapshots,
    streamdata,
    tabledata,
)
from .context import Check, Moment, Progress
from .findings import Findings, Report

_repairing: WeakKeyDictionary[Volume, asyncio.Lock] = WeakKeyDictionary()
"""Repairs add the differences that were found: two at a time would add them twice."""


async def check_volume(
    volume: Volume,
    *,
    repair: bool = False,
    progress: Progress | None = None,
    path_prefix: str = "",
) -> Report:
    """Read everything in the volume and prove every invariant; with `repair`, put right what
    follows from other stored data.

    The volume may be in use meanwhile. Paths in the findings begin with `path_prefix`; `progress`
    is told in words what is looked at, and how many things were so far. Raises UNAVAILABLE if the
    volume stopped after a failed write.
    """
    report, _ = await check_one(volume, repair=repair, progress=progress, path_prefix=path_prefix)
    return report


async def check_one(
    volume: Volume, *, repair: bool, progress: Progress | None, path_prefix: str
) -> tuple[Report, dict[int, int]]:
    """As `check_volume`; also the volumes that are mounted in it, by inode."""
    alone: AbstractAsyncContextManager[None] = nullcontext()
    repair = repair and not volume.is_snapshot
    if repair:
        alone = _repairing.setdefault(volume, asyncio.Lock())
    async with alone:
        await volume.writeback.try_flush_all()  # what a damage keeps back is found below
        await volume.lane.durable()
        findings = Findings(path_prefix)
        check = await _look(volume, findings, progress)
        if repair:
            await findings.repair(volume)
            if any(finding.repaired for finding in findings.listed):
                await quotas.recount(volume)
            await volume.lane.durable()
    report = Report(findings.end(), counts=dict(check.counts), named=check.named)
    return report, check.inodes.junctions


async def _look(volume: Volume, findings: Findings, progress: Progress | None) -> Check:
    with volume.holds.pin():
        moment = await _take(volume)
        try:
            sizes = await volume.storage.segments.sizes()
            check = Check(volume, moment, sizes, findings, progress)
            await _check(check)
            return check
        finally:
            moment.view.close()


async def _take(volume: Volume) -> Moment:
    """In the lane, so that what is stored and what is in memory are of the same commit."""
    async with volume.lane.between():
        view = await volume.storage.engine.view()
        return Moment(view, volume.state, dict(volume.statistics), dict(volume.quotas.directories))


async def _check(check: Check) -> None:
    """The order matters: later parts look into what earlier ones read."""
    await keytable.read_state(check)
    await keytable.check_unknown(check)
    highest_volume = await keytable.check_volume_records(check)
    highest_snapshot = await snapshots.check_snapshot_records(check)
    await keytable.check_audit_cursors(check)
    await keytable.check_clusters(check)
    await keytable.check_gathers(check)
    await rights.check_identities(check)
    await quotas.read_quotas(check)
    await inodes.read_inodes(check)
    await names.check_names(check)
    await filedata.check_xattrs(check)
    await filedata.check_pieces(check)
    await tabledata.check_statistics_rows(check)
    await tabledata.check_rows(check)
    await streamdata.check_streams(check)
    await tabledata.end_statistics(check)
    await accounts.check_segments(check)
    await snapshots.check_dead_segments(check)
    await mirrors.check_cursor(check)
    await mirrors.check_sources(check)
    await log.check_changes(check)
    await log.check_publications(check)
    await log.check_replies(check)
    await accounts.check_usage(check)
    await quotas.check_quotas(check)
    accounts.check_counters(check, max(highest_volume, highest_snapshot))
