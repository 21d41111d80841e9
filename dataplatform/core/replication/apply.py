"""One catch-up of a mirror: from commit N of its source to M, as one batch of the engine.

The batch holds the values at M of all keys that changed in (N, M], with extents of this store, the
accounts of those, the change rows, the source's counters, and the cursor. So at every moment, after
every crash, the mirror is some commit of its source.

Change rows are shipped as long as they are few. Of a million overwrites of the same rows only the
values are worth shipping: then the mirror's change log begins anew at its end (who reads it from
before is told STALE).

A volume that becomes the mirror of another one with which it has a common past (failback) begins at
the last common commit: what either side changed since is brought to what the source has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ...base.errors import Conflict, Exhausted, Stale
from ...base.limits import GIB, MIB
from ...engine.base import scan_all
from ...keyspace import keys
from ...keyspace.records import ChangeRow, MirrorCursor, VolumeSettings, VolumeState
from ..units import Unit
from ..volumes import Volume
from . import effects, incoming
from .incoming import Counts, Incoming, Rows, named, source_of
from .seam import REFERRING, Described, Pin, deltas, is_told

ROWS_MAX = 100_000
VALUE_BYTES_MAX = 32 * MIB
EXTENT_BYTES_MAX = GIB
"""What one batch takes; more is made in a storage aside."""

CHANGES_MAX = 100_000
CHANGE_BYTES_MIN, CHANGE_BYTES_MAX = MIB, 16 * MIB
CHANGE_SHARE = 8
"""Change rows that are shipped with a catch-up: no more than so many times the bytes of the values.
If there are more, only the last CHANGES_KEPT."""

CHANGES_KEPT = 1_000

TRIM_ROWS = 10_000
"""Change rows that one batch of a trim deletes."""

TRIM_ROWS_MAX = 50_000
"""As many are trimmed after a catch-up."""


T = TypeVar("T")


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Do it to its end even when the caller is cancelled: an engine whose batch was cut short is
    broken."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


class TooLarge(Exhausted):
    """More than one batch takes: see `copying`."""


@dataclass(frozen=True, slots=True)
class Base:
    """From where a catch-up begins: commit `since` of the source's line. `own`: keys that this
    volume changed in commits of its own, which are discarded."""

    since: int
    own: Sequence[bytes] = ()
    is_turn: bool = False  # the volume is no mirror of this source yet


@dataclass(slots=True)
class Log:
    """Change rows to write. From `oldest` on the mirror has all; None: as far back as it had."""

    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    oldest: int | None = None


async def catch_up(volume: Volume, pin: Pin, base: Base, counts: Counts | None = None) -> Counts:
    """Bring the mirror from `base` to the commit of the pin, durably; what was shipped.

    EXHAUSTED: the volume's quota is too small. TooLarge: nothing was done. STALE: the source does
    not know any more what changed since. CONFLICT: it was promoted, or moved on, meanwhile.
    """
    counts = Counts() if counts is None else counts
    check_quota(volume.settings, pin.described)
    at = volume.state.commit
    with volume.holds.pin():
        rows = await _changed(pin, base)
        coming = Incoming(volume, source_of(pin.described), counts)
        local = await coming.localize(pin, rows)
        await coming.sync()
        changes = await log_of(pin, base.since, counts)
        if changes.oldest is not None and not base.is_turn:
            await trim(volume, base.since + 1)
        own_log = await own_changes(volume, base.since) if base.is_turn else {}

        async def work(unit: Unit) -> VolumeState:
            _check_place(volume, at, base)
            if base.is_turn:
                await _turn(unit, own_log)
            await effects.note(unit, local)
            await incoming.write(unit, local, coming)
            unit.writes.update(changes.rows)
            oldest = volume.state.oldest_change
            if changes.oldest is not None:
                oldest = changes.oldest
                if base.is_turn:
                    await _cut_log(unit, base.since)
            return arrive(unit, pin.described, oldest)

        await whole(volume.lane.apply(work, durable=True))
    oldest = min(pin.described.oldest_change, pin.commit)
    await trim(volume, oldest, rows_max=TRIM_ROWS_MAX)
    return counts


def check_quota(settings: VolumeSettings, described: Described) -> None:
    """EXHAUSTED (EDQUOT) unless what the source holds fits into the mirror's quota."""
    state = described.state
    for quota, used, what in (
        (settings.quota_bytes, state.used_bytes, "bytes"),
        (settings.quota_entries, state.entries, "entries"),
    ):
        if 0 < quota < used:
            raise Exhausted(
                f"the source holds more {what} than the mirror's quota allows: raise it with "
                "`dp volume set`",
                quota=quota,
                source=used,
                errno=122,
            )


