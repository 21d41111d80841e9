"""What the wire says about a name, as the values that users get."""

from __future__ import annotations

from ..api import platform_pb2 as pb
from .paths import join
from .values import Entry, Stat

KINDS: dict[int, str] = {number: name.lower() for name, number in pb.Kind.items() if number}


def durability(durable: bool | None) -> pb.Durability:
    """None: as is customary for what is written (D5); True: on disk; False: within a second."""
    if durable is None:
        return pb.CUSTOMARY
    return pb.DURABLE if durable else pb.LAZY


def stat_of(node: pb.Node) -> Stat:
    return Stat(
        kind=KINDS.get(node.kind, "unknown"),
        size=node.size,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        links=node.links,
        volume=node.volume,
        inode=node.inode,
        version=node.version,
        atime_ns=node.atime_ns,
        mtime_ns=node.mtime_ns,
        ctime_ns=node.ctime_ns,
        birth_ns=node.birth_ns,
        rdev=node.rdev,
        symlink=node.symlink,
        used_bytes=node.used_bytes,
        volume_root=node.volume_root,
        as_of_ns=node.as_of_ns,
    )


def entry_of(node: pb.Node, directory: str) -> Entry:
    return Entry(
        kind=KINDS.get(node.kind, "unknown"),
        size=node.size,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        links=node.links,
        volume=node.volume,
        inode=node.inode,
        version=node.version,
        atime_ns=node.atime_ns,
        mtime_ns=node.mtime_ns,
        ctime_ns=node.ctime_ns,
        birth_ns=node.birth_ns,
        rdev=node.rdev,
        symlink=node.symlink,
        used_bytes=node.used_bytes,
        volume_root=node.volume_root,
        as_of_ns=node.as_of_ns,
        name=node.name,
        path=join(directory, node.name),
    )
