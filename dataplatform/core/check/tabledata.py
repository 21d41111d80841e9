"""Tables: every row can be read and is one that could have been put; counts are exact.

Of a table without a name the sweep may have taken a part already, so its rows are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.errors import Corrupt, PlatformError
from ...base.limits import ROW_KEY_BYTES_MAX
from ...keyspace import keys
from ...keyspace.records import ROW_HEAD, Kind, Statistics, row_columns
from .. import rows, tables
from ..units import Unit
from .findings import Repair, Step
from .inodes import COUNTED
from .picture import read_record
from .strays import Strays

if TYPE_CHECKING:
    from .context import Check


async def check_statistics_rows(check: Check) -> None:
    """Each belongs to a table or stream. What they count is compared where that is read."""
    strays = Strays(check, keys.STATISTICS)
    inodes = check.inodes
    async for page in check.pages(keys.STATISTICS, "counts of tables and streams"):
        for key, value in page:
            number = keys.number_of(key)
            if strays.is_stray(number):
                continue
            index = inodes.find(number)
            if index >= 0 and inodes.kinds[index] not in (Kind.TABLE, Kind.STREAM):
                check.add(
                    await check.path_of(number),
                    "it counts rows or records, and is no table and no stream",
                )
            try:
                statistics = read_record(Statistics, value)
            except Corrupt:
                check.unreadable_statistics.add(number)
                continue
            if check.is_too_new(statistics.version):
                path = await check.path_of(number)
                problem = f"its counts are of version {statistics.version}, newer than the last "
                check.add(path, f"{problem}commit, {check.commit}")
    strays.end()


@dataclass(slots=True)
class _Table:
    number: int
    count: int = 0
    size_bytes: int = 0


async def check_rows(check: Check) -> None:
    strays = Strays(check, keys.ROW)
    table: _Table | None = None
    async for page in check.pages(keys.ROW, "rows of tables"):
        for key, value in page:
            number = keys.number_of(key)
            if table is None or table.number != number:
                await _end_table(check, table)
                table = _Table(number)
                index = check.inodes.find(number)
                if index >= 0 and check.inodes.kinds[index] != Kind.TABLE:
                    check.add(await check.path_of(number), "it is no table, and has rows")
            table.count += 1
            table.size_bytes += tables.stored_bytes(keys.name_of(key), value)
            if not strays.is_stray(number):
                problem = _problem(check, keys.name_of(key), value)
                if problem:
                    name = keys.name_of(key).decode("utf-8", "backslashreplace")
                    check.add(await check.path_of(number), f"row `{name}` {problem}")
            check.counts["rows"] += 1
    await _end_table(check, table)
    strays.end()
    if check.picture.touches_unreadable(*keys.prefix_range(keys.ROW)):
        check.usage_is_sure = False
    await _check_empty_tables(check)


_ARRAY_OF_THREE, _UNSIGNED_64 = 0x93, 0xCF


def _problem(check: Check, key: bytes, value: bytes) -> str:
    """What is wrong with a row; "" if nothing."""
    if len(key) > ROW_KEY_BYTES_MAX:
        return "has too long a key"
    if len(value) <= ROW_HEAD.size:
        return "is cut off"
    array, mark, version, expiry_mark, _ = ROW_HEAD.unpack_from(value)
    if (array, mark, expiry_mark) != (_ARRAY_OF_THREE, _UNSIGNED_64, _UNSIGNED_64):
        return "is damaged: it does not begin as a row"
    if not version or check.is_too_new(version):
        return f"has version {version}, and the last commit is {check.commit}"
    packed = row_columns(value)
    try:
        columns = rows.columns_of(value)
        rows.check_columns(columns, packed)
        rows.check_size(packed)
    except PlatformError as error:
        return f"is damaged: {error}"
    except TypeError:  # a map whose keys cannot be keys
        return "is damaged: it cannot be read"
    return ""


async def _end_table(check: Check, table: _Table | None) -> None:
    if table is None:
        return
    index = check.inodes.find(table.number)
    if index >= 0:
        check.inodes.flags[index] |= COUNTED
    check.use(table.number, table.size_bytes)
    if index >= 0 and check.inodes.kinds[index] != Kind.TABLE:
        return
    if check.picture.touches_unreadable(*keys.prefix_range(keys.rows(table.number))):
        return
    await compare(check, table.number, table.count, table.size_bytes, "rows")


async def _check_empty_tables(check: Check) -> None:
    """Tables of which no row was seen."""
    inodes = check.inodes
    async for some in inodes.indexes():
        for index in some:
            if inodes.kinds[index] != Kind.TABLE or inodes.flags[index] & COUNTED:
                continue
            number = inodes.numbers[index]
            if not check.picture.touches_unreadable(*keys.prefix_range(keys.rows(number))):
                await compare(check, number, 0, 0, "rows")


# ---------------------------------------------------------------- counts, also of streams


async def compare(check: Check, number: int, count: int, size_bytes: int, noun: str) -> None:
    """The stored counts of a table or stream with what it has."""
    index = check.inodes.find(number)
    key = keys.statistics(number)
    if index < 0 or check.inodes.is_orphan(index):
        return
    path = await check.path_of(number)
    if number in check.unreadable_statistics:
        check.unreadable_statistics.discard(number)
        check.add(path, "its counts cannot be read", _write_statistics(number, count, size_bytes))
        return
    value = await check.picture.find(key)
    if value is None and check.picture.is_unreadable(key):
        return
    stored = read_record(Statistics, value) if value is not None else Statistics()
    memory = check.moment.statistics.get(number, stored)
    for counted in (stored, memory):
        if (counted.count, counted.size_bytes) != (count, size_bytes):
            check.add(
                path,
                f"it counts {counted.count} {noun} with {counted.size_bytes} bytes, "
                f"and has {count} with {size_bytes}",
                _add_to_statistics(number, count - memory.count, size_bytes - memory.size_bytes),
            )
            return


async def end_statistics(check: Check) -> None:
    """Counts that cannot be read, of what cannot be counted either."""
    for number in sorted(check.unreadable_statistics):
        check.add(await check.path_of(number), "its counts cannot be read")


def _write_statistics(number: int, count: int, size_bytes: int) -> Repair:
    """Counts are in memory, or else nothing was put or appended since: every writer stops at what
    cannot be read."""

    async def repair(unit: Unit) -> Step:
        value = await unit.get(keys.statistics(number))
        inode = await unit.find_inode(number)
        if value is None or inode is None or not inode.links:
            return Step.NOT_NEEDED
        try:
            read_record(Statistics, value)
        except Corrupt:
            if number in unit.volume.statistics:  # then writers went on, and that is right
                await unit.statistics(number)
            statistics = Statistics(count, size_bytes, unit.now_ns, unit.commit)
            unit.put(keys.statistics(number), statistics.pack())  # the unit's own is packed over it
            return Step.DONE
        return Step.NOT_NEEDED

    return repair


def _add_to_statistics(number: int, count: int, size_bytes: int) -> Repair:
    async def repair(unit: Unit) -> Step:
        inode = await unit.find_inode(number)
        if inode is None or not inode.links:
            return Step.NOT_NEEDED
        statistics = await unit.statistics(number)
        statistics.count += count
        statistics.size_bytes += size_bytes
        statistics.version = unit.commit
        unit.put(keys.statistics(number), b"")  # packed at the end
        return Step.DONE

    return repair
