"""HTTP for probes and Prometheus: /healthz, /readyz, /metrics. GET and HEAD, one per connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from http import HTTPStatus

from dataplatform.transport.tls_listening import Context, TlsListener

from .frames_listener import cannot_listen
from .metrics import CONTENT_TYPE

HEAD_BYTES_MAX = 8192
TIMEOUT_S = 10.0
CONNECTIONS_MAX = 64
"""Probes are few and short; whoever opens more is not one."""


class HttpListener:
    """`not_ready()` gives the reason why no requests should come, None if they may."""

    def __init__(
        self,
        metrics: Callable[[], Iterable[str]],
        not_ready: Callable[[], str | None],
    ) -> None:
        self._metrics = metrics
        self._not_ready = not_ready
        self._server: asyncio.Server | TlsListener | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int, tls: Context | None = None) -> tuple[str, int]:
        """With `tls`, nothing else is spoken there."""
        try:
            if tls is not None:
                refusal = _response(HTTPStatus.BAD_REQUEST, "this port speaks TLS: use https://\n")
                self._server = TlsListener(
                    self._protocol, tls, refusal=refusal, handshake_s=TIMEOUT_S
                )
                return await self._server.listen(host, port)
            self._server = await asyncio.start_server(
                self._accept, host, port, limit=HEAD_BYTES_MAX
            )
        except OSError as e:
            raise cannot_listen(f"{host}:{port}", "--http", e) from e
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._answering):
            task.cancel()

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(
            asyncio.StreamReader(limit=HEAD_BYTES_MAX), self._accept
        )

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._answering) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(TIMEOUT_S):
                    try:
                        head = await reader.readuntil(b"\r\n\r\n")
                    except asyncio.LimitOverrunError:
                        head = b""
                    writer.write(self._respond(head))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()

    def _respond(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST, "not an HTTP/1 request\n")
        method, target, _ = words
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD\n", "Allow: GET, HEAD\r\n")
        response = self._page(target.split(b"?", 1)[0])
        return response if method == b"GET" else response[: response.index(b"\r\n\r\n") + 4]

    def _page(self, path: bytes) -> bytes:
        if path == b"/healthz":
            return _response(HTTPStatus.OK, "ok\n")
        if path == b"/readyz":
            reason = self._not_ready()
            if reason is not None:
                return _response(HTTPStatus.SERVICE_UNAVAILABLE, reason + "\n")
            return _response(HTTPStatus.OK, "ready\n")
        if path == b"/metrics":
            text = "".join(line + "\n" for line in self._metrics())
            return _response(HTTPStatus.OK, text, content_type=CONTENT_TYPE)
        return _response(HTTPStatus.NOT_FOUND, "/healthz, /readyz or /metrics\n")


def _response(
    status: HTTPStatus, text: str, headers: str = "", content_type: str = "text/plain"
) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + body
