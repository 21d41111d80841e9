"""Reads, for the audit of a volume that is told of them: what was read, by whom, from where.

Only what was answered is told: what was refused is the guard's to tell.
"""

from __future__ import annotations

from typing import Any

from dataplatform.api.methods import METHODS
from dataplatform.base.errors import PlatformError

from .calls import Call

_WORDS = {
    "Files.Open": ("opened", "file"),
    "Files.Read": ("read", "file"),
    "Files.Locate": ("read", "file"),
    "Namespace.List": ("listed", "directory"),
    "Tables.Get": ("row got", "table"),
    "Tables.Scan": ("scanned", "table"),
    "Streams.Fetch": ("fetched", "stream"),
    "Changes.Read": ("changes read", ""),
}

READS = {METHODS[name].number: words for name, words in _WORDS.items()}
"""By number of the method: in words, and the kind of thing."""


async def observe(call: Call, op: str, kind: str, message: Any) -> None:
    """A request was answered that read something of an audited volume."""
    assert call.about is not None
    volume, number = call.about
    audit = call.platform.audit
    if audit.observed.is_told(call.session.id, op, volume.id, number):
        return
    try:
        below = await volume.path_of(number)
    except PlatformError:
        below = f"/(inode {number})"
    keys = ()
    if op == "row got":
        keys = tuple(key.decode("utf-8", "backslashreplace") for key in message.keys)
    audit.observed.read(
        call.principal,
        call.origin,
        volume.id,
        op=op,
        path=audit.path_of(volume, below),
        kind=kind,
        keys=keys,
    )
