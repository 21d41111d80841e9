"""Tables: ordered maps from a row key to named columns (D8).

A row's version is the commit that last wrote it. A row may have no columns: deleting its last
column leaves it in place, only `delete` without columns removes it. Every write of a row starts
its time to live again, if its table has one; an expired row is in nobody's sight, and swept later
(`expiry`). A table's account counts what is stored, so expired rows until they are swept.

Writes are operations on a unit; reads see what was committed. A page of a scan is one moment.

Who may read or write which column is in `access.columns`. What may not be read is left out, what
may not be written is refused; a row that is replaced keeps the columns that may not be written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import Conflict, Exhausted, Invalid, NotFound, PlatformError
from ..base.limits import MIB, PAGE_BYTES, PAGE_ENTRIES_MAX, ROW_KEY_BYTES_MAX
from ..engine.base import Pair
from ..keyspace import keys
from ..keyspace.records import Inode, Kind, Statistics, pack_row, row_head
from . import filters, rows
from .access import columns as rights
from .access.columns import Columns
from .access.verbs import Verb
from .units import SYSTEM, Request, Unit

if TYPE_CHECKING:
    from .volumes import Volume

STEP_ROWS = 1000
"""Rows that are worked on before the loop gets a turn: about 5 ms."""

READ_ROWS = 200
"""Rows that are read at once by their keys. Each may be ROW_BYTES_MAX large, which is not known
before."""

_NO_COLUMNS: frozenset[str] = frozenset()

REPLY_BYTES_MAX = 12 * MIB
"""Rows that `get_many` gives at a time; below FRAME_BYTES_MAX with a row to spare."""


# ---------------------------------------------------------------- writing


async def put(
    unit: Unit,
    table: int,
    key: bytes,
    columns: bytes,
    *,
    if_version: int | None = None,
    replace: bool = False,
) -> int:
    """Set columns of a row, a packed map; other columns stay unless `replace`. Its version.

    CONFLICT unless the row has version `if_version` (0: is not there). INVALID, with the
    table and the key, if the key or the columns cannot be.
    """
    of_table = await _table(unit, table)
    is_free, writable = unit.request.principal.is_free, rights.EVERYTHING
    if not is_free:
        writable = await rights.writable_in(unit, of_table.inode)
        if if_version is not None:
            await rights.readable_in(unit, of_table.inode)
    try:
        rows.check_key(key)
        fresh = rows.unpack_columns(columns)
        if not is_free:
            await rights.check(unit, of_table.inode, writable, fresh)
        stored_key = keys.row(table, key)
        old = await unit.get(stored_key)
        alive = old if old is not None and _is_alive(unit, old) else None
        if if_version is not None:
            _check_version(alive, if_version)
        if alive is None:
            if not is_free:
                await _check_new(unit, of_table, writable)
            packed = rows.canonical(columns, fresh)
        elif not replace:
            packed = rows.merged(rows.columns_of(alive), fresh)
        elif writable.is_all:
            packed = rows.canonical(columns, fresh)
        else:
            packed = rows.merged(_kept(alive, writable), fresh)
    except PlatformError as error:
        raise await _about(unit, table, key, error) from error.__cause__
    await _write(unit, table, of_table, key, packed, old)
    unit.event("row put", await unit.path_of(table), "table", key=key)
    return unit.commit


async def put_many(
    unit: Unit, table: int, data: bytes, *, replace: bool = False, separate: bool = False
) -> int:
    """Put rows, as MessagePack: key, columns, key, columns, …; a later one with the same key adds
    to the earlier (or with `replace` takes its place). The version of all of them, 0 for no rows.

    `separate`: they are puts that merely travelled together, so each of them is an event.
    """
    of_table = await _table(unit, table)
    writable = await rights.writable_in(unit, of_table.inode)
    bulk = await _read_bulk(unit, table, data, replace)
    fresh = bulk.packed
    if not fresh:
        return 0
    await _put_rows(unit, table, of_table, writable, fresh, replace=replace)
    if separate:
        await _say_put(unit, table, bulk.keys)
    else:
        unit.event("rows put", await unit.path_of(table), "table", rows=len(fresh))
    return unit.commit


async def put_each(unit: Unit, table: int, puts: Iterable[tuple[bytes, bytes]]) -> int:
    """Puts of (key, columns), each of another row, as one unit. The version of all."""
    of_table = await _table(unit, table)
    writable = await rights.writable_in(unit, of_table.inode)
    fresh: dict[bytes, bytes] = {}
    for key, columns in puts:
        rows.check_key(key)
        assert key not in fresh, key
        fresh[key] = rows.canonical(columns, rows.unpack_columns(columns))
    await _put_rows(unit, table, of_table, writable, fresh, replace=False)
    await _say_put(unit, table, fresh)
    return unit.commit


async def _put_rows(
    unit: Unit,
    table: int,
    of_table: _Table,
    writable: Columns,
    fresh: dict[bytes, bytes],
    *,
    replace: bool,
) -> None:
    """Put checked and packed columns by key, and account for them."""
    if not writable.is_all:
        await _check_rows(unit, table, of_table, writable, fresh)
    head = pack_row(unit.commit, _expires_ms(unit, of_table), b"")
    now = rows.moment(unit.now_ns)
    prefix = keys.rows(table)
    count = size = 0
    wanted = iter(fresh)
    while step := list(islice(wanted, READ_ROWS)):
        stored_keys = [prefix + key for key in step]
        for key, stored_key, old in zip(
            step, stored_keys, await unit.get_many(stored_keys), strict=True
        ):
            value = fresh[key]
            if old is None:
                count += 1
                size += len(key)
            else:
                size -= len(old)
                if rows.is_alive(old, now):
                    if not replace:
                        value = await _merge(unit, table, key, old, value)
                    elif not writable.is_all:
                        kept = rows.pack_columns(_kept(old, writable))
                        kept = pack_row(0, 0, kept)
                        value = await _merge(unit, table, key, kept, value)
            value = head + value
            size += len(value)
            unit.put(stored_key, value)
        if len(fresh) > READ_ROWS:
            await asyncio.sleep(0)
    await unit.account(table, count=count, size_bytes=size)


async def _check_rows(
    unit: Unit, table: int, of_table: _Table, writable: Columns, fresh: dict[bytes, bytes]
) -> None:
    """DENIED, with the row, unless all of these may be put."""
    now = rows.moment(unit.now_ns)
    for key, packed in fresh.items():
        try:
            await rights.check(unit, of_table.inode, writable, rows.unpack_columns(packed))
            if not writable.others:
                old = await unit.get(keys.row(table, key))
                if old is None or not rows.is_alive(old, now):
                    await _check_new(unit, of_table, writable)
        except PlatformError as error:
            raise await _about(unit, table, key, error) from error.__cause__


async def _check_new(unit: Unit, of_table: _Table, writable: Columns) -> None:
    """Who may write some columns alone adds no rows."""
    if not writable.others:
        await unit.allow(of_table.inode, Verb.WRITE)


def _kept(old: bytes, writable: Columns) -> rows.Columns:
    """The columns of a stored row that are not replaced."""
    return {name: v for name, v in rows.columns_of(old).items() if not writable.allows(name)}


async def _say_put(unit: Unit, table: int, put: Iterable[bytes]) -> None:
    path = await unit.path_of(table)
    for key in put:
        unit.event("row put", path, "table", key=key)


async def delete(
    unit: Unit,
    table: int,
    key: bytes,
    columns: Collection[str] = (),
    *,
    if_version: int | None = None,
) -> bool:
    """Delete a row, or some of its columns; whether there was anything to delete."""
    of_table = await _table(unit, table)
    writable = await rights.writable_in(unit, of_table.inode)
    if if_version is not None:
        await rights.readable_in(unit, of_table.inode)
    try:
        rows.check_key(key)
        await rights.check(unit, of_table.inode, writable, columns or writable.denied)
        if not columns:
            await _check_new(unit, of_table, writable)
        stored_key = keys.row(table, key)
        old = await unit.get(stored_key)
        alive = old if old is not None and _is_alive(unit, old) else None
        if if_version is not None:
            _check_version(alive, if_version)
        if alive is None:
            return False
        left = rows.columns_of(alive) if columns else {}
    except PlatformError as error:
        raise await _about(unit, table, key, error) from error.__cause__
    path = await unit.path_of(table)
    if not columns:
        unit.delete(stored_key)
        await unit.account(table, count=-1, size_bytes=-stored_bytes(key, alive))
        unit.event("row deleted", path, "table", key=key)
        return True
    gone = [name for name in dict.fromkeys(columns) if name in left]
    if not gone:
        return False
    for name in gone:
        del left[name]
    await _write(unit, table, of_table, key, rows.pack_columns(left), alive)
    unit.event("columns deleted", path, "table", key=key, columns=gone)
    return True


async def increment(
    unit: Unit, table: int, key: bytes, column: str, amount: int | float
) -> tuple[int, int | float]:
    """Add to a column; (version, value after). A row or column that is not there counts from 0.

    An integer stays one as long as integers are added. INVALID if the column is not a number, or
    beyond 64 bits.
    """
    of_table = await _table(unit, table)
    writable = await rights.writable_in(unit, of_table.inode)
    readable = await rights.readable_in(unit, of_table.inode)  # the sum is told
    try:
        rows.check_key(key)
        rows.check_name(column)
        await rights.check(unit, of_table.inode, writable, [column])
        await rights.check(unit, of_table.inode, readable, [column], Verb.READ)
        old = await unit.get(keys.row(table, key))
        if old is None or not _is_alive(unit, old):
            await _check_new(unit, of_table, writable)
        row = rows.columns_of(old) if old is not None and _is_alive(unit, old) else {}
        total = row[column] = rows.add(row.get(column), amount, column)
        rows.check_count(row)
        packed = rows.pack_columns(row)
        rows.check_size(packed)
    except PlatformError as error:
        raise await _about(unit, table, key, error) from error.__cause__
    await _write(unit, table, of_table, key, packed, old)
    unit.event("row incremented", await unit.path_of(table), "table", key=key, column=column)
    return unit.commit, total


async def expect_version(unit: Unit, table: int, key: bytes, version: int) -> None:
    """A transaction's precondition on a row: this version, or 0 for not being there."""
    of_table = await _table(unit, table)
    await rights.readable_in(unit, of_table.inode)
    try:
        rows.check_key(key)
        old = await unit.get(keys.row(table, key))
        _check_version(old if old is not None and _is_alive(unit, old) else None, version)
    except PlatformError as error:
        raise await _about(unit, table, key, error) from error.__cause__


