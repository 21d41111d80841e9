"""Master keys as text: how they stand in a file or in the environment.

    dpmk1:<fingerprint>:<key>     fingerprint: 16 hex digits; key: 32 bytes in base64url

One a line, or parted by blanks; what follows `#` is a comment. The first one is used from now on,
the others only for what they wrapped before: that is how one is replaced by another. The
fingerprint tells which key wrapped what, and a mistyped key from a right one. It says nothing about
the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import NamedTuple

from .errors import Invalid

KEY_BYTES = 32
_MARK = "dpmk1"  # stored with what is wrapped, by way of the fingerprint: must not change
_CONTEXT = b"dataplatform master key 1"


class MasterKey(NamedTuple):
    fingerprint: str
    key: bytes

    def __repr__(self) -> str:
        return f"MasterKey({self.fingerprint})"  # never the key: it would end up in a log


def master_key(key: bytes) -> MasterKey:
    assert len(key) == KEY_BYTES, len(key)
    return MasterKey(hmac.digest(key, _CONTEXT, hashlib.sha256)[:8].hex(), key)


def format_key(key: MasterKey) -> str:
    return f"{_MARK}:{key.fingerprint}:{base64.urlsafe_b64encode(key.key).decode().rstrip('=')}"


def parse_keys(text: str, source: str) -> list[MasterKey]:
    """In their order. INVALID, without a word of the text, if one is none or if there is none."""
    found: list[MasterKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].split():
            found.append(_parse_key(word, source, number))
    if not found:
        raise Invalid("there is no master key: make one with dp keys create-master", source=source)
    return found


def _parse_key(word: str, source: str, line: int) -> MasterKey:
    mark, _, rest = word.partition(":")
    fingerprint, _, encoded = rest.partition(":")
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if mark != _MARK or len(raw) != KEY_BYTES:
        raise Invalid(
            "this is no master key: make one with dp keys create-master", source=source, line=line
        )
    key = master_key(raw)
    if key.fingerprint != fingerprint:
        raise Invalid(
            "the master key was mistyped: it has another fingerprint",
            source=source,
            line=line,
            written=fingerprint,
            actual=key.fingerprint,
        )
    return key
