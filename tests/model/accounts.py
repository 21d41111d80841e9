"""What the rows of a volume say about each other, counted anew from nothing but the key table.

A second opinion beside `dataplatform.core.check`, which is written by other hands: slow, simple,
and without any of the core's code.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from dataplatform.core import change_log, extents
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ROOT_INODE,
    DirectoryQuota,
    Entry,
    Inode,
    Kind,
    Piece,
    Segment,
    Statistics,
    StoredBatch,
    VolumeState,
)

NAMED_ONCE = (Kind.DIRECTORY, Kind.TABLE, Kind.STREAM)

Name = tuple[int, bytes]


async def assert_accounts(volume: Volume) -> None:
    """Every count is what the rows add up to, and every byte referred to is there."""
    rows: dict[bytes, dict[bytes, bytes]] = defaultdict(dict)
    async for key, value in scan_all(volume.storage.engine, b"\x00", b"\xff"):
        rows[key[:1]][key] = value
    inodes = {keys.number_of(k): Inode.unpack(v) for k, v in rows[keys.INODE].items()}
    names = _names(rows, inodes)
    _check_tree(rows, inodes, names)
    _check_pieces(rows, inodes)
    _check_usage(volume, rows, inodes)
    _check_quotas(volume, rows, inodes)
    await _check_segments(volume, rows)
    commits = [keys.number_of(k) for k in rows[keys.CHANGE]]
    # Rows from before the volume was restored go bit by bit.
    cut, oldest = change_log.last_cut(volume), volume.state.oldest_change
    commits = [commit for commit in commits if commit > cut or commit >= oldest]
    assert commits == list(range(volume.state.oldest_change, volume.state.commit + 1))


def _names(rows: dict[bytes, dict[bytes, bytes]], inodes: dict[int, Inode]) -> dict[int, set[Name]]:
    names: dict[int, set[Name]] = defaultdict(set)
    for key, value in rows[keys.ENTRY].items():
        entry = Entry.unpack(value)
        inode = inodes[entry.inode]
        assert (inode.kind, inode.volume) == (entry.kind, entry.volume), key
        assert inodes[keys.number_of(key)].kind == Kind.DIRECTORY, key
        names[entry.inode].add((keys.number_of(key), keys.name_of(key)))
    return names


def _check_tree(
    rows: dict[bytes, dict[bytes, bytes]], inodes: dict[int, Inode], names: dict[int, set[Name]]
) -> None:
    sizes = Counter(keys.number_of(k) for k in rows[keys.ENTRY])
    subdirectories: Counter[int] = Counter()
    further = set(rows[keys.LINK])
    orphans = {keys.number_of(k) for k in rows[keys.ORPHAN]}
    for number, inode in inodes.items():
        assert inode.number == number
        if number == ROOT_INODE:
            assert not inode.parent
            continue
        if not names[number]:
            assert inode.links == 0, inode
            assert number in orphans, inode
            continue
        # A directory that is marked goes with all below it.
        assert number not in orphans or inode.is_directory, inode
        first = (inode.parent, inode.name)
        assert first in names[number], inode
        others = {keys.link(number, *name) for name in names[number] - {first}}
        assert {k for k in further if keys.number_of(k) == number} == others, inode
        further -= others
        if inode.kind == Kind.DIRECTORY:
            subdirectories[inode.parent] += 1
        if inode.kind in NAMED_ONCE:
            assert not others, inode
        _check_reaches_root(inode, inodes)
    assert not further
    assert orphans <= set(inodes)
    for number, inode in inodes.items():
        if inode.kind == Kind.DIRECTORY:
            assert inode.size == sizes[number], inode
            is_gone = number in orphans and not names[number]
            assert inode.links == (0 if is_gone else 2 + subdirectories[number]), inode
        elif inode.links:
            assert inode.links == len(names[number]), inode
    for key in rows[keys.XATTR]:
        assert keys.number_of(key) in inodes, key


def _check_reaches_root(inode: Inode, inodes: dict[int, Inode]) -> None:
    for _ in inodes:
        if inode.number == ROOT_INODE:
            return
        inode = inodes[inode.parent]
    raise AssertionError(f"not below the root: {inode}")


def _check_pieces(rows: dict[bytes, dict[bytes, bytes]], inodes: dict[int, Inode]) -> None:
    used: Counter[int] = Counter()
    ends: dict[int, int] = defaultdict(int)
    for key, value in rows[keys.PIECE].items():
        number = keys.number_of(key)
        piece = Piece.unpack(keys.last_number_of(key), value)
        assert piece.length > 0
        assert piece.offset >= ends[number], f"pieces of inode {number} overlap at {piece.offset}"
        ends[number] = piece.end
        used[number] += piece.length
    for number, end in ends.items():
        inode = inodes[number]
        assert inode.kind == Kind.FILE
        assert end <= inode.size, f"a piece lies beyond the end: {inode}"
    for number, inode in inodes.items():
        if inode.links:
            assert inode.used_bytes == used[number], inode


def _check_usage(
    volume: Volume, rows: dict[bytes, dict[bytes, bytes]], inodes: dict[int, Inode]
) -> None:
    assert VolumeState.unpack(rows[keys.META][keys.STATE_KEY]) == volume.state
    statistics = {keys.number_of(k): Statistics.unpack(v) for k, v in rows[keys.STATISTICS].items()}
    named = [i for i in inodes.values() if i.links and i.number != ROOT_INODE]
    used = sum(i.used_bytes for i in named)
    used += sum(statistics[i.number].size_bytes for i in named if i.number in statistics)
    assert volume.state.used_bytes == used
    assert volume.state.entries == len(named)
    assert volume.state.next_inode > max(inodes)


def _check_quotas(
    volume: Volume, rows: dict[bytes, dict[bytes, bytes]], inodes: dict[int, Inode]
) -> None:
    stored = {keys.number_of(k): DirectoryQuota.unpack(v) for k, v in rows[keys.QUOTA].items()}
    assert stored == volume.quotas.directories
    assert not volume.quotas.moving
    for number, quota in stored.items():
        assert inodes[number].kind == Kind.DIRECTORY
        assert inodes[number].links
        below = [i for i in inodes.values() if i.links and _is_below(i, number, inodes)]
        used = sum(i.used_bytes for i in below)
        for inode in below:
            value = rows[keys.STATISTICS].get(keys.statistics(inode.number))
            used += Statistics.unpack(value).size_bytes if value is not None else 0
        assert (quota.used_bytes, quota.entries) == (used, len(below)), f"quota of {number}"
    if not volume.writeback:
        held = {account: volume.quotas.held_bytes(account) for account in (0, *stored)}
        assert not any(held.values()), f"held for nobody: {held}"


def _is_below(inode: Inode, directory: int, inodes: dict[int, Inode]) -> bool:
    while inode.parent:
        if inode.parent == directory:
            return True
        inode = inodes[inode.parent]
    return False


async def _check_segments(volume: Volume, rows: dict[bytes, dict[bytes, bytes]]) -> None:
    live: Counter[int] = Counter()
    references = set()
    for key, value in [*rows[keys.PIECE].items(), *rows[keys.BATCH].items()]:
        if key[:1] == keys.PIECE:
            piece = Piece.unpack(keys.last_number_of(key), value)
            extent, length = piece.extent, piece.length
        else:
            batch = StoredBatch.unpack(value)
            extent = batch.extent
            length = extent.length if extent is not None else 0
        if extent is None:
            continue
        live[extent.segment] += length
        references.add(keys.reference(extent.segment, key))
        data = await extents.read(volume.storage.segments, extent)
        assert len(data) == extent.length
    assert set(rows[keys.REFERENCE]) == references
    segments = {keys.number_of(k): Segment.unpack(v) for k, v in rows[keys.SEGMENT].items()}
    for number in set(segments) | set(live):
        assert segments[number].live_bytes == live[number], f"segment {number}"
    assert set(live) <= set(await volume.storage.segments.sizes())