def _check_place(volume: Volume, at: int, base: Base) -> None:
    if not volume.settings.mirror:
        raise Conflict("the mirror was promoted meanwhile", volume=volume.id)
    if volume.state.commit != at or (not base.is_turn and at != base.since):
        raise Conflict("the mirror has moved on meanwhile", volume=volume.id)


async def _changed(pin: Pin, base: Base) -> dict[bytes, bytes | None]:
    """The values at the pin of what changed on either side. STALE, TooLarge."""
    rows: dict[bytes, bytes | None] = {}
    size = _Size()
    async for page in deltas(pin, base.since):
        rows.update(page)
        size.add(dict(page))
    missing = [key for key in base.own if key not in rows]
    for start in range(0, len(missing), 1000):
        part = missing[start : start + 1000]
        found = dict(zip(part, await pin.values(part), strict=True))
        rows.update(found)
        size.add(found)
    return rows


class _Size:
    """Of a batch that is being gathered."""

    def __init__(self) -> None:
        self._rows = self._value_bytes = self._extent_bytes = 0

    def add(self, rows: Rows) -> None:
        """TooLarge."""
        self._rows += len(rows)
        for key, value in rows.items():
            self._value_bytes += len(key) + len(value or b"")
            if value is not None and key[:1] in REFERRING:
                place = named(key, value)
                self._extent_bytes += place[2] if place is not None else 0
        if (
            self._rows > ROWS_MAX
            or self._value_bytes > VALUE_BYTES_MAX
            or self._extent_bytes > EXTENT_BYTES_MAX
        ):
            raise TooLarge("more has changed than one batch takes")


# ---------------------------------------------------------------- the change log


async def log_of(pin: Pin, since: int, counts: Counts, *, kept_only: bool = False) -> Log:
    """The change rows of (since, M], or the last of them; with `kept_only`, the last of all."""
    budget = max(CHANGE_BYTES_MIN, min(CHANGE_BYTES_MAX, CHANGE_SHARE * counts.value_bytes))
    if kept_only:
        since = max(pin.described.oldest_change - 1, pin.commit - CHANGES_KEPT)
    elif pin.commit - since <= CHANGES_MAX:
        rows = await _change_rows(pin, since + 1, budget, counts)
        if rows is not None:
            return Log(rows)
    first = max(since + 1, pin.commit - CHANGES_KEPT + 1)
    rows = await _change_rows(pin, first, CHANGE_BYTES_MIN, counts)
    if rows is None:
        last = keys.change(pin.commit)
        rows = {last: (await pin.values([last]))[0]}
        counts.changes += 1
    found = [keys.number_of(key) for key, value in rows.items() if value is not None]
    return Log(rows, min(found, default=pin.commit + 1))


async def _change_rows(
    pin: Pin, first: int, budget: int, counts: Counts
) -> dict[bytes, bytes | None] | None:
    """None if they are more bytes than that."""
    rows: dict[bytes, bytes | None] = {}
    size_bytes = 0
    at, end = keys.change(first), keys.change(pin.commit + 1)
    while page := await pin.scan(at, end, size_bytes=budget):
        rows.update(page)
        size = sum(len(key) + len(value) for key, value in page)
        size_bytes += size
        counts.change_bytes += size
        if size_bytes > budget:
            return None
        at = page[-1][0] + b"\x00"
    counts.changes += len(rows)
    return rows


