"""How a client connects: the Hello, and what it says when nobody is there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl

from google.protobuf.message import DecodeError

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied, Internal, Invalid, PlatformError, Unavailable

from .addresses import Address
from .errors import from_info
from .frames import PROTOCOL, Bulk, Frame, FrameKind, encode

CONNECT_TIMEOUT_S = 10.0


def encode_hello(hello: pb.Hello | None) -> list[Bulk]:
    sent = pb.Hello()
    if hello is not None:
        sent.CopyFrom(hello)
    sent.protocol = PROTOCOL
    sent.program = sent.program or "dataplatform (Python)"
    return encode(FrameKind.HELLO, 0, 0, sent.SerializeToString())


def read_hello_reply(frame: Frame, address: Address) -> pb.HelloReply:
    """The server's welcome, or the error with which it refused."""
    if frame.kind == FrameKind.ERROR:
        raise read_error(frame, address)
    reply = pb.HelloReply()
    with contextlib.suppress(DecodeError):
        reply.ParseFromString(frame.message)
    if frame.kind != FrameKind.HELLO_REPLY or reply.protocol != PROTOCOL:
        raise Invalid("the server does not speak this protocol", address=address)
    return reply


def read_error(frame: Frame, address: Address) -> PlatformError:
    try:
        return from_info(pb.ErrorInfo.FromString(frame.message))
    except DecodeError:
        return Internal("the server sent an error that cannot be decoded", address=address)


def check_frames_address(address: Address) -> None:
    if not address.is_frames:
        raise Invalid("gRPC is spoken there, frames need dp:// or dp+unix://", address=address)


def default_tls() -> ssl.SSLContext:
    """Trusts what the system trusts, and the certificates of `DP_CA_FILE` if it is set."""
    context = ssl.create_default_context()
    if ca_file := os.environ.get("DP_CA_FILE"):
        context.load_verify_locations(ca_file)
    return context


def not_connected(address: Address, error: BaseException) -> PlatformError:
    """What a failed attempt to connect means, and what to do about it."""
    if isinstance(error, PlatformError):
        return error
    if isinstance(error, TimeoutError):
        return Unavailable("no answer from the server, is it reachable?", address=address)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        return Denied("the server's certificate is not trusted", address=address, reason=reason)
    if isinstance(error, ssl.SSLError):
        return Unavailable("no TLS there, is it dp:// instead of dps://?", address=address)
    if isinstance(error, socket.gaierror):
        return Unavailable("host name cannot be resolved", address=address)
    if isinstance(error, PermissionError):
        return Denied("not allowed to open the server's socket", address=address)
    if isinstance(error, OSError) and error.errno in (errno.ECONNREFUSED, errno.ENOENT):
        hint = "start one with `dp server start`, or name another in DP_SERVER"
        return Unavailable(f"no server listens there: {hint}", address=address)
    return Unavailable("cannot connect", address=address, reason=error)


def lost(address: Address, reason: BaseException | None = None) -> PlatformError:
    """Why calls under way on a connection that ended have no reply."""
    if isinstance(reason, PlatformError):
        return PlatformError(reason.kind, reason.message, **reason.facts)
    return Unavailable("connection lost", address=address, reason=reason)


def timed_out(address: Address, method: str, timeout_s: float) -> Unavailable:
    return Unavailable("no reply in time", method=method, timeout_s=timeout_s, address=address)