def stored_bytes(key: bytes, value: bytes) -> int:
    """What a row counts for in its table's account: its key (without ours) and stored value."""
    return len(key) + len(value)


# ---------------------------------------------------------------- the parts of a write


class _Table(NamedTuple):
    """What an operation needs of a table's inode."""

    kind: int
    links: int
    ttl_ms: int
    inode: Inode  # not to be changed: it may be kept

    @classmethod
    def of(cls, inode: Inode) -> _Table:
        return cls(inode.kind, inode.links, inode.settings.get("ttl_ms", 0), inode)


@lru_cache(maxsize=1024)
def _unpack_table(inode: bytes) -> _Table:
    """Of a stored inode. Every operation asks for the same one, so it is known by its bytes."""
    return _Table.of(Inode.unpack(inode))


async def _table(unit: Unit, number: int) -> _Table:
    value = await unit.get(keys.inode(number))
    table: _Table | None
    if value:
        table = _unpack_table(value)
    else:  # missing, or saved by this very unit and not packed yet
        inode = await unit.find_inode(number)
        table = _Table.of(inode) if inode is not None else None
    if table is None or table.links == 0:
        raise NotFound("the table is gone", inode=number)
    if table.kind != Kind.TABLE:
        raise Invalid("not a table", path=await unit.path_of(number))
    return table


