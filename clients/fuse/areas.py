"""Where the kernel's requests are read to, and the memory shared with a server on this machine.

Each request is read at `view`. Who keeps a part of one says so (`keep`), and the next is read
behind it, in large slots that are used again when nobody refers to them any more (`base/buffers`).

With a server on this machine the slots are an area that it maps as well (`Files.Share`,
`server/areas.py`): a write names where its bytes lie (`name`) instead of carrying them, which saves
two copies. The server reads them until it has answered, so an area is abandoned, and never read
into again, as soon as a request may be left unanswered: with its connection, or when a caller gave
up (`abandon`). What lies in it then goes out as bytes.

Invariants: no byte of a slot changes while somebody refers to it, and callers of the server do
until it has answered; an area is named only to the server and on the connection that took it; what
all slots hold is at most SLOTS_MAX × SLOT_BYTES, and what is kept above that is memory of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import mmap
import os
from collections.abc import Sequence

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.buffers import Buffer, Buffers
from dataplatform.base.errors import PlatformError, Unavailable
from dataplatform.base.limits import KIB, MIB
from dataplatform.transport.connections import Bulk, Connection

logger = logging.getLogger(__name__)

SHARE = METHODS["Files.Share"]

WRITE_BYTES_MAX = 1 * MIB
"""Of one request. The kernel takes up to 256 pages unless root allowed it more."""

WRITE_HEAD_BYTES = 80
"""What stands before the bytes of a write."""

PAGE_BYTES = mmap.PAGESIZE
REQUEST_BYTES = WRITE_BYTES_MAX + PAGE_BYTES
"""What the largest request takes."""

SLOT_BYTES = 4 * REQUEST_BYTES + 64 * KIB
SLOTS_MAX = 10
"""About 40 MiB: what may be unsynced (see `client/unsynced`), and a few requests under way."""

NAMED_BYTES_MIN = 64 * KIB
"""Smaller writes are copied by the server in any case."""


class Area:
    """A memfd that can neither shrink nor grow, mapped slot by slot."""

    def __init__(self) -> None:
        """OSError if there is no memory for it."""
        self.number = int.from_bytes(os.urandom(8), "little") | 1
        self.size = SLOTS_MAX * SLOT_BYTES
        self.descriptor = os.memfd_create("dataplatform", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, self.size)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._slots: dict[int, tuple[int, int]] = {}  # by id: where it lies in memory, and in here
        self.buffers = Buffers(SLOT_BYTES, SLOTS_MAX, self._slot)

    def close(self) -> None:
        """No further slots. Those that there are stay mapped as long as somebody refers to them."""
        os.close(self.descriptor)

    def _slot(self, size: int) -> mmap.mmap:
        start = len(self._slots) * size
        slot = mmap.mmap(self.descriptor, size, offset=start)
        self._slots[id(slot)] = _address(slot), start
        return slot

    def find(self, part: Bulk) -> int | None:
        """Where the bytes lie in here, if they do."""
        if not isinstance(part, memoryview):
            return None
        slot = self._slots.get(id(part.obj))
        return None if slot is None else _address(part) - slot[0] + slot[1]


def _address(memory: Buffer | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class Areas:
    """The memory that one mount reads requests to. `may_share`: whether a server is asked."""

    def __init__(self, *, may_share: bool) -> None:
        self._may_share = may_share
        self._area: Area | None = None
        self._own = Buffers(SLOT_BYTES, SLOTS_MAX)
        self._begin_slot()

    # ---- reading requests

    def keep(self, length: int) -> None:
        """A part of the request of this length that was read at `view` is kept: the next is read
        elsewhere."""
        end = self._start + length
        start = -(-end // PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES - WRITE_HEAD_BYTES
        if start + REQUEST_BYTES <= SLOT_BYTES:
            self._begin(start)
        else:
            self._begin_slot()

    def _begin_slot(self) -> None:
        buffers = self._own if self._area is None else self._area.buffers
        self._slot = buffers.take(SLOT_BYTES)
        self._begin(PAGE_BYTES - WRITE_HEAD_BYTES)

    def _begin(self, start: int) -> None:
        """The bytes of a write begin with a page, which makes copying them cheaper."""
        self._start = start
        self.view = self._slot[start : start + REQUEST_BYTES]

    # ---- sharing

    @property
    def is_shared(self) -> bool:
        return self._area is not None

    async def share(self, connection: Connection) -> Area | None:
        """Share fresh memory with the server at the other end; None if that cannot be done."""
        if self._area is not None:
            self.abandon(self._area)
        if not (self._may_share and connection.address.is_unix):
            return None
        try:
            area = Area()
        except OSError as error:
            logger.info("no memory is shared with the server. reason=`%s`", error)
            return None
        request = pb.ShareRequest(area=area.number, descriptor=area.descriptor, size=area.size)
        try:
            await connection.call(SHARE, request)
        except BaseException as error:
            area.close()
            if not isinstance(error, PlatformError) or isinstance(error, Unavailable):
                raise
            logger.info("no memory is shared with the server. reason=`%s`", error)
            return None
        self._area = area
        self._own = Buffers(SLOT_BYTES, SLOTS_MAX)
        self._begin_slot()
        return area

    def abandon(self, area: Area) -> None:
        """Nothing is read to this area any more, nor is anything in it named: the server may go on
        reading what was."""
        if self._area is area:
            area.close()
            self._area = None
            self._begin_slot()

    def name(self, request: pb.WriteRequest, data: Bulk | Sequence[Bulk]) -> Area | None:
        """Let the request say where its bytes lie, if they are large and all in the area."""
        area = self._area
        if area is None:
            return None
        parts = (data,) if isinstance(data, (bytes, bytearray, memoryview)) else data
        places: list[tuple[int, int]] = []
        for part in parts:
            place = area.find(part) if len(part) >= NAMED_BYTES_MIN else None
            if place is None:
                return None
            places.append((place, len(part)))
        request.area = area.number
        if len(places) == 1:
            request.at, request.length = places[0]
        else:
            _place(request, places)
        return area


def _place(request: pb.WriteRequest, places: Sequence[tuple[int, int]]) -> None:
    """Divide the request into as many parts as there are places, which are (at, length)."""
    runs = [(part.offset, part.length) for part in request.parts]
    del request.parts[:]
    left = iter(places)
    for offset, length in runs or [(request.offset, sum(length for _, length in places))]:
        end = offset + length
        while offset < end:
            at, part_length = next(left)
            request.parts.add(offset=offset, length=part_length, at=at)
            offset += part_length
