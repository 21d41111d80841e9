"""How a client connects: the Hello, and what it says when nobody is there."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl

from google.protobuf.message import DecodeError

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied, Internal, Invalid, PlatformError, Unavailable

from .addresses import Address
from .errors import from_info
from .frames import PROTOCOL, Bulk, Frame, FrameKind, encode
from .tls import Trust

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
    """As the environment has it: see `Trust.from_environment`."""
    return Trust.from_environment().context()


def not_connected(address: Address, error: BaseException) -> PlatformError:
    """What a failed attempt to connect means, and what to do about it."""
    if isinstance(error, PlatformError):
        return error
    if isinstance(error, TimeoutError):
        return Unavailable("no answer from the server, is it reachable?", address=address)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        advice = "name the authority that made it in DP_CA, and the host as in the certificate"
        message = f"the server's certificate is not trusted: {advice}"
        return Denied(message, address=address, reason=reason)
    if address.is_tls and isinstance(error, (ssl.SSLError, ConnectionResetError)):
        return Unavailable("no TLS 1.3 there, is it dp:// instead of dps://?", address=address)
    if isinstance(error, socket.gaierror):
        return Unavailable("host name cannot be resolved", address=address)
    if isinstance(error, PermissionError):
        return Denied("not allowed to open the server's socket", address=address)
    if isinstance(error, OSError) and error.errno in (errno.ECONNREFUSED, errno.ENOENT):
        hint = "start one with `dp server start`, or name another in DP_SERVER"
        return Unavailable(f"no server listens there: {hint}", address=address)
    return Unavailable("cannot connect", address=address, reason=error)


def lost_in_handshake(address: Address, reason: BaseException | None = None) -> PlatformError:
    """Why there is no welcome on a connection that ended before. With TLS 1.3 a client has shaken
    hands before the server has looked at its certificate (RFC 8446, section 2)."""
    if address.is_tls and not isinstance(reason, PlatformError):
        return Unavailable(
            "the server ended the handshake: it wants a certificate that it trusts (DP_CERT, "
            "DP_KEY), or it is stopping; its log says which",
            address=address,
        )
    return lost(address, reason)


def lost(address: Address, reason: BaseException | None = None) -> PlatformError:
    """Why calls under way on a connection that ended have no reply."""
    if isinstance(reason, PlatformError):
        return PlatformError(reason.kind, reason.message, **reason.facts)
    return Unavailable("connection lost", address=address, reason=reason)


def timed_out(address: Address, method: str, timeout_s: float) -> Unavailable:
    return Unavailable("no reply in time", method=method, timeout_s=timeout_s, address=address)