def _is_alive(unit: Unit, value: bytes) -> bool:
    _, expires_ms = row_head(value)
    return not expires_ms or expires_ms > unit.now_ns // 1_000_000


def _expires_ms(unit: Unit, table: _Table) -> int:
    """When a row of this table that is written now expires; 0: never."""
    return unit.now_ns // 1_000_000 + table.ttl_ms if table.ttl_ms > 0 else 0


def _check_version(alive: bytes | None, wanted: int) -> None:
    found = row_head(alive)[0] if alive is not None else 0
    if found != wanted:
        raise Conflict("the row has another version", version=found, expected=wanted)


async def _write(
    unit: Unit, number: int, table: _Table, key: bytes, packed: bytes, old: bytes | None
) -> None:
    """Put the row and account for it; `old` is what was stored under the key."""
    value = pack_row(unit.commit, _expires_ms(unit, table), packed)
    unit.put(keys.row(number, key), value)
    if old is None:
        await unit.account(number, count=1, size_bytes=stored_bytes(key, value))
    else:
        await unit.account(number, size_bytes=len(value) - len(old))


async def _about(unit: Unit, table: int, key: bytes, error: PlatformError) -> PlatformError:
    """The same error, saying which row it is about."""
    facts = {"table": await unit.path_of(table), "key": key, **error.facts}
    return PlatformError(error.kind, error.message, **facts)


