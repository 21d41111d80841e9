"""One request and its reply, between two servers: over gRPC, or over frames.

Every call has a deadline. A link over which nothing comes any more, and no word that it is gone
either (a cable, a firewall that forgot it), is noticed by pings, and at the latest by the deadline;
the next call connects anew. All calls of a wire belong to one
session, whatever connection they came over.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import ssl
from typing import Any

from .. import grpc_tls  # isort: skip  # before grpc

import grpc

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import KINDS, ErrorKind, PlatformError, Unavailable
from dataplatform.base.limits import FRAME_BYTES_MAX
from dataplatform.core.clusters import Access
from dataplatform.transport.addresses import Address, join_host_port, parse
from dataplatform.transport.async_connections import AsyncConnection
from dataplatform.transport.errors import from_info
from dataplatform.transport.frames import Data

from ..clusters import asking

assert grpc_tls.CIPHERS

SESSION_BYTES = 16

Reply = tuple[Any, bytes | memoryview]


class Wire(abc.ABC):
    """To one server."""

    @abc.abstractmethod
    async def call(self, method: str, message: Any, timeout_s: float) -> Reply:
        """The reply and its bulk bytes. UNAVAILABLE if there is none in time; else what the server
        says."""

    @abc.abstractmethod
    async def close(self) -> None: ...


def wire_to(access: Access, own_cluster: str) -> Wire:
    """To a known cluster: by frames, which move bulk bytes three times as fast, unless its address
    is one of gRPC."""
    address = parse(access.address)
    if address.is_frames:
        return FramesWire(access, own_cluster)
    return GrpcWire(address, access.token, access.authority)


PING_EVERY_S = 5
PING_ANSWER_S = 5
"""A link that was cut without a word is known to be after so long, and not asked any more."""


# ---------------------------------------------------------------- gRPC

RECONNECT_S_MAX = 5

_OPTIONS = [
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.keepalive_time_ms", PING_EVERY_S * 1000),
    ("grpc.keepalive_timeout_ms", PING_ANSWER_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_S_MAX * 1000),
    ("grpc.use_local_subchannel_pool", 1),  # its own connection
    ("grpc.enable_retries", 0),
    ("grpc.http2.max_frame_size", 4 << 20),
    ("grpc.http2.lookahead_bytes", 16 << 20),
    ("grpc.experimental.tcp_min_read_chunk_size", 256 << 10),
    ("grpc.experimental.tcp_max_read_chunk_size", 4 << 20),
    ("grpc.tcp_receive_buffer_size", 4 << 20),
]

_LOST = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    )
)
_KINDS = {rule.grpc_code: kind for kind, rule in KINDS.items()}


class GrpcWire(Wire):
    """With TLS to grpcs://; `authority` is PEM, empty for those that the system trusts."""

    def __init__(self, address: Address, token: str = "", authority: str = "") -> None:
        self.address = address
        self._metadata: list[tuple[str, str | bytes]] = [
            ("dp-session-bin", os.urandom(SESSION_BYTES))
        ]
        if token:
            self._metadata.append(("authorization", f"Bearer {token}"))
        where = join_host_port(address.host, address.port)
        if address.is_tls:
            credentials = grpc.ssl_channel_credentials(authority.encode() or _system_authorities())
            self._channel = grpc.aio.secure_channel(where, credentials, options=_OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(where, options=_OPTIONS)
        self._calls: dict[str, Any] = {}

    async def call(self, method: str, message: Any, timeout_s: float) -> Reply:
        known = self._calls.get(method)
        if known is None:
            made = METHODS[method]
            known = self._calls[method] = self._channel.unary_unary(
                made.grpc_path,
                request_serializer=made.request.SerializeToString,
                response_deserializer=made.reply.FromString,
            )
        try:
            # A server that is not there is known at once: whoever asks has rules of its own.
            reply = await known(
                message, timeout=timeout_s, metadata=self._metadata, wait_for_ready=False
            )
        except grpc.aio.AioRpcError as error:
            raise self._error(error, METHODS[method]) from error
        return reply, reply.data if METHODS[method].reply_bulk else b""

    def _error(self, error: grpc.aio.AioRpcError, method: Method) -> PlatformError:
        for key, value in error.trailing_metadata() or ():
            if key == "dp-error-bin":
                return from_info(pb.ErrorInfo.FromString(value))  # type: ignore[arg-type]
        code = error.code()
        if code in _LOST:
            return Unavailable(
                "no answer from the other cluster",
                address=self.address,
                method=method.name,
                reason=error.details(),
            )
        kind = _KINDS.get(code.name, ErrorKind.INTERNAL)
        return PlatformError(kind, error.details() or code.name, address=self.address)

    async def close(self) -> None:
        await self._channel.close()


def _system_authorities() -> bytes | None:
    """As `Trust` takes them, in PEM; None: those that come with gRPC."""
    context = ssl.create_default_context()
    found = context.get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None


# ---------------------------------------------------------------- frames


_PING = METHODS["System.Ping"]


class WatchedConnection(AsyncConnection):
    """Ends when it is asked something and nothing at all comes for PING_EVERY_S + PING_ANSWER_S.
    An answer may take longer: whatever else comes is a sign of life, too."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(address, loop)
        self._heard_s = loop.time()
        self._watching: asyncio.TimerHandle | None = None

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_s = self.loop.time()
        super().buffer_updated(nbytes)

    async def call(
        self, method: Method, message: Any, data: Data = b"", timeout_s: float | None = None
    ) -> Reply:
        if not self.calls_under_way:
            self._heard_s = self.loop.time()
        if self._watching is None:
            self._watching = self.loop.call_later(PING_EVERY_S, self._watch)
        return await super().call(method, message, data, timeout_s)

    def _watch(self) -> None:
        self._watching = None
        if self.closed or not self.calls_under_way:
            return
        silent_s = self.loop.time() - self._heard_s
        if silent_s >= PING_EVERY_S + PING_ANSWER_S:
            self.give_up()
            return
        if silent_s >= PING_EVERY_S:
            with contextlib.suppress(PlatformError):
                self.start(_PING, pb.Empty())
        self._watching = self.loop.call_later(1.0, self._watch)


class FramesWire(Wire):
    """To a server that speaks frames, as all do."""

    def __init__(self, access: Access, own_cluster: str) -> None:
        self._access = access
        self._own_cluster = own_cluster
        self._session = os.urandom(SESSION_BYTES)
        self._connection: WatchedConnection | None = None
        self._connecting = asyncio.Lock()

    async def call(self, method: str, message: Any, timeout_s: float) -> Reply:
        connection = self._connection
        if connection is None or connection.closed:
            connection = await self._connected()
        return await connection.call(METHODS[method], message, timeout_s=timeout_s)

    async def _connected(self) -> WatchedConnection:
        async with self._connecting:
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connection = await asking.connect(
                    self._access, self._own_cluster, self._session, kind=WatchedConnection
                )
            return connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
