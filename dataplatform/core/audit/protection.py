"""Why nobody can change the audit: its stream carries a mark, and its name is taken.

Whatever changes a name, an inode or a stream asks here, inside its unit. Only units of the audit
itself pass, and the platform's own housekeeping, which never asks; no door and no right gives
anybody else that. What may be changed are its readers (the expression `consume`, which the access
control checks with `check_verbs`), and retention, by the settings of the audited volume.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...base.errors import Denied
from ...keyspace.records import ROOT_INODE, ROOT_VOLUME, Inode
from ..access.guard import Denial, Verdict
from ..access.verbs import Verb
from ..principals import Principal

if TYPE_CHECKING:
    from ..units import Unit

NAME = ".audit"
"""Of the stream, in the root directory of the root volume. Reserved there."""

PATH = f"/{NAME}"
_NAME_BYTES = NAME.encode()

MARK = "audit"
"""In a stream's settings: it is the audit. Stored."""

TTLS = "topic_ttl_ms"
"""In a stream's settings: retention by topic. Stored."""

ORIGIN = "audit"
"""Of the audit's own units. What others do comes from a `unix`, `tcp` or `grpc` place."""

WRITER = Principal("audit", uid=0, gids=frozenset((0,)), is_admin=True)

READERS = "consume"
"""The verb by which an administrator says who reads it."""


def is_audit(inode: Inode) -> bool:
    return bool(inode.settings) and MARK in inode.settings


def check_inode(unit: Unit, inode: Inode) -> None:
    """DENIED if it is the audit's stream, whoever asks."""
    if inode.settings and MARK in inode.settings and unit.request.principal is not WRITER:
        _tell(unit, inode.number)
        raise _denied()


def check_name(unit: Unit, directory: int, name: bytes) -> None:
    """DENIED if that is where the audit is or is going to be."""
    if (
        name == _NAME_BYTES
        and directory == ROOT_INODE
        and unit.volume.id == ROOT_VOLUME
        and unit.request.principal is not WRITER
    ):
        _tell(unit, directory)
        raise _denied()


def _tell(unit: Unit, number: int) -> None:
    """Whoever tries that is in the audit for it."""
    guard, request = unit.volume.guard, unit.request
    if guard.on_denied is not None:
        verdict = Verdict(False, "the audit cannot be changed")
        guard.on_denied(
            Denial(
                request.principal, request.origin, unit.volume, number, PATH, Verb.ADMIN, verdict
            )
        )


def check_verbs(inode: Inode, verbs: Iterable[str]) -> None:
    """DENIED if somebody sets an expression for another verb than who reads it."""
    if is_audit(inode) and any(verb != READERS for verb in verbs):
        raise _denied()


def _denied() -> Denied:
    return Denied(
        "the audit cannot be changed by anybody: say who reads it with `dp acl set /.audit "
        "consume=…`, and how long it is kept with `dp volume set PATH --audit-ttl`",
        path=PATH,
        verb=Verb.ADMIN.word,
        errno=errno.EPERM,
    )
