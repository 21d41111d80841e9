"""Nodes as the kernel wants them: packed once, kept with the node until it changes."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from ..nodes import VIEW_BIT, type_bits
from ..rights import widened
from . import kernel

if TYPE_CHECKING:
    from ..listings import Item
    from ..nodes import Node

VALID_S = 24 * 3600
"""How long the kernel keeps what the server promised to tell changes of."""

BLOCK_BYTES = 4096
SECTOR_BYTES = 512
NS = 1_000_000_000


def attributes(node: Node) -> bytes:
    """struct fuse_attr."""
    packed = node.packed
    if packed is None:
        bits = type_bits(node.kind)
        mode = node.mode
        links = node.links
        if node.view is not None and not node.number & VIEW_BIT:
            mode |= (mode & 0o444) >> 2  # tables and streams: who may read may enter
            links = 2
        if node.governed:
            mode = widened(
                mode,
                node.governed,
                is_directory=bits == stat.S_IFDIR,
                is_view=node.view is not None or bool(node.number & VIEW_BIT),
            )
        size = node.size
        packed = node.packed = kernel.ATTRIBUTES.pack(
            node.number,
            size,
            -(-node.used_bytes // SECTOR_BYTES),
            node.atime_ns // NS,
            node.mtime_ns // NS,
            node.ctime_ns // NS,
            node.atime_ns % NS,
            node.mtime_ns % NS,
            node.ctime_ns % NS,
            bits | mode,
            links,
            node.uid,
            node.gid,
            node.rdev,
            BLOCK_BYTES,
            0,
        )
    return packed


def entry(node: Node, name_valid_s: int) -> bytes:
    """struct fuse_entry_out."""
    valid_s = VALID_S if node.known and node.promised else 0
    return kernel.ENTRY_OUT.pack(node.number, 0, name_valid_s, valid_s, 0, 0) + attributes(node)


def no_entry(name_valid_s: int) -> bytes:
    """There is no such name, and the kernel may remember that."""
    return kernel.ENTRY_OUT.pack(0, 0, name_valid_s, 0, 0, 0) + bytes(kernel.ATTRIBUTES.size)


_NO_ENTRY = bytes(kernel.ENTRY_OUT.size + kernel.ATTRIBUTES.size)
_PADDING = [bytes(n) for n in range(8)]


def directory_page(
    items: list[Item], position: int, size: int, *, plus: bool, name_valid_s: int
) -> bytes:
    """As many entries as fit; `position` is the first one's."""
    parts: list[bytes] = []
    used = 0
    pack = kernel.DIRECTORY_ENTRY.pack
    fixed = kernel.DIRECTORY_ENTRY.size + (len(_NO_ENTRY) if plus else 0)
    for item in items:
        name = item.name
        length = len(name)
        padding = -(fixed + length) % 8
        used += fixed + length + padding
        if used > size:
            break
        position += 1
        if plus:
            node = item.node
            parts.append(_NO_ENTRY if node is None else entry(node, name_valid_s))
        parts.append(pack(item.number, position, length, item.type_bits >> 12))
        parts.append(name)
        if padding:
            parts.append(_PADDING[padding])
    return b"".join(parts)
