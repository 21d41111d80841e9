"""Peers that send whatever they are told to, over frames or gRPC: no retries, no checks.

`call` gives what was answered: the reply message, or an ErrorInfo.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

import grpc

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import ErrorKind
from dataplatform.transport.frames import Decoder, Frame, FrameKind, encode

TIMEOUT_S = 60.0
"""An answer that takes longer will not come: the test fails."""


class Wire(Protocol):
    session: bytes
    bulk: bytes | memoryview  # of the last reply

    def call(self, name: str, message: Any, data: bytes = b"") -> Any: ...

    def close(self) -> None: ...


class FramesWire:
    """A connection of frames to the Unix socket `dp+unix://path`, one call at a time."""

    def __init__(self, address: str, session: bytes = b"frames-16-bytes!") -> None:
        self.session = session
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(address.removeprefix("dp+unix://"))
        self.bulk: bytes | memoryview = b""
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self._call = 0
        hello = pb.Hello(protocol=1, program="a wire", session=session)
        self.socket.sendall(b"".join(encode(FrameKind.HELLO, 0, 0, hello.SerializeToString())))
        assert self.receive().kind == FrameKind.HELLO_REPLY

    def receive(self) -> Frame:
        while not self._frames:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise EOFError
            self._frames += self._decoder.feed(chunk)
        return self._frames.pop(0)

    def call(self, name: str, message: Any, data: bytes = b"") -> Any:
        return self.call_raw(name, message.SerializeToString(), data)

    def call_raw(self, name: str, message: bytes, data: bytes = b"") -> Any:
        """As `call`, with bytes that need not be a message."""
        self._call += 1
        method = METHODS[name]
        frame = encode(FrameKind.REQUEST, method.number, self._call, message, data)
        self.socket.sendall(b"".join(frame))
        reply = self.receive()
        assert reply.call in (self._call, 0), reply
        self.bulk = reply.data
        if reply.kind == FrameKind.ERROR:
            return pb.ErrorInfo.FromString(reply.message)
        return method.reply.FromString(reply.message)

    def close(self) -> None:
        self.socket.close()


class GrpcWire:
    """A gRPC channel to `grpc://host:port`; bulk bytes travel in the messages."""

    def __init__(
        self, address: str, session: bytes = b"grpc-of-16-bytes", authorization: str = ""
    ) -> None:
        self.session = session
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address.removeprefix("grpc://"), options)
        self._metadata: tuple[tuple[str, str | bytes], ...] = (("dp-session-bin", session),)
        if authorization:
            self._metadata += (("authorization", authorization),)
        self.bulk: bytes | memoryview = b""

    def call(self, name: str, message: Any, data: bytes = b"") -> Any:
        if data:
            message = type(message).FromString(message.SerializeToString())
            message.data = data
        return self.call_raw(name, message.SerializeToString())

    def call_raw(self, name: str, message: bytes, data: bytes = b"") -> Any:
        """As `call`, with bytes that need not be a message; bulk bytes are in them."""
        assert not data
        method = METHODS[name]
        invoke = self._channel.unary_unary(
            method.grpc_path,
            request_serializer=None,
            response_deserializer=method.reply.FromString,
        )
        try:
            reply = invoke(message, timeout=TIMEOUT_S, metadata=self._metadata)
        except grpc.RpcError as error:
            for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
                if key == "dp-error-bin":
                    return pb.ErrorInfo.FromString(value)
            raise
        if method.reply_bulk:
            self.bulk = reply.data
            reply.ClearField("data")
        return reply

    def close(self) -> None:
        self._channel.close()


def failure(outcome: Any) -> tuple[str, str]:
    """Kind and message of a call that has to fail."""
    assert isinstance(outcome, pb.ErrorInfo), outcome
    return ErrorKind(outcome.kind).name, outcome.message