async def _merge(unit: Unit, table: int, key: bytes, old: bytes, fresh: bytes) -> bytes:
    try:
        return rows.merged_packed(old, fresh)
    except PlatformError as error:
        raise await _about(unit, table, key, error) from error.__cause__


async def _read_bulk(unit: Unit, table: int, data: bytes, replace: bool) -> rows.BulkRows:
    """What each row of a `put_many` is to be, read to the end."""
    bulk = rows.BulkRows(data, replace=replace)
    while bulk.more:
        try:
            bulk.read(STEP_ROWS)
        except PlatformError as error:
            raise await _about(unit, table, bulk.key, error) from error.__cause__
        await asyncio.sleep(0)
    return bulk


# ---------------------------------------------------------------- reading


async def _check_table(volume: Volume, number: int, inode: bytes | None) -> Inode:
    table = _unpack_table(inode) if inode is not None else None
    if table is None or table.links == 0:
        raise NotFound("the table is gone", inode=number)
    if table.kind != Kind.TABLE:
        raise Invalid("not a table", path=await volume.path_of(number))
    return table.inode


async def get_many(
    volume: Volume,
    table: int,
    wanted: Sequence[bytes],
    columns: Collection[str] = (),
    request: Request = SYSTEM,
) -> bytes:
    """Rows by their keys, in that order, as a rows page; those that are not there are left out,
    and so are columns that the request's principal may not read. DENIED if that is all of them.

    EXHAUSTED if they are more than one reply holds: ask for fewer.
    """
    if len(wanted) > PAGE_ENTRIES_MAX:
        raise Invalid("too many keys in one request", keys_max=PAGE_ENTRIES_MAX)
    engine = volume.storage.engine
    prefix = keys.rows(table)
    stored_keys = [keys.inode(table)]
    stored_keys += [prefix + key for key in wanted if 0 < len(key) <= ROW_KEY_BYTES_MAX]
    now = rows.moment(volume.clock.now_ns())
    parts: list[bytes] = []
    chosen, hidden = columns or None, _NO_COLUMNS
    size = 0
    for start in range(0, len(stored_keys), READ_ROWS):
        step = stored_keys[start : start + READ_ROWS]
        values = await engine.get_many(step)
        if start == 0:
            inode = await _check_table(volume, table, values[0])
            if not request.principal.is_free:
                readable = await rights.readable(volume, inode, request)
                if not readable.is_all:
                    chosen, hidden = readable.chosen(columns)
            del step[0], values[0]
        pairs = [(k, v) for k, v in zip(step, values, strict=True) if v is not None]
        if chosen is not None or hidden:
            data, _, _ = rows.selected(pairs, now, chosen, None, len(pairs), hidden)
        else:
            data = rows.page(pairs, now)
        parts.append(data)
        size += len(data)
        if size > REPLY_BYTES_MAX:
            raise Exhausted(
                "these rows are too much for one reply: ask for fewer keys",
                table=await volume.path_of(table),
                bytes_max=REPLY_BYTES_MAX,
            )
    return b"".join(parts)


