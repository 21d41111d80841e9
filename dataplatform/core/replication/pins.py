"""Pins that others hold, over a wire: by number, each for one caller, for as long as it is used.

A pin belongs to a session and goes with it; it also goes when it was not used for LEASE_S, so that
a mirror that was cut off does not keep the source's past for ever.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...base.errors import Denied, Invalid
from ...keyspace.records import ROOT_INODE, Inode
from ..principals import Principal
from .seam import LEASE_S, PinLost

if TYPE_CHECKING:
    from ..platform import Platform
    from .source import LocalPin

NUMBER_BYTES = 8


def require_right(principal: Principal) -> None:
    """DENIED unless it may read all that a volume has: whoever mirrors it sees through every mode
    and expression below. So that is for administrators. A token of one that can only read, or that
    is good for this volume alone, will do."""
    if not principal.is_admin:
        raise Denied(
            "only an administrator may mirror a volume", user=principal.name, errno=errno.EPERM
        )


def require_root(inode: Inode) -> None:
    """INVALID unless it is a volume's root."""
    if inode.number != ROOT_INODE:
        raise Invalid("only whole volumes are mirrored: this is not the root of one")


@dataclass(slots=True)
class _Held:
    pin: LocalPin
    session: bytes
    owner: str
    used_s: float


class Pins:
    """Of one server."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._held: dict[int, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, pin: LocalPin, session: bytes, principal: Principal) -> int:
        """The number by which its holder names it."""
        number = int.from_bytes(self._platform.entropy.token(NUMBER_BYTES), "big") or 1
        now_s = self._platform.clock.monotonic()
        self._held[number] = _Held(pin, session, principal.owner, now_s)
        return number

    def get(self, number: int, principal: Principal) -> LocalPin:
        """Its lease begins anew. DENIED, INVALID; PinLost if there is none of that number, or it is
        somebody else's."""
        require_right(principal)
        if not number:
            raise Invalid("which pin is not said")
        held = self._held.get(number)
        if held is None or held.pin.is_over or held.owner != principal.owner:
            raise PinLost("the pin of the source is over: take another one")
        held.used_s = self._platform.clock.monotonic()
        return held.pin

    def remove(self, number: int, principal: Principal) -> None:
        """No error if it is over."""
        require_right(principal)
        held = self._held.get(number)
        if held is not None and held.owner == principal.owner:
            self._end(number)

    def end_session(self, session: bytes) -> None:
        for number in [n for n, held in self._held.items() if held.session == session]:
            self._end(number)

    def run_once(self) -> int:
        """End those that nobody used for too long, or whose volume is closed; how many."""
        before_s = self._platform.clock.monotonic() - LEASE_S
        over = [n for n, h in self._held.items() if h.used_s <= before_s or h.pin.is_over]
        for number in over:
            self._end(number)
        return len(over)

    def _end(self, number: int) -> None:
        self._held.pop(number).pin.drop()