async def trim(volume: Volume, before: int, *, rows_max: int | None = None) -> None:
    """Delete change rows before a commit. The mirror is the same commit afterwards."""
    left = rows_max
    while volume.state.oldest_change < before and (left is None or left > 0):
        start, end = keys.change(volume.state.oldest_change), keys.change(before)
        page = await volume.storage.engine.scan(start, end, limit=TRIM_ROWS)
        oldest = keys.number_of(page[-1][0]) + 1 if page else before
        await _trim_some(volume, [key for key, _ in page], oldest)
        if left is not None:
            left -= len(page)


async def _trim_some(volume: Volume, rows: list[bytes], oldest: int) -> None:
    async def work(unit: Unit) -> VolumeState:
        for key in rows:
            unit.delete(key)
        return replace(volume.state, oldest_change=max(oldest, volume.state.oldest_change))

    await whole(volume.lane.apply(work, durable=False))


# ---------------------------------------------------------------- where it arrives


def arrive(unit: Unit, described: Described, oldest_change: int) -> VolumeState:
    """Put what says that the volume is this commit of its source; its counters."""
    volume, source = unit.volume, described.settings
    old = volume.settings
    settings = replace(
        old,
        compression=source.compression,
        history=described.history,
        lineage=[[history, commit] for history, commit in described.lineage],
        mirror={name: value for name, value in old.mirror.items() if name != "since"},
    )
    if settings != old:
        unit.put(keys.SETTINGS_KEY, settings.pack())
        unit.on_commit(lambda _: setattr(volume, "settings", settings))
    cursor = MirrorCursor(
        described.history,
        described.commit,
        described.commit_ns,
        unit.now_ns,
        described.time_ns,
    )
    unit.put(keys.MIRROR_CURSOR_KEY, cursor.pack())
    return replace(described.state, oldest_change=oldest_change, over=volume.state.over)


async def cursor_of(volume: Volume) -> MirrorCursor | None:
    """Which commit of its source the mirror is; None: it is none yet."""
    value = await volume.storage.engine.get(keys.MIRROR_CURSOR_KEY)
    return MirrorCursor.unpack(value) if value is not None else None


# ---------------------------------------------------------------- becoming a mirror again


async def own_changes(volume: Volume, since: int) -> dict[bytes, ChangeRow]:
    """The change rows of this volume's own commits after `since`, by key. STALE if some were
    trimmed."""
    if volume.state.commit > since and volume.state.oldest_change > since + 1:
        raise Stale("what this volume changed since was trimmed", since=since)
    if volume.state.commit - since > CHANGES_MAX:
        raise TooLarge("this volume has changed more than one batch takes")
    start, end = keys.change(since + 1), keys.change(volume.state.commit + 1)
    return {
        key: ChangeRow.unpack(value)
        async for key, value in scan_all(volume.storage.engine, start, end)
    }


async def own_keys(volume: Volume, since: int) -> list[bytes]:
    """The keys that this volume's own commits after `since` touched. STALE."""
    touched: set[bytes] = set()
    for row in (await own_changes(volume, since)).values():
        touched.update(key for key in row.keys if is_told(key))
    return sorted(touched)


async def _turn(unit: Unit, own_log: dict[bytes, ChangeRow]) -> None:
    """Discard what belongs to commits that are no more: their change rows, and the replies to
    those who asked for them."""
    for key in own_log:
        unit.delete(key)
    async for key, _ in scan_all(unit.engine, *keys.prefix_range(keys.REPLY)):
        unit.delete(key)
    replies = unit.volume.replies
    unit.on_commit(lambda _: replies.forget_all())
    unit.change_rules()


async def _cut_log(unit: Unit, since: int) -> None:
    """Delete the older change rows: those that follow do not come right behind them."""
    start, end = keys.change(0), keys.change(since + 1)
    async for key, _ in scan_all(unit.engine, start, end):
        unit.writes.setdefault(key, None)