class Page(NamedTuple):
    """A part of a scan. It may hold no row and still not be the last."""

    data: bytes  # a rows page
    end: bool  # nothing follows
    next: bytes  # otherwise: the start of the next part; in reverse its end


async def scan(
    volume: Volume,
    table: int,
    *,
    start: bytes = b"",
    end: bytes | None = None,
    columns: Collection[str] = (),
    where: str = "",
    limit: int = 0,
    reverse: bool = False,
    request: Request = SYSTEM,
) -> Page:
    """Rows with start <= key < end (None: to the last), ascending, or descending from the end.

    At most `limit` rows (0: by size). `columns`: only these (none: all); `where`: only rows that
    match, see `filters`. The whole page is one moment, however many pages the scan takes.

    Columns that the request's principal may not read are left out; DENIED if that is all of them,
    or if `where` looks at one.
    """
    test = filters.parse(where) if where else None
    limit = min(limit or PAGE_ENTRIES_MAX, PAGE_ENTRIES_MAX)
    pairs_max = limit if test is None else max(limit, STEP_ROWS)
    engine = volume.storage.engine
    inode = await _check_table(volume, table, await engine.get(keys.inode(table)))
    readable = await rights.readable(volume, inode, request)
    chosen, hidden = columns or None, _NO_COLUMNS
    if not readable.is_all:
        chosen, hidden = readable.chosen(columns)
        if where:
            named = sorted(filters.columns_of(where))
            await rights.check_read(volume, request, inode, readable, named)
    first = keys.row(table, start)
    last = keys.row(table, end) if end is not None else keys.after_prefix(keys.rows(table))
    if first >= last:
        return Page(b"", True, b"")
    pairs = await engine.scan(first, last, reverse=reverse, limit=pairs_max, size_bytes=PAGE_BYTES)
    now = rows.moment(volume.clock.now_ns())
    looked_at = len(pairs)
    if chosen is not None or hidden or test is not None:
        data, looked_at = await _choose(pairs, now, chosen, hidden, test, limit)
    else:
        data = rows.page(pairs, now)
    if looked_at == len(pairs) and not _was_cut(pairs, pairs_max):
        return Page(data, True, b"")
    key = keys.name_of(pairs[looked_at - 1][0])
    return Page(data, False, key if reverse else key + b"\x00")


async def _choose(
    pairs: list[Pair],
    now: bytes,
    columns: Collection[str] | None,
    hidden: Collection[str],
    test: rows.Test | None,
    limit: int,
) -> tuple[bytes, int]:
    """(rows page, pairs looked at); other requests get their turn in between."""
    parts: list[bytes] = []
    found = looked_at = 0
    while looked_at < len(pairs) and found < limit:
        if looked_at:
            await asyncio.sleep(0)
        step = pairs[looked_at : looked_at + STEP_ROWS]
        data, count, looked_at_here = rows.selected(step, now, columns, test, limit - found, hidden)
        parts.append(data)
        found += count
        looked_at += looked_at_here
    return b"".join(parts), looked_at


def _was_cut(pairs: list[Pair], pairs_max: int) -> bool:
    """Whether the engine ended the page before the range ended."""
    if len(pairs) >= pairs_max:
        return True
    return sum(map(len, chain.from_iterable(pairs))) >= PAGE_BYTES


async def statistics(volume: Volume, table: int) -> Statistics:
    """How many rows, and their bytes; those that expired count until they are swept."""
    value = await volume.storage.engine.get(keys.statistics(table))
    return Statistics.unpack(value) if value is not None else Statistics()
