"""Extended attributes, and the bytes of files: the map of each file, and every extent read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.errors import Corrupt
from ...base.limits import FILE_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX
from ...keyspace import keys
from ...keyspace.records import Kind, Piece
from . import repairs
from .inodes import UNSURE
from .strays import Strays

if TYPE_CHECKING:
    from .context import Check


async def check_xattrs(check: Check) -> None:
    strays = Strays(check, keys.XATTR)
    async for page in check.pages(keys.XATTR, "extended attributes"):
        for key, value in page:
            check.counts["extended attributes"] += 1
            number, name = keys.number_of(key), keys.name_of(key)
            if strays.is_stray(number):
                continue
            if len(name) > XATTR_NAME_BYTES_MAX or b"\x00" in name:
                path = await check.path_of(number)
                check.add(path, f"an extended attribute cannot have this name: {name!r}")
            if len(value) > XATTR_VALUE_BYTES_MAX:
                path = await check.path_of(number)
                check.add(path, f"the extended attribute {name!r} is too large")
    strays.end()


@dataclass(slots=True)
class _File:
    """The file whose pieces are being read."""

    number: int
    index: int  # -1: its record cannot be read
    end: int = 0  # of the pieces so far
    total_bytes: int = 0


async def check_pieces(check: Check) -> None:
    strays = Strays(check, keys.PIECE)
    file: _File | None = None
    async for page in check.pages(keys.PIECE, "bytes of files"):
        for key, value in page:
            number = keys.number_of(key)
            if file is None or file.number != number:
                _end_file(check, file)
                file = _File(number, check.inodes.find(number))
                if file.index >= 0 and check.inodes.kinds[file.index] != Kind.FILE:
                    check.add(await check.path_of(number), "it is no file, and has bytes")
            await _check_piece(check, file, key, value, strays.is_stray(number))
        await check.references.look_up()
    await check.references.finish()
    _end_file(check, file)
    strays.end()
    if check.picture.touches_unreadable(*keys.prefix_range(keys.PIECE)):
        check.references.complete = False
        check.usage_is_sure = False
    await _check_used_bytes(check)


async def _check_piece(check: Check, file: _File, key: bytes, value: bytes, is_stray: bool) -> None:
    check.counts["pieces of files"] += 1
    offset = keys.last_number_of(key)
    number = file.number
    try:
        piece = Piece.unpack(offset, value)
    except Corrupt:
        check.references.complete = False
        check.usage_is_sure = False
        if file.index >= 0:
            check.inodes.flags[file.index] |= UNSURE
        path = await check.path_of(number)
        check.add(path, f"where its bytes from {offset} on are stored cannot be read")
        return
    file.total_bytes += piece.length
    extent = piece.extent
    if extent is not None:
        check.references.count(key, extent, piece.length)
    problem = "" if is_stray else _problem(check, file, piece)
    file.end = max(file.end, piece.end)
    if problem:
        check.add(await check.path_of(number), problem)
    if extent is not None and not is_stray:

        async def on_damaged(what: str) -> None:
            path = await check.path_of(number)
            check.add(path, f"its bytes from {piece.offset} to {piece.end} {what}")

        await check.references.verify(extent, key, value, on_damaged)


def _problem(check: Check, file: _File, piece: Piece) -> str:
    """What is wrong with a piece's place in the file."""
    where = f"its bytes from {piece.offset} to {piece.end}"
    if piece.length <= 0:
        return f"a piece without bytes is stored at {piece.offset}"
    if piece.end > FILE_BYTES_MAX:
        return f"{where} lie beyond the largest file"
    if piece.offset < file.end:
        return f"{where} are stored twice: they overlap others"
    if file.index >= 0 and piece.end > check.inodes.sizes[file.index]:
        return f"{where} lie beyond its end at {check.inodes.sizes[file.index]}"
    if piece.extent is not None and piece.skip + piece.length > piece.extent.length:
        return f"{where} are more than what is stored of them"
    return ""


def _end_file(check: Check, file: _File | None) -> None:
    if file is None:
        return
    check.use(file.number, file.total_bytes)
    if file.index >= 0:
        # What is left over in the end was counted and is not there.
        check.inodes.used_bytes[file.index] -= file.total_bytes


async def _check_used_bytes(check: Check) -> None:
    inodes = check.inodes
    async for some in inodes.indexes():
        for index in some:
            left = inodes.used_bytes[index]
            if not left or inodes.flags[index] & UNSURE:
                continue
            number = inodes.numbers[index]
            if left > 0 and inodes.is_orphan(index):
                continue  # the sweep takes its pieces in several steps
            if check.picture.touches_unreadable(*keys.prefix_range(keys.pieces(number))):
                continue
            inode = await check.inode(number)
            counted = inode.used_bytes if inode is not None else left
            check.add(
                await check.path_of(number),
                f"it counts {counted} stored bytes and has {counted - left}",
                repairs.add_used_bytes(number, -left),
            )
