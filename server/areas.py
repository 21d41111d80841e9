"""Memory that a client on this machine shares, so that the bytes of its writes are not copied here.

The client makes a memfd and says which descriptor it is (`Files.Share`); we open it in the client's
process, as proc(5) lets us, and map it for reading. A write then names a range of it.

A client is not trusted with more than its own bytes. A memfd belongs to the user who made it, which
must be the one at the other end of the socket: the number of a process that has gone may be another
one's by now, or the process may run another program. What is opened is only looked at (O_PATH)
until it is known to be a memfd, so no device or pipe of the client's choice is ever opened. Its
size is sealed: mapped memory that was truncated away would kill us with SIGBUS. Every range is
checked. A client that changes bytes while they are written gets what it asked for, an extent of
its own file whose checksum does not match.

Invariants: a session has at most one area; its memory stays mapped while a request refers to it,
whatever becomes of the session, its connection and the client.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from dataclasses import dataclass

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied, Invalid, Stale
from dataplatform.base.limits import MIB

AREA_BYTES_MAX = 128 * MIB
"""Of address space; the memory is the client's."""

ROOT_UID = 0

_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


@dataclass(slots=True, eq=False)
class Area:
    """A client's memory, as the server sees it."""

    number: int
    view: memoryview

    def part(self, start: int, length: int) -> memoryview:
        """INVALID if that is not all in the area."""
        end = start + length
        if end > len(self.view):
            raise Invalid(
                "not in the shared area", at=start, length=length, size_bytes=len(self.view)
            )
        return self.view[start:end]


def open_area(pid: int, uid: int, request: pb.ShareRequest) -> Area:
    """The area that the process `pid` of this user shares. INVALID, DENIED: the bytes go in
    the requests."""
    if not pid:
        raise Invalid("memory is shared over a Unix socket only, by a process that is seen here")
    if not request.area:
        raise Invalid("a shared area needs a number")
    if not 0 < request.size <= AREA_BYTES_MAX:
        raise Invalid(
            "a shared area of this size is refused",
            size_bytes=request.size,
            limit_bytes=AREA_BYTES_MAX,
        )
    try:
        descriptor = _open_memfd(f"/proc/{pid}/fd/{request.descriptor}", uid)
    except OSError as error:
        raise Denied("the shared area cannot be opened", reason=error.strerror) from error
    try:
        return Area(request.area, _map(descriptor, request.size))
    finally:
        os.close(descriptor)


def _open_memfd(link: str, uid: int) -> int:
    """What the link leads to, opened for reading if that is harmless."""
    found = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise Invalid("a shared area is a memfd")
        if uid not in (status.st_uid, ROOT_UID):
            raise Denied("the shared area is somebody else's", uid=uid)
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(found)


def _map(descriptor: int, size: int) -> memoryview:
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise Invalid("a shared area is a memfd") from error
    if seals & _SIZE_SEALS != _SIZE_SEALS:
        raise Invalid("the size of a shared area is sealed")
    if os.fstat(descriptor).st_size != size:
        raise Invalid("a shared area has another size", size_bytes=size)
    try:
        return memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
    except OSError as error:
        raise Denied("the shared area cannot be mapped", reason=error.strerror) from error


def area_of(area: Area | None, number: int) -> Area:
    """The area that a write names. STALE if it is not the session's."""
    if area is None or area.number != number:
        raise Stale("the session has no such shared area: send the bytes", area=number)
    return area
