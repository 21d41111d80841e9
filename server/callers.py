"""Whom a request is for when its client speaks for others: a mount for the processes that use it.

A principal with `may_speak` names the process's uid and groups (`Target.caller`). The request is
judged as that user's: with the numbers that the kernel told the mount, with the names and groups
that this platform knows the uid by, and within the limits of the speaker's own token. uid 0 is
whoever mounted: it acts by the speaker's own right.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable
from dataclasses import replace

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied
from dataplatform.core.principals import NOBODY, Principal

from .identity import ANONYMOUS

CALLERS_MAX = 10_000
"""Callers whose principals are remembered, so that verdicts about them are, too."""

Known = tuple[str, frozenset[str]]
"""A user's name and groups, as expressions name them."""


def _of_this_machine(uid: int) -> Known:
    try:
        return pwd.getpwuid(uid).pw_name, frozenset()
    except KeyError:
        return f"uid:{uid}", frozenset()


class Callers:
    """Principals of callers, the same one for the same caller until `forget`.

    `find_user` says who has a uid among the users of the platform; None for nobody.
    """

    def __init__(self) -> None:
        self.find_user: Callable[[int], Known | None] = lambda uid: None
        self.find_named: Callable[[str], Principal | None] = lambda name: None
        """The user of this name as he comes by himself; None if there is none."""
        self._named: dict[tuple[Principal, str, bool], Principal] = {}
        self._made: dict[tuple[Principal, int, tuple[int, ...], bool], Principal] = {}

    def forget(self) -> None:
        """Users or groups have changed: whoever calls is somebody new."""
        self._made.clear()
        self._named.clear()

    def principal(self, speaker: Principal, caller: pb.Caller) -> Principal:
        """Whom the speaker speaks for. DENIED to whoever may not."""
        if not speaker.may_speak:
            raise Denied("you may not speak for others", user=speaker.name)
        if caller.user:
            return self._user(speaker, caller)
        if not caller.uid:
            return speaker
        key = (speaker, caller.uid, tuple(caller.gids), caller.modes_checked)
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= CALLERS_MAX:
                self._made.clear()
            made = self._made[key] = self._make(speaker, caller)
        return made

    def _user(self, speaker: Principal, caller: pb.Caller) -> Principal:
        """Somebody whom a server of another cluster names. An administrator there is none here.
        DENIED if the user is disabled."""
        key = (speaker, caller.user, caller.read_only)
        made = self._named.get(key)
        if made is None:
            if len(self._named) >= CALLERS_MAX:
                self._named.clear()
            found = self.find_named(caller.user)
            made = self._named[key] = replace(
                found if found is not None else ANONYMOUS,
                is_admin=False,
                may_speak=False,
                is_read_only=speaker.is_read_only or caller.read_only,
                roots=speaker.roots,
                token=speaker.token,
                spoken_for_by=speaker.owner,
            )
        return made

    def _make(self, speaker: Principal, caller: pb.Caller) -> Principal:
        name, groups = self.find_user(caller.uid) or _of_this_machine(caller.uid)
        gids = tuple(caller.gids)
        return replace(
            speaker,
            name=name,
            uid=caller.uid,
            gid=gids[0] if gids else NOBODY,
            gids=frozenset(gids),
            groups=groups,
            is_admin=False,
            may_speak=False,
            spoken_for_by=speaker.owner,
            modes_checked=caller.modes_checked,
        )
