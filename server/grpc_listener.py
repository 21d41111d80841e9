"""gRPC for any language: the same methods, with bulk bytes in the message's field `data`.

Who calls is said by the metadata `authorization: Bearer TOKEN`; without it, nobody in particular.
A client names its session in the metadata `dp-session-bin` (16 bytes); without it, all requests of
one connection share one. An error has the status code of its kind, and the whole ErrorInfo in the
trailing metadata `dp-error-bin`. Health and reflection are served as meshes and tools expect them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import KINDS, Denied, Exhausted, Invalid, PlatformError, Unavailable
from dataplatform.base.limits import FRAME_BYTES_MAX
from dataplatform.core.principals import Principal
from dataplatform.transport import costs
from dataplatform.transport.addresses import Address, join_host_port
from dataplatform.transport.errors import to_info
from dataplatform.transport.frames import Data
from dataplatform.transport.turns import Admission, Turns

from .dispatch import Dispatcher
from .frames_listener import cannot_listen
from .identity import Attachment, Credential, Credentials
from .sessions import SESSION_BYTES, Sessions

SESSION_METADATA = "dp-session-bin"
ERROR_METADATA = "dp-error-bin"
AUTHORIZATION_METADATA = "authorization"

REQUESTS_MAX = 1024
"""Requests under way over gRPC; further ones are answered RESOURCE_EXHAUSTED."""

_SERVICES = sorted(s.full_name for s in pb.DESCRIPTOR.services_by_name.values())
_OPTIONS = [
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.http2.write_buffer_size", 4 << 20),
    ("grpc.http2.max_frame_size", 4 << 20),
    # Other servers ask every few seconds whether we are there; customary are five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),  # and whether a silent client is
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.so_reuseport", 0),  # two servers on one port would share its connections
]

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[bytes, Context], Awaitable[bytes]]


class GrpcListener:
    """Belongs to the running loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        sessions: Sessions,
        credentials: Credentials,
        turns: Turns | None = None,
    ) -> None:
        """`turns` are shared with the frames: one volume's clients are a group."""
        self._dispatcher = dispatcher
        self._turns = turns
        self._sessions = sessions
        self._credentials = credentials
        self._reading: dict[asyncio.Task[tuple[Any, Data]], Attachment] = {}
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=REQUESTS_MAX)
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], self._server)

    async def listen(
        self, host: str, port: int, credentials: grpc.ServerCredentials | None = None
    ) -> Address:
        """With `credentials`, nothing but TLS is spoken there."""
        where = join_host_port(host, port)
        try:
            if credentials is not None:
                chosen = self._server.add_secure_port(where, credentials)
            else:
                chosen = self._server.add_insecure_port(where)
        except RuntimeError as e:
            raise cannot_listen(where, "--grpc", e) from e
        await self._server.start()
        for name in ("", *_SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return Address("grpcs" if credentials else "grpc", host=host, port=chosen)

    async def close(self, grace_s: float) -> None:
        """Report NOT_SERVING, let requests under way finish for `grace_s`, then end them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    def _handlers(self) -> list[grpc.GenericRpcHandler]:
        services: dict[str, dict[str, Any]] = defaultdict(dict)
        for method in METHODS.values():
            _, service, name = method.grpc_path.split("/")
            services[service][name] = grpc.unary_unary_rpc_method_handler(self._behaviour(method))
        return [grpc.method_handlers_generic_handler(s, h) for s, h in services.items()]

    def _behaviour(self, method: Method) -> Behaviour:
        async def behave(request: bytes, context: Context) -> bytes:
            try:
                return await self._answer(method, request, context)
            except PlatformError as e:
                code = grpc.StatusCode[KINDS[e.kind].grpc_code]
                metadata = ((ERROR_METADATA, to_info(e).SerializeToString()),)
                await context.abort(code, str(e), trailing_metadata=metadata)
                raise

        return behave

    async def _answer(self, method: Method, request: bytes, context: Context) -> bytes:
        try:
            attachment = self._attachment(context)
        except PlatformError as e:
            self._dispatcher.refused(f"grpc {context.peer()}", e)
            raise
        try:
            message = method.request.FromString(request)
        except DecodeError:
            raise Invalid("message cannot be decoded", method=method.name) from None
        data = message.data if method.request_bulk else b""
        work = None
        if (
            self._turns is not None
            and self._turns.is_contended
            and not _goes_first(method, message)
        ):
            work = await Admission(self._turns, attachment.session.volume).wait()
        try:
            handling = self._dispatcher.handle(attachment, method, message, data)
            reply, bulk = await (
                self._read(attachment, handling) if method.read_only else _to_the_end(handling)
            )
        finally:
            if work is not None:
                work.end()
        if method.reply_bulk and bulk:
            reply.data = _joined(bulk)
        encoded: bytes = reply.SerializeToString()
        if len(encoded) > FRAME_BYTES_MAX:
            raise Exhausted("reply too large: ask for less at a time", size_bytes=len(encoded))
        return encoded

    def _attachment(self, context: Context) -> Attachment:
        """The session that a request belongs to, and whose request it is. DENIED."""
        metadata = dict(context.invocation_metadata() or ())
        credential = self._credential(metadata.get(AUTHORIZATION_METADATA), context)
        principal, peer = credential.now(), context.peer()
        named = metadata.get(SESSION_METADATA)
        session_id = bytes(named) if named is not None else _unnamed_session(peer, principal)  # type: ignore[arg-type]
        session = self._sessions.touch(session_id, principal)
        return Attachment(session, credential, f"grpc {peer}")

    def _credential(self, authorization: str | bytes | None, context: Context) -> Credential:
        """What the caller has shown: a token goes before all else. DENIED."""
        if authorization is not None:
            return self._credentials.of_authorization(str(authorization))
        user = _certificate_user(context)
        return self._credentials.of_certificate(user) if user else self._credentials.nobody

    async def _read(
        self, attachment: Attachment, handling: Coroutine[Any, Any, tuple[Any, Data]]
    ) -> tuple[Any, Data]:
        """What only reads may be ended, by its caller or by `review`."""
        task = asyncio.create_task(handling)
        self._reading[task] = attachment
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            attachment.credential.now()
            raise Unavailable("cancelled") from None
        finally:
            del self._reading[task]

    def review(self) -> None:
        """End the waiting requests whose caller is not the same any more, or may not come."""
        for task, attachment in list(self._reading.items()):
            try:
                is_over = attachment.has_changed()
            except Denied:
                is_over = True
            if is_over:
                task.cancel()


def _goes_first(method: Method, message: Any) -> bool:
    """What takes no turn: what others may wait for, and what itself waits for something."""
    return method.urgent or costs.waits(method, message)


def _unnamed_session(peer: str, principal: Principal) -> bytes:
    """All requests of one connection that come from the same caller share one."""
    said = f"{principal.owner} {peer}".encode()
    return hashlib.blake2b(said, digest_size=SESSION_BYTES).digest()


def _certificate_user(context: Context) -> str:
    """Whom the verified certificate of the client names; "" without one."""
    names = list(context.auth_context().get("x509_common_name", ()))
    return names[0].decode() if len(names) == 1 else ""


async def _to_the_end(handling: Coroutine[Any, Any, tuple[Any, Data]]) -> tuple[Any, Data]:
    """What changes something is not cancelled half-way when its caller leaves."""
    task = asyncio.create_task(handling)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise Unavailable("cancelled") from None
        task.add_done_callback(lambda t: t.cancelled() or t.exception())  # nobody asks any more
        raise


def _joined(bulk: Data) -> bytes:
    return bytes(bulk) if isinstance(bulk, (bytes, bytearray, memoryview)) else b"".join(bulk)
