"""Accepting TLS connections: only what has shaken hands, in time, becomes a connection.

Everything is accepted here, one by one, and not by the loop's own listener, for three reasons:
whoever does not speak TLS is told so in words of its own protocol, a handshake that failed is one
line in the log, and each connection gets the context of its moment, so that certificates can be
replaced.

Handshakes under way are bounded in number and in time: a peer that never finishes costs a socket
for `handshake_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from .tls import HANDSHAKE_RECORD

logger = logging.getLogger(__name__)

HANDSHAKES_MAX = 1024
"""Under way at a time; who comes then is closed, and may come again."""

BACKLOG = 1024
PAUSE_S = 0.5
"""After accepting failed, as for want of descriptors."""

LINGER_S = 1.0
"""How long a peer that was told something may take to read it."""

Context = Callable[[], ssl.SSLContext]


class TlsListener:
    """Listens on every address of a host. `refusal` is sent to peers that do not begin with TLS."""

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        context: Context,
        *,
        refusal: bytes,
        handshake_s: float,
    ) -> None:
        self._make_protocol = make_protocol
        self._context = context
        self._refusal = refusal
        self._handshake_s = handshake_s
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = 0

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Begin; the address chosen (port 0: any). OSError."""
        infos = await self._loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, _, _, _, where in dict.fromkeys(infos):
                listener = socket.create_server(
                    where[:2], family=family, backlog=BACKLOG, dualstack_ipv6=False
                )
                listener.setblocking(False)
                self._sockets.append(listener)
        except BaseException:
            self.close()
            raise
        for listener in self._sockets:
            self._begin(self._accept(listener))
        name = self._sockets[0].getsockname()
        return name[0], name[1]

    def close(self) -> None:
        """Accept nobody any more; handshakes under way end, too."""
        for task in list(self._tasks):
            task.cancel()
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                stream, peer = await self._loop.sock_accept(listener)
            except OSError as e:
                logger.warning("no connection accepted. reason=`%s`", e.strerror)
                await asyncio.sleep(PAUSE_S)
                continue
            stream.setblocking(False)
            if self._handshakes >= HANDSHAKES_MAX:
                stream.close()
                continue
            self._handshakes += 1
            self._begin(self._admit(stream, f"{peer[0]}:{peer[1]}"))

    async def _admit(self, stream: socket.socket, peer: str) -> None:
        handed = False
        try:
            async with asyncio.timeout(self._handshake_s):
                if not await self._begins_tls(stream):
                    logger.info("connection refused: it does not speak TLS. peer=`%s`", peer)
                    await self._tell(stream)
                    return
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                handed = True
                await self._loop.connect_accepted_socket(
                    self._make_protocol,
                    stream,
                    ssl=self._context(),
                    ssl_handshake_timeout=self._handshake_s,
                )
        except ssl.SSLError as e:
            logger.info("TLS handshake failed. peer=`%s`, reason=`%s`", peer, reason_of(e))
        except (TimeoutError, ConnectionAbortedError):
            logger.info("TLS handshake did not end in time. peer=`%s`", peer)
        except OSError as e:
            logger.debug("connection lost in its handshake. peer=`%s`, reason=`%s`", peer, e)
        finally:
            self._handshakes -= 1
            if not handed:
                stream.close()

    async def _begins_tls(self, stream: socket.socket) -> bool:
        """Looks at the first byte, which stays for the handshake. OSError if none comes."""
        readable = self._loop.create_future()
        self._loop.add_reader(stream, _fulfil, readable)
        try:
            await readable
        finally:
            self._loop.remove_reader(stream)
        first = stream.recv(1, socket.MSG_PEEK)
        if not first:
            raise ConnectionResetError("closed at once")
        return first[0] == HANDSHAKE_RECORD

    async def _tell(self, stream: socket.socket) -> None:
        """Say why, and wait a moment: closing with bytes unread would take the words back."""
        await self._loop.sock_sendall(stream, self._refusal)
        stream.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(LINGER_S):
                while await self._loop.sock_recv(stream, 65536):
                    pass


def _fulfil(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def reason_of(error: ssl.SSLError) -> str:
    """What went wrong, without OpenSSL's line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
