"""What a request holds of a server's memory, and what its reply is going to."""

from __future__ import annotations

from typing import Any

from dataplatform.api.methods import METHODS_BY_NUMBER, Method
from dataplatform.base.limits import FRAME_BYTES_MAX, KIB, PAGE_BYTES

from .frames import HEADER_BYTES, Frame

REPLY_BYTES_UNKNOWN = 64 * KIB
"""What a reply with bulk is expected to take when the request does not say."""


def frame_bytes(frame: Frame) -> int:
    return HEADER_BYTES + len(frame.message) + len(frame.data)


def is_small(frame: Frame) -> bool:
    """Whether neither the request nor its reply holds much: it may use the budget's reserve."""
    method = METHODS_BY_NUMBER.get(frame.method)
    return type(frame.data) is not memoryview and (method is None or not method.reply_bulk)


def waits(method: Method, message: Any) -> bool:
    """Whether it waits for something to happen: a long poll."""
    return "wait_ms" in method.request.DESCRIPTOR.fields_by_name and bool(message.wait_ms)


def reply_bytes_expected(method: Method, message: Any) -> int:
    """What to set aside for a reply before it is there, so that replies stay within the bounds."""
    if not method.reply_bulk:
        return 0
    fields = message.DESCRIPTOR.fields_by_name
    if "wait_ms" in fields and message.wait_ms:
        return REPLY_BYTES_UNKNOWN  # a long poll holds nothing while it waits
    if "length" in fields:
        return min(int(message.length), FRAME_BYTES_MAX)
    if "size_bytes" in fields:
        return min(int(message.size_bytes) or PAGE_BYTES, FRAME_BYTES_MAX)
    return REPLY_BYTES_UNKNOWN
