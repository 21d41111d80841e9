"""What both ends ask of the kernel for their sockets."""

from __future__ import annotations

import contextlib
import socket

from dataplatform.base.limits import KIB

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
