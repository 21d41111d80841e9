"""What rows that come from a mirror's source change in memory: caches of clients, verdicts, paths,
quotas, and those who wait for records.

A unit of an ordinary volume says such things as it does them; here they are found out, by what the
inodes were before.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...keyspace import keys
from ...keyspace.records import DirectoryQuota, Inode, Kind, Partition
from ..units import Unit

_PATHS = (Kind.DIRECTORY, Kind.TABLE, Kind.STREAM)

Rows = Mapping[bytes, bytes | None]


async def note(unit: Unit, rows: Rows) -> None:
    """Before the unit holds the rows: `unit.get` still tells what was."""
    by_letter: dict[bytes, list[bytes]] = {}
    for key in rows:
        by_letter.setdefault(key[:1], []).append(key)
    await _note_inodes(unit, rows, by_letter.get(keys.INODE, []))
    await _note_partitions(unit, rows, by_letter.get(keys.PARTITION, []))
    _note_quotas(unit, rows, by_letter.get(keys.QUOTA, []))
    statistics = [keys.number_of(key) for key in by_letter.get(keys.STATISTICS, [])]
    if statistics:
        unit.on_commit(lambda _: _forget_statistics(unit, statistics))


async def _note_inodes(unit: Unit, rows: Rows, changed: list[bytes]) -> None:
    for key, packed in zip(changed, await unit.get_many(changed), strict=True):
        value = rows[key]
        old = Inode.unpack(packed) if packed is not None else None
        new = Inode.unpack(value) if value is not None else None
        if old is not None:
            _note_change(unit, old, new)
        if new is not None and value is not None:
            unit.adopt(new, value)


def _note_change(unit: Unit, old: Inode, new: Inode | None) -> None:
    if new is None or (old.links and not new.links):
        unit.unlinked.append(old.number)
    if old.kind == Kind.FILE and (new is None or new.size != old.size):
        unit.resized.append(old.number)
    is_elsewhere = new is None or (old.parent, old.name) != (new.parent, new.name)
    if new is None or new.access != old.access:
        if old.access or (new is not None and new.access):
            unit.change_rules()
    elif old.kind == Kind.DIRECTORY and (
        is_elsewhere or (old.mode, old.uid, old.gid) != (new.mode, new.uid, new.gid)
    ):
        unit.move_rules()
    if old.kind == Kind.DIRECTORY and new is None:
        unit.move_rules()
    if is_elsewhere and old.kind in _PATHS and not unit.renames:
        unit.renames = True
        unit.on_commit(lambda _: unit.volume.paths.clear())


async def _note_partitions(unit: Unit, rows: Rows, changed: list[bytes]) -> None:
    partitions = unit.volume.partitions
    for key, packed in zip(changed, await unit.get_many(changed), strict=True):
        place = (keys.number_of(key), *keys.topic_and_partition_of(key))
        value = rows[key]
        if value is None:
            unit.on_commit(lambda _, gone=place: partitions.forget([gone]))  # type: ignore[misc]
            continue
        end = Partition.unpack(value).next_offset
        before = Partition.unpack(packed).next_offset if packed is not None else 0
        if end < before:  # another line of commits
            unit.on_commit(lambda _, cut=place: partitions.forget([cut]))  # type: ignore[misc]
        elif end > before:
            partitions.pin(place, before)
            unit.on_commit(
                lambda ticket, grown=place, to=end: partitions.committed(  # type: ignore[misc]
                    grown, to, ticket
                )
            )


def _note_quotas(unit: Unit, rows: Rows, changed: list[bytes]) -> None:
    if not changed:
        return
    quotas = unit.volume.quotas

    def committed(_: int) -> None:
        is_other = False
        for key in changed:
            number, value = keys.number_of(key), rows[key]
            if value is None:
                is_other |= quotas.directories.pop(number, None) is not None
            else:
                is_other |= number not in quotas.directories
                quotas.directories[number] = DirectoryQuota.unpack(value)
        if is_other:
            quotas.changed()

    unit.on_commit(committed)


def _forget_statistics(unit: Unit, numbers: list[int]) -> None:
    for number in numbers:
        unit.volume.statistics.pop(number, None)
