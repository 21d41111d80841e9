"""Quotas of directories: what each counts, with the sums over everything below it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ...base.errors import Corrupt
from ...keyspace import keys
from ...keyspace.records import DirectoryQuota, Kind
from .. import quota_directories
from ..quotas import Taken
from ..units import SYSTEM, Unit
from .findings import Repair, Step
from .inodes import Inodes
from .picture import read_record

if TYPE_CHECKING:
    from ..volumes import Volume
    from .context import Check


async def read_quotas(check: Check) -> None:
    """Their records: whether there are any decides if bytes are summed up by directory."""
    async for page in check.pages(keys.QUOTA, "quotas"):
        for key, value in page:
            number = keys.number_of(key)
            check.counts["quotas of directories"] += 1
            try:
                check.quotas[number] = read_record(DirectoryQuota, value)
            except Corrupt:
                check.add("/", f"the quota of directory {number} cannot be read: set it again")


async def check_quotas(check: Check) -> None:
    """After everything was summed up."""
    if not check.quotas:
        return
    sums = await _sums(check)
    names_known = not any(
        check.picture.touches_unreadable(*keys.prefix_range(p)) for p in (keys.INODE, keys.ENTRY)
    )
    for number, quota in sorted(check.quotas.items()):
        index = check.inodes.find(number)
        path = await check.path_of(number)
        if check.is_missing(number) or (
            index >= 0 and (check.inodes.is_orphan(index) or not _is_directory(check.inodes, index))
        ):
            check.add(path, "a quota belongs to no directory", _forget(number))
            continue
        if not names_known or check.inodes.damaged:
            continue
        memory = check.moment.quotas.get(number, quota)
        size_bytes, entries = sums[number]
        if not check.usage_is_sure:
            size_bytes = memory.used_bytes
        for counted in (quota, memory):
            if counted.entries != entries or (
                check.usage_is_sure and counted.used_bytes != size_bytes
            ):
                check.add(
                    path,
                    f"its quota counts {counted.used_bytes} bytes and {counted.entries} entries, "
                    f"and there are {size_bytes} and {entries}",
                    _correct(number, size_bytes - memory.used_bytes, entries - memory.entries),
                )
                break


def _is_directory(inodes: Inodes, index: int) -> bool:
    return inodes.kinds[index] == Kind.DIRECTORY


async def _sums(check: Check) -> dict[int, tuple[int, int]]:
    """Bytes and entries below each directory with a quota."""
    inodes = check.inodes
    entries: Counter[int] = Counter()
    async for some in inodes.indexes():
        for index in some:
            if inodes.parents[index] and not inodes.is_orphan(index):
                entries[inodes.parents[index]] += 1
    chains: dict[int, tuple[int, ...]] = {}
    sums = {number: [0, 0] for number in check.quotas}
    for parent in {*entries, *check.used_below}:
        for account in _chain(check, parent, chains):
            sums[account][0] += check.used_below[parent]
            sums[account][1] += entries[parent]
    return {number: (size_bytes, count) for number, (size_bytes, count) in sums.items()}


def _chain(check: Check, directory: int, known: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    passed: list[int] = []
    seen: set[int] = set()
    current = directory
    while current and current not in known and current not in seen:
        seen.add(current)
        passed.append(current)
        index = check.inodes.find(current)
        current = check.inodes.parents[index] if index >= 0 else 0
    chain = known.get(current, ())
    for number in reversed(passed):
        if number in check.quotas:
            chain = (number, *chain)
        known[number] = chain
    return chain


def _correct(number: int, size_bytes: int, entries: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        if number not in unit.volume.quotas.directories:
            return Step.NOT_NEEDED
        taken = unit.accounts.setdefault(number, Taken())
        taken.forced_bytes += size_bytes
        taken.forced_entries += entries
        unit.put(keys.quota(number), b"")  # packed at the end
        return Step.DONE

    return repair


def _forget(number: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is not None and inode.links and inode.kind == Kind.DIRECTORY:
            return Step.NOT_NEEDED
        if await unit.get(keys.quota(number)) is None:
            return Step.NOT_NEEDED
        unit.delete(keys.quota(number))
        unit.on_commit(lambda _: unit.volume.quotas.forget(number))
        return Step.DONE

    return repair


async def recount(volume: Volume) -> None:
    """After repairs that moved things, or gave them back their names: quotas count what there is
    now. Nobody else writes to the volume meanwhile."""
    for number, quota in list(volume.quotas.directories.items()):
        if not quota.is_counting:
            await volume.run(SYSTEM, lambda unit, n=number: _recount(unit, n), durable=False)  # type: ignore[misc]


async def _recount(unit: Unit, number: int) -> None:
    quota = unit.volume.quotas.directories.get(number)
    if quota is None:
        return
    view = await unit.engine.view()
    try:
        content = await quota_directories.count(view, number, trusting=False)
    finally:
        view.close()
    size_bytes, entries = content.size_bytes, content.entries
    if (size_bytes, entries) != (quota.used_bytes, quota.entries):
        await _correct(number, size_bytes - quota.used_bytes, entries - quota.entries)(unit)
