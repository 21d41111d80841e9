"""Errors on the wire: `PlatformError` to and from `pb.ErrorInfo`, with errno and facts."""

from __future__ import annotations

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import KINDS, ErrorKind, PlatformError

TEXT_CHARACTERS_MAX = 8192
"""Of a message or a fact on the wire: an error must never be what is too large to send."""


def to_info(error: PlatformError) -> pb.ErrorInfo:
    info = pb.ErrorInfo(kind=error.kind.value, message=_text(error.message))
    if error.os_errno != KINDS[error.kind].errno:
        info.errno = error.os_errno
    for name, value in error.facts.items():
        if name != "errno":
            info.facts[name] = _text(value)
    return info


def from_info(info: pb.ErrorInfo) -> PlatformError:
    """The error as its raiser made it; facts are text now. A kind we do not know is INTERNAL."""
    try:
        kind = ErrorKind(info.kind)
    except ValueError:
        kind = ErrorKind.INTERNAL
    # Set afterwards: as keyword arguments, a fact may not have the name of a parameter.
    error = PlatformError(kind, info.message, errno=info.errno or None)
    error.facts.update(sorted(info.facts.items()))  # a map has no order on the wire
    return error


def _text(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        text = bytes(value).decode("utf-8", "backslashreplace")
    else:
        # File names that are not UTF-8 carry surrogates, which protobuf refuses.
        text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[:TEXT_CHARACTERS_MAX] + "…"
