"""What keeper and worker tell each other: short messages over a socket that keeps their borders.

    keeper → worker   begin [options, handover]   who you are; load, then say so
                      go [the kernel's connection] it is your turn to serve
                      drain                        stop reading requests, finish, flush, end
    worker → keeper   loaded                       the program is in memory and sound
                      ready                        the kernel's INIT is answered, the server reached
                      refused KIND MESSAGE         there will be no mount, and why

In brackets: descriptors that travel with the message. The worker goes on when the keeper is gone.
Standard library only, and asyncio only in a worker: the keeper imports this.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

BEGIN = b"begin"
BEGIN_FIRST = b"begin first"
"""The first worker of a mount says `refused` where a later one would wait for the server."""
GO = b"go"
DRAIN = b"drain"
LOADED = b"loaded"
READY = b"ready"
REFUSED = b"refused"

MESSAGE_BYTES_MAX = 4096

HANDED_OVER = 75
"""Exit code of a worker that was drained: everything it had is with the server."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends; the second may be inherited."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.set_inheritable(True)
    return ours, theirs


class Link:
    """The worker's end. Without a socket nobody listens and nobody speaks."""

    def __init__(self, connection: socket.socket | None = None) -> None:
        self._connection = connection
        self._draining: asyncio.Event | None = None
        self.is_ready = False

    # ------------------------------------------------------------------- before there is a loop

    def receive(self, message: bytes) -> tuple[bytes, list[int]]:
        """Wait for a message that begins with this one; EOFError when the keeper is gone."""
        assert self._connection is not None
        data, descriptors, _, _ = socket.recv_fds(self._connection, MESSAGE_BYTES_MAX, 4)
        if not data:
            raise EOFError("the keeper is gone")
        if not data.startswith(message):
            raise ValueError(f"expected {message!r} from the keeper, got {data!r}")
        return data, descriptors

    def say(self, message: bytes) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):  # the keeper is gone: nobody is left to be told
                self._connection.send(message[:MESSAGE_BYTES_MAX])

    def refuse(self, kind: str, message: str) -> None:
        """There will be no mount: the name of an error kind, and one line."""
        line = " ".join(message.split())
        self.say(b" ".join((REFUSED, kind.encode(), line.encode("utf-8", "backslashreplace"))))

    # --------------------------------------------------------------------------- while serving

    def ready(self) -> None:
        """The mount works. Again: no effect."""
        if not self.is_ready:
            self.is_ready = True
            self.say(READY)

    @property
    def draining(self) -> asyncio.Event:
        """Set when the keeper wants a successor to take over, or the mount to end: read no more
        requests, finish those under way, flush, return. To be used in the loop that serves."""
        if self._draining is None:
            import asyncio

            self._draining = asyncio.Event()
            if self._connection is not None:
                self._connection.setblocking(False)
                asyncio.get_running_loop().add_reader(self._connection.fileno(), self._hear)
        return self._draining

    def _hear(self) -> None:
        assert self._connection is not None
        assert self._draining is not None
        try:
            data = self._connection.recv(MESSAGE_BYTES_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data == DRAIN:
            self._draining.set()
        elif not data:
            import asyncio
            import logging

            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            logging.getLogger(__name__).error(
                "the keeper is gone: the mount works on, but ends with this process. "
                "To have one again: unmount, and mount anew"
            )

    @property
    def is_draining(self) -> bool:
        return self._draining is not None and self._draining.is_set()
