"""Principals: who a request acts for, once it is known (by a token, a certificate or a socket).

Doors find out who calls (`server/identity.py`) and hand in one of these; what it may do is decided
in `core/access/`. Equality is identity: whoever makes principals makes one for the same caller, so
that verdicts and gatherers can be kept by principal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NOBODY = 2**32 - 1
"""The uid and gid of callers that have none: they get what others get (POSIX). No kernel has such a
uid, it is (uid_t)-1: the user nobody of a system (65534) is a user like others."""

OVERFLOW = 65534
"""Whose is what somebody without a uid makes (Linux, /proc/sys/kernel/overflowuid)."""


@dataclass(frozen=True, slots=True, eq=False)
class Principal:
    """One caller: a user, an anonymous caller, or the platform itself.

    `groups` are names, for access expressions; `uid` and `gids` are numbers, for POSIX modes.
    """

    name: str
    uid: int = NOBODY
    gids: frozenset[int] = frozenset()
    groups: frozenset[str] = frozenset()
    is_admin: bool = False  # acts by an administrator's right, which the audit shows
    may_speak: bool = False  # for others: for the caller that a request names (`Target.caller`)
    is_read_only: bool = False  # of a token that allows no change
    roots: tuple[tuple[int, int], ...] = ()
    """(volume, inode) of the subtrees that a token is good for; empty: everything."""
    token: str = field(default="", repr=False)  # the id of the token it came with, for the audit
    scope: str = ""
    """How its rights differ from those that its name has by itself: see `owner`."""
    gid: int = NOBODY  # the group of what it creates
    spoken_for_by: str = ""  # the `owner` of the principal that speaks for this one
    modes_checked: bool = False  # by the kernel it came through: expressions alone decide here
    owner_name: str = ""  # in `owner`, in place of a name that may become another one

    # What follows from these; every request looks at it, so it is found once.
    is_free: bool = field(init=False, repr=False)
    """An administrator whom no token limits: there is nothing to ask."""
    is_trusted: bool = field(init=False, repr=False)
    """Whether what POSIX grants need not be asked: of an administrator, or of somebody whose own
    kernel has asked it."""
    owner: str = field(init=False, repr=False)
    """Who a session and a stored reply belong to. Somebody with the same name but other limits (a
    token that may only read) is somebody else there; a renewed token is not. What a mount does for
    others belongs to the mount. It is on disk, in the stored replies."""

    def __post_init__(self) -> None:
        is_free = self.is_admin and not self.is_read_only and not self.roots
        name = self.owner_name or self.name
        owner = f"{name} ({self.scope})" if self.scope else name
        object.__setattr__(self, "is_free", is_free)
        object.__setattr__(self, "is_trusted", self.is_admin or self.modes_checked)
        object.__setattr__(self, "owner", self.spoken_for_by or owner)

    def __str__(self) -> str:
        return self.name


SYSTEM_PRINCIPAL = Principal("system", uid=0, gids=frozenset((0,)), is_admin=True, gid=0)
"""The platform itself: background tasks."""

MIRROR_PRINCIPAL = Principal("mirror", uid=0, gids=frozenset((0,)), is_admin=True, gid=0)
"""What brings a mirror up to date: nobody else writes there."""
