"""The sums: segments and what refers to them, the volume's usage, the numbers to give out next."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ...base.errors import Corrupt
from ...keyspace import keys
from ...keyspace.records import ROOT_VOLUME, Segment
from ..units import Unit
from .findings import Repair, Step
from .picture import read_record
from .references import Tally, extent_of, referring

if TYPE_CHECKING:
    from .context import Check

_STAGE = "segments"


# ---------------------------------------------------------------- segments


async def check_segments(check: Check) -> None:
    references = check.references
    accounts = await _read_accounts(check)
    listed = await _count_listed(check)
    known = not check.picture.touches_unreadable(*keys.prefix_range(keys.SEGMENT))
    for number in sorted({*accounts, *references.tallies, *listed}):
        tally = references.tallies.get(number, Tally())
        if number in accounts:
            await _check_account(check, number, accounts[number], tally)
        elif tally.references and known:
            check.add(
                "/",
                f"the account of segment {number} is missing",
                _restore_account(number, tally.live_bytes) if references.complete else None,
            )
        if listed[number] != tally.references:
            await _check_listed(check, number)


async def _read_accounts(check: Check) -> dict[int, Segment | None]:
    accounts: dict[int, Segment | None] = {}
    async for page in check.pages(keys.SEGMENT, _STAGE):
        for key, value in page:
            number = keys.number_of(key)
            check.counts["segments"] += 1
            try:
                accounts[number] = read_record(Segment, value)
            except Corrupt:
                accounts[number] = None
    return accounts


async def _check_account(check: Check, number: int, account: Segment | None, tally: Tally) -> None:
    if not check.references.exists(number):
        # A dead segment may have gone since the moment that we look at.
        if await check.volume.storage.engine.get(keys.segment(number)) is None:
            return
        if tally.references:
            check.add(
                "/", f"segment {number} is missing, and {tally.references} places refer to it"
            )
        else:
            check.add(
                "/",
                f"segment {number} is missing, and nothing refers to it",
                _forget_account(number) if check.references.complete else None,
            )
        return
    sure = check.references.complete
    if account is None:
        check.add(
            "/",
            f"the account of segment {number} cannot be read",
            _restore_account(number, tally.live_bytes) if sure else None,
        )
    elif sure and account.live_bytes != tally.live_bytes:
        check.add(
            "/",
            f"the account of segment {number} counts {account.live_bytes} bytes in use, "
            f"and there are {tally.live_bytes}",
            _add_to_account(number, tally.live_bytes - account.live_bytes),
        )


async def _count_listed(check: Check) -> Counter[int]:
    """Reference rows by segment."""
    listed: Counter[int] = Counter()
    async for page in check.pages(keys.REFERENCE, _STAGE):
        for key, _ in page:
            listed[keys.number_of(key)] += 1
    return listed


async def _check_listed(check: Check, number: int) -> None:
    """Reference rows of a segment that are too many."""
    async for page in check.range(*keys.prefix_range(keys.references(number)), _STAGE):
        rows = [keys.name_of(key) for key, _ in page]
        for key, value in zip(rows, await check.picture.find_many(rows), strict=True):
            if value is None and check.picture.is_unreadable(key):
                continue
            try:
                place = extent_of(key, value) if value is not None else None
            except Corrupt:
                continue
            if place is None or place[0].segment != number:
                path, part = await referring(check, key)
                check.add(
                    path,
                    f"segment {number} lists that {part} refers to it, and it does not",
                    _unlist(number, key),
                )


def _add_to_account(number: int, live_bytes: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        value = await unit.get(keys.segment(number))
        if value is None:
            return Step.NOT_NEEDED
        segment = unit.segments.setdefault(number, Segment.unpack(value))
        segment.live_bytes += live_bytes
        unit.put(keys.segment(number), b"")  # packed at the end
        return Step.DONE

    return repair


def _restore_account(number: int, live_bytes: int) -> Repair:
    """What referred to it counts again; what came since the loss does already."""

    async def repair(unit: Unit) -> Step:
        value = await unit.get(keys.segment(number))
        try:
            segment = read_record(Segment, value) if value is not None else Segment()
        except Corrupt:
            segment = Segment()
        if not segment.total_bytes:
            segment.total_bytes = (await unit.volume.storage.segments.sizes()).get(number, 0)
        segment.live_bytes += live_bytes
        segment.total_bytes = max(segment.total_bytes, segment.live_bytes)
        unit.segments[number] = segment
        unit.put(keys.segment(number), b"")  # packed at the end
        return Step.DONE

    return repair


def _forget_account(number: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        start, end = keys.prefix_range(keys.references(number))
        key = keys.segment(number)
        if await unit.get(key) is None or await unit.scan(start, end, limit=1):
            return Step.NOT_NEEDED
        if number in await unit.volume.storage.segments.sizes():
            return Step.NOT_NEEDED
        unit.delete(key)
        return Step.DONE

    return repair


def _unlist(segment: int, key: bytes) -> Repair:
    async def repair(unit: Unit) -> Step:
        value = await unit.get(key)
        place = extent_of(key, value) if value is not None else None
        row = keys.reference(segment, key)
        if (place is not None and place[0].segment == segment) or await unit.get(row) is None:
            return Step.NOT_NEEDED
        unit.delete(row)
        return Step.DONE

    return repair


# ---------------------------------------------------------------- usage and counters


async def check_usage(check: Check) -> None:
    """What the volume counts, with the sums over everything that has a name."""
    state = check.state
    if state is None:
        return
    memory = check.moment.state
    entries = check.counts["things with a name"]
    names_known = not any(
        check.picture.touches_unreadable(*keys.prefix_range(p)) for p in (keys.INODE, keys.ENTRY)
    )
    for counted in (state.entries, memory.entries):
        if names_known and counted != entries:
            check.add(
                "/",
                f"the volume counts {counted} files, directories and other things, "
                f"and has {entries}",
                _add_to_usage(0, entries - memory.entries),
            )
            break
    for counted in (state.used_bytes, memory.used_bytes):
        if names_known and check.usage_is_sure and counted != check.used_bytes:
            check.add(
                "/",
                f"the volume counts {counted} used bytes, and has {check.used_bytes}",
                _add_to_usage(check.used_bytes - memory.used_bytes, 0),
            )
            break


def _add_to_usage(size_bytes: int, entries: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        unit.used_bytes_delta += size_bytes
        unit.entries_delta += entries
        unit.put(keys.STATE_KEY, b"")  # written by the lane
        return Step.DONE

    return repair


def check_counters(check: Check, highest_volume: int) -> None:
    """Numbers are given out once: the next ones are above all that are in use."""
    state = check.state
    if state is None:
        return
    highest = max([*check.inodes.numbers[-1:], *check.inodes.damaged], default=0)
    if check.volume.home.id == ROOT_VOLUME:
        highest = max(highest, highest_volume)
    if state.next_inode <= highest:
        check.add(
            "/",
            f"the next inode number would be {state.next_inode}, and {highest} is used already",
            _raise_counters(highest + 1, 0),
        )
    if state.next_producer <= check.highest_producer:
        check.add(
            "/",
            f"the next producer id would be {state.next_producer}, and {check.highest_producer} "
            "is used already",
            _raise_counters(0, check.highest_producer + 1),
        )


def _raise_counters(next_inode: int, next_producer: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        unit.raise_counters(next_inode, next_producer)
        unit.put(keys.STATE_KEY, b"")  # written by the lane
        return Step.DONE

    return repair
