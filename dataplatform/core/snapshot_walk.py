"""Where a walk along a path enters a snapshot: see `snapshot_names` for what is a name of one.

A walk stops at a name that does not exist. If the name means a snapshot, the walk goes on there; in
a snapshot there is no way to another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..keyspace.records import ROOT_INODE, Entry, Kind
from .paths import Place
from .snapshot_names import AT, SNAPSHOT_NAME, snapshots_of
from .volumes import Volume

if TYPE_CHECKING:
    from .platform import Platform
    from .snapshots import Snapshot


class Entered(NamedTuple):
    """Where a walk goes on: in a volume, which is in use once more, from an inode along names. If
    there are none, it has ended at the place."""

    volume: Volume
    start: int
    names: tuple[str, ...]
    place: Place


async def enter(
    platform: Platform, volume: Volume, place: Place, *, at_names: bool
) -> Entered | None:
    """Of a place whose next name does not exist in the volume; None if that means no snapshot.
    Without `at_names`, a name with an `@` is one like others."""
    if volume.source is not None:
        return None
    name, *rest = place.rest
    if name == SNAPSHOT_NAME:
        return await _enter_directory(platform, volume, place, rest)
    if AT not in name or not at_names:
        return None
    base, _, snapshot = name.rpartition(AT)
    if not base:
        return await _enter_directory(platform, volume, place, [snapshot, *rest])
    return await _enter_name(platform, volume, place, base, snapshot, rest)


async def _enter_directory(
    platform: Platform, volume: Volume, place: Place, rest: list[str]
) -> Entered | None:
    """`.snapshot` in a directory, and the names behind it."""
    number = snapshots_of(place.directory)
    if not rest:
        found = Place(place.directory, place.name, number, Kind.DIRECTORY)
        return Entered(await platform.acquire(volume.id), 0, (), found)
    name, *names = rest
    taken = platform.snapshots.find_name(volume.id, name)
    if taken is None or place.directory >= taken.record.next_inode:
        missing = Place(number, name.encode(), 0, 0, tuple(rest))
        return Entered(await platform.acquire(volume.id), 0, (), missing)
    then = platform.hold(taken.record.number)
    if then is None:
        then = await platform.acquire(taken.number)
    if names:
        return Entered(then, place.directory, tuple(names), place)
    found = Place(number, name.encode(), place.directory, Kind.DIRECTORY)
    return Entered(then, place.directory, (), found)


async def _enter_name(
    platform: Platform, volume: Volume, place: Place, base: str, name: str, rest: list[str]
) -> Entered | None:
    """`base@name` in a directory."""
    entry = await volume.find_entry(place.directory, base.encode())
    taken: Snapshot | None
    if entry is not None and entry.volume:  # a volume is mounted there: it has its own
        taken = platform.snapshots.find_name(entry.volume, name)
        if taken is None:
            return None
        then = await platform.acquire(taken.number)
        return Entered(then, ROOT_INODE, tuple(rest), _root_of(place, Kind.DIRECTORY))
    taken = platform.snapshots.find_name(volume.id, name)
    if taken is None:
        return None
    then = await platform.acquire(taken.number)
    try:
        was: Entry | None = None
        if place.directory < taken.record.next_inode:
            was = await then.find_entry(place.directory, base.encode())
        if was is not None:
            return Entered(then, place.directory, (base, *rest), place)
        inode = await then.find_inode(entry.inode) if entry is not None else None
        if inode is not None:
            there = Place(place.directory, place.name, inode.number, inode.kind)
            return Entered(then, inode.number, tuple(rest), there)
    except BaseException:
        platform.release(then)
        raise
    platform.release(then)
    return None


def _root_of(place: Place, kind: int) -> Place:
    return Place(place.directory, place.name, ROOT_INODE, kind)
