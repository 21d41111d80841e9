"""A partition as a file: its records as lines. `all` is the file of all partitions together.

`Positions` says what stands where. Its work is bounded by what a question needs: the size of a file
that somebody has open to read is exact, since `tail -f` compares it with what it has read; of any
other it may be an estimate, if finding out would take a while.

A gap, where retention took records away while somebody had the file open, is passed over by who
reads on from before, as a consumer would; so is the gap at the beginning. Who jumps into it
(`tail`, looking backwards for line ends) reads empty lines: positions behind it must not move.

Every write appends, whatever its offset. Lines of one open file go to one partition, so they keep
their order; `all` takes another one for each open.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.limits import MIB

from .base import ViewAttributes, ViewHandle, ViewNode, view_attributes
from .lines import LineWriter
from .positions import Chunk, Positions

if TYPE_CHECKING:
    from .streams import TopicView

EXACT_BYTES_MAX = 16 * MIB
"""Stored bytes that are decoded to give the exact size of a file that nobody reads."""

ALL = "all"


class PartitionFile(ViewNode):
    """`number`: None for the file of all partitions."""

    def __init__(self, topic: TopicView, number: int | None) -> None:
        self.number = number
        self.readers = 0
        self._topic = topic
        self._positions: Positions | None = None
        self._topic_id = 0

    async def attributes(self) -> ViewAttributes:
        topic = await self._topic.describe()
        partitions = self._of(topic)
        positions = await self._indexed(topic)
        missing = positions.gap_bytes(partitions)
        size = positions.end
        if self.readers or missing <= EXACT_BYTES_MAX:
            await positions.catch_up(partitions)
            size = positions.end
        else:
            size += missing
        return view_attributes(self._topic.stream.node, directory=False, size=size)

    async def xattrs(self) -> dict[str, bytes]:
        partitions = self._of(await self._topic.describe())
        if self.number is None:
            return {
                "user.dp.kind": b"partitions",
                "user.dp.partitions": b"%d" % len(partitions),
                "user.dp.records": b"%d" % sum(p.end_offset - p.start_offset for p in partitions),
                "user.dp.size_bytes": b"%d" % sum(p.size_bytes for p in partitions),
            }
        (part,) = partitions
        return {
            "user.dp.kind": b"partition",
            "user.dp.start_offset": b"%d" % part.start_offset,
            "user.dp.end_offset": b"%d" % part.end_offset,
            "user.dp.size_bytes": b"%d" % part.size_bytes,
        }

    async def set_attributes(self, *, size: int | None = None) -> None:
        if size is not None:
            raise _no_truncation()

    async def open(self, *, reading: bool, writing: bool, truncate: bool) -> ViewHandle:
        if truncate:
            raise _no_truncation()
        topic = await self._topic.describe()
        partitions = self._of(topic)
        writer = None
        if writing:
            number = self.number
            if number is None:
                number = partitions[self._topic.next_turn() % len(partitions)].partition
            writer = self._topic.writer(number)
        if reading:
            # Not before the positions hold still: see `compact`.
            await self._indexed(topic)
            self.readers += 1
        return PartitionHandle(self, writer, reading=reading)

    def _of(self, topic: pb.Topic) -> list[pb.Partition]:
        """This file's partitions. ENOENT."""
        if self.number is None:
            return list(topic.partitions)
        found = [part for part in topic.partitions if part.partition == self.number]
        if not found:
            raise FileNotFoundError(errno.ENOENT, "there is no such partition")
        return found

    # ------------------------------------------------------------------- the text, for handles

    async def _indexed(self, topic: pb.Topic) -> Positions:
        """The positions; begun anew for a topic that was deleted and created again."""
        if self._positions is None or self._topic_id != topic.id:
            self._positions = Positions(self._topic.source)
            self._topic_id = topic.id
        positions = self._positions
        if not self.readers:
            await positions.compact(self._of(topic), lambda: self.readers > 0)
        positions.keeps_tail = self.readers > 0
        return positions

    def positions(self) -> Positions:
        assert self._positions is not None
        return self._positions

    async def catch_up(self) -> Positions:
        """The positions with all there is now."""
        topic = await self._topic.describe()
        positions = await self._indexed(topic)
        await positions.catch_up(self._of(topic))
        return positions

    def let_go(self) -> None:
        """One reader less."""
        self.readers -= 1
        if not self.readers and self._positions is not None:
            self._positions.drop_tail()


class PartitionHandle(ViewHandle):
    def __init__(self, file: PartitionFile, writer: LineWriter | None, *, reading: bool) -> None:
        self._file = file
        self._writer = writer
        self._reading = reading
        self._next = 0  # where one reads on
        self._skipped = 0  # bytes of gaps that were passed over on the way there
        self._chunk = Chunk(0, b"")
        self._chunk_of: tuple[Positions | None, int] = (None, 0)

    async def read(self, offset: int, size: int) -> bytes:
        if not self._reading:
            raise OSError(errno.EBADF, "not open for reading")
        goes_on = offset in (0, self._next)
        if offset != self._next or offset == 0:
            self._skipped = 0
        found = await self._read(offset, size, goes_on=goes_on)
        if not found:
            positions = await self._file.catch_up()
            found = await self._read(offset, size, goes_on=goes_on)
            if not found and positions.damage is not None:
                raise positions.damage
        self._next = offset + len(found)
        return found

    async def _read(self, offset: int, size: int, *, goes_on: bool) -> bytes:
        positions = self._file.positions()
        if positions is not self._chunk_of[0]:
            self._skipped = 0
        found: list[bytes] = []
        length = 0
        while length < size:
            position = offset + self._skipped + length
            chunk = await self._text(positions, position)
            if chunk is None:
                break
            if chunk.position > position:  # a gap
                if goes_on:
                    self._skipped += chunk.position - position
                    continue
                piece = b"\n" * min(chunk.position - position, size - length)
            else:
                at = position - chunk.position
                piece = chunk.text[at : at + size - length]
            found.append(piece)
            length += len(piece)
        return found[0] if len(found) == 1 else b"".join(found)

    async def _text(self, positions: Positions, position: int) -> Chunk | None:
        mine = positions, positions.generation
        chunk = self._chunk
        if self._chunk_of != mine or not chunk.position <= position < chunk.end:
            found = await positions.chunk(position)
            if found is None:
                return None
            chunk = self._chunk = found
            self._chunk_of = mine
        return chunk

    async def write(self, offset: int, data: bytes) -> int:
        if self._writer is None:
            raise OSError(errno.EBADF, "not open for writing")
        await self._writer.write(data)
        return len(data)

    async def flush(self) -> None:
        if self._writer is not None:
            await self._writer.flush()

    async def release(self) -> None:
        if self._reading:
            self._reading = False
            self._file.let_go()
        if self._writer is not None:
            await self._writer.flush()


def _no_truncation() -> OSError:
    return PermissionError(errno.EPERM, "a stream is never truncated: append to it with >>")
