"""What stands at and below something, whatever the numbers of its inodes: to be compared."""

from __future__ import annotations

from typing import Any

from dataplatform.core import extents
from dataplatform.core.replication.incoming import named
from dataplatform.core.topics import DROPPED
from dataplatform.core.volumes import Volume
from dataplatform.engine.base import scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_INODE, Entry, Inode, Kind, Partition, StoredBatch

Picture = dict[str, Any]

_LETTERS = {
    Kind.FILE: (keys.PIECE,),
    Kind.TABLE: (keys.ROW,),
    Kind.STREAM: (keys.TOPIC, keys.PARTITION, keys.BATCH, keys.PRODUCER, keys.GROUP_OFFSET),
}


async def picture(volume: Volume, number: int = ROOT_INODE) -> Picture:
    """By path from there; buffered writes are flushed before."""
    if not volume.read_only:
        await volume.writeback.flush_all()
    found: Picture = {}
    links: dict[int, str] = {}
    await _add(volume, number, "", found, links)
    return found


async def _add(
    volume: Volume, number: int, path: str, found: Picture, links: dict[int, str]
) -> None:
    engine = volume.storage.engine
    value = await engine.get(keys.inode(number))
    assert value is not None, path
    inode = Inode.unpack(value)
    if number in links:
        found[path] = "link", links[number]
        return
    links[number] = path
    about: dict[str, Any] = {
        name: getattr(inode, name)
        for name in ("kind", "mode", "uid", "gid", "size", "used_bytes", "mtime_ns", "symlink")
    }
    if inode.is_directory and not path:
        del about["mtime_ns"]  # its neighbours may have changed it
    settings = {name: value for name, value in inode.settings.items() if name != DROPPED}
    about |= {"access": inode.access, "settings": settings, "is_root": inode.volume != 0}
    about["rows"] = rows = {}
    for letter in (keys.XATTR, *_LETTERS.get(Kind(inode.kind), ())):
        start, end = keys.prefix_range(letter + number.to_bytes(8, "big"))
        async for key, stored in scan_all(engine, start, end):
            if letter == keys.PARTITION and not Partition.unpack(stored).next_offset:
                continue  # also of a topic that was dropped
            rows[letter + key[9:]] = await _bytes(volume, key, stored)
    found[path] = about
    if inode.is_directory and not inode.volume:
        async for key, stored in scan_all(engine, *keys.prefix_range(keys.entries(number))):
            name = keys.name_of(key).decode("utf-8", "surrogateescape")
            await _add(volume, Entry.unpack(stored).inode, f"{path}/{name}", found, links)


async def _bytes(volume: Volume, key: bytes, stored: bytes) -> Any:
    """The value, with its bytes in the place of an extent."""
    if key[:1] not in (keys.PIECE, keys.BATCH):
        return stored
    place = named(key, stored)
    if place is None:
        return stored
    extent, skip, length = place
    data = bytes(await extents.read(volume.storage.segments, extent))[skip : skip + length]
    if key[:1] == keys.PIECE:
        return data
    return StoredBatch.unpack(stored)._replace(extent=None, data=data)
