"""The doors of one server: each is asked the same, and must answer the same.

`core` is the dispatcher without a wire; the others are real listeners. Doors that have operations
of their own rather than methods are beside: `library.py`, `commands.py`.
"""

from __future__ import annotations

from typing import Any, Protocol

import grpc

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import ErrorKind, PlatformError
from dataplatform.transport.addresses import parse
from dataplatform.transport.connections import AsyncConnection
from dataplatform_server.identity import Attachment
from dataplatform_server.servers import Server
from dataplatform_server.sessions import Session

OK = "OK"


class Door(Protocol):
    name: str

    async def call(self, token: str, method: str, message: Any, data: bytes) -> str:
        """`OK`, or the kind of error."""


class Core:
    name = "core"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._attachments: dict[str, Attachment] = {}

    async def call(self, token: str, method: str, message: Any, data: bytes) -> str:
        known = self._attachments.get(token)
        if known is None:
            credential = self._server.credentials.of_token(token)
            number = len(self._attachments) + 1
            session = Session(number.to_bytes(16, "big"), credential.now())
            known = self._attachments[token] = Attachment(session, credential)
        try:
            await self._server.dispatcher.handle(known, METHODS[method], message, data)
        except PlatformError as error:
            return error.kind.name
        return OK


class Frames:
    """Over TCP, or the Unix socket."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self._address = parse(address)
        self._connections: dict[str, AsyncConnection] = {}

    async def call(self, token: str, method: str, message: Any, data: bytes) -> str:
        connection = self._connections.get(token)
        if connection is None:
            hello = pb.Hello(protocol=1, program="matrix", token=token)
            connection = await AsyncConnection.open(self._address, hello)
            self._connections[token] = connection
        try:
            await connection.call(METHODS[method], message, data)
        except PlatformError as error:
            return error.kind.name
        return OK

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()


class Grpc:
    name = "grpc"

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address.removeprefix("grpc://"))

    async def call(self, token: str, method: str, message: Any, data: bytes) -> str:
        rule = METHODS[method]
        if rule.request_bulk:
            message = type(message).FromString(message.SerializeToString())
            message.data = data
        ask = self._channel.unary_unary(
            rule.grpc_path,
            request_serializer=rule.request.SerializeToString,
            response_deserializer=rule.reply.FromString,
        )
        try:
            await ask(message, metadata=(("authorization", f"Bearer {token}"),))
        except grpc.aio.AioRpcError as error:
            for key, value in error.trailing_metadata() or ():
                if key == "dp-error-bin":
                    return ErrorKind(pb.ErrorInfo.FromString(value).kind).name  # type: ignore[arg-type]
            return error.code().name
        return OK

    async def close(self) -> None:
        await self._channel.close()
