"""What the audit is told that leaves no commit: reads, of a volume that tells of them, and what was
refused by anything else than the guard, which tells that itself.
"""

from __future__ import annotations

from typing import Any

from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import PlatformError
from dataplatform.core.audit.records import DENIED
from dataplatform.core.platform import Platform

from .calls import Call
from .identity import ANONYMOUS, Attachment

_WITH_KEYS = "row got"

_WORDS = {
    "Files.Open": ("opened", "file"),
    "Files.Read": ("read", "file"),
    "Files.Locate": ("read", "file"),
    "Namespace.List": ("listed", "directory"),
    "Tables.Get": (_WITH_KEYS, "table"),
    "Tables.Scan": ("scanned", "table"),
    "Streams.Fetch": ("fetched", "stream"),
    "Changes.Read": ("changes read", ""),
    "Replication.Pin": ("replicated", "volume"),
}

READS = {METHODS[name].number: words for name, words in _WORDS.items()}
"""By number of the method: in words, and the kind of thing."""


async def observe(call: Call, op: str, kind: str, message: Any) -> None:
    """A request was answered that read something of an audited volume."""
    assert call.about is not None
    volume, number = call.about
    if volume.source is not None:
        number |= volume.id << 64  # something else than what has the number today
    home = volume.home.id
    audit, has_keys = call.platform.audit, op == _WITH_KEYS
    observed = audit.observed
    if observed.is_told(call.session.id, op, home, number):
        return
    read = (call.principal, call.origin, home, number, op, message.keys if has_keys else ())
    if observed.read_again(*read):
        return
    try:
        number = call.about[1]
        below = volume.paths.get(number) or await volume.path_of(number)
    except PlatformError:
        below = f"/(inode {number})"
    observed.read(*read, path=audit.path_of(volume, below), kind=kind)


async def observe_refusal(call: Call, method: Method, error: PlatformError) -> None:
    """A request was refused by something else than the guard, which tells what it refuses."""
    if "verb" in error.facts:
        return
    audit = call.platform.audit
    if call.about is None:
        audit.record(
            call.principal, call.origin, op=DENIED, verb=method.name, rule=error.message, path=""
        )
        return
    volume, number = call.about
    if not volume.home.settings.audit:
        return
    try:
        below = await volume.path_of(number)
    except PlatformError:
        below = f"/(inode {number})"
    audit.observed.denied(
        call.principal,
        call.origin,
        volume.home.id,
        verb=method.name,
        path=audit.path_of(volume, below),
        rule=error.message,
    )


def observe_stranger(
    platform: Platform, attachment: Attachment, method: Method, error: PlatformError
) -> None:
    """A credential was not good any more, or somebody spoke for others without the right to."""
    platform.audit.record(
        attachment.session.principal,
        attachment.origin,
        op="login",
        verb=method.name,
        rule=error.message,
        path="",
    )


def observe_login(platform: Platform, origin: str, error: PlatformError) -> None:
    """Somebody was refused at the door. Errors hold no secrets, so their facts may be told."""
    facts = {name: str(value) for name, value in error.facts.items()}
    platform.audit.record(ANONYMOUS, origin, op="login", rule=error.message, path="", facts=facts)
