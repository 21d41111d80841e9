"""What is asked of the kernel for sockets, and of sockets for their peers."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from dataplatform.base.limits import KIB

if TYPE_CHECKING:
    import asyncio

UNIX_SEND_BYTES = 512 * KIB
"""What a Unix socket takes while the server is busy (the kernel doubles it for its own needs, which
makes a bulk call). With the customary 200 KiB both ends wake up five times for each mebibyte: a
third of the client's time. TCP finds its own size, and replies gain nothing from it."""


def widen(stream: socket.socket) -> None:
    """Let a Unix socket take more at once, as far as the system's limit allows."""
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BYTES)


KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3
"""A silent TCP peer is asked after so long, so often; if nothing comes back, it is gone: a minute
for one that vanished without a word (its power, a cable, a firewall that forgot the connection)."""

UNACKNOWLEDGED_MS_MAX = 90_000
"""The same while bytes are on their way, when the kernel does not ask (TCP_USER_TIMEOUT, tcp(7)).
Longer than a peer may be too busy to read, of which both ends have rules of their own."""


def notice_silence(stream: socket.socket) -> None:
    """Let a TCP connection end when its peer is no longer there; others end with their process."""
    if stream.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
            (socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
            (socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
            (socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX),
        ):
            stream.setsockopt(socket.IPPROTO_TCP, option, value)


class Peer(NamedTuple):
    """The other side in words; its uid and pid on a Unix socket (SO_PEERCRED, unix(7)), as they are
    seen from here: pid 0 for a process that is not."""

    name: str
    uid: int | None = None
    pid: int = 0


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family == socket.AF_UNIX:
        credentials = raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", credentials)
        return Peer(f"unix:pid={pid},uid={uid}", uid, pid)
    name = transport.get_extra_info("peername")
    return Peer(f"{name[0]}:{name[1]}" if name else "unknown")
