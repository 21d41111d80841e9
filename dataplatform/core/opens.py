"""Who has what open: a removed file lives on until the last of them lets go.

Opens belong to a client's session, which outlives a connection by a lease. After a restart of the
server clients open again what they had; until the lease has passed, orphans of before are kept.

An open keeps the verbs with which it was opened: what they allowed then by the mode they go on
allowing, whatever becomes of the mode (POSIX.1-2017 §2.14, open file descriptions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import Invalid
from .access.verbs import Verb

if TYPE_CHECKING:
    from .platform import Platform
    from .volumes import Volume

OPENS_PER_SESSION_MAX = 100_000
"""Files one client may have open, as a large `fs.file-max`."""


_NONE = Verb(0)


class Open:
    """How often a session has an inode open, and for what."""

    __slots__ = ("count", "verbs")

    def __init__(self) -> None:
        self.count = 0
        self.verbs = _NONE


Held = dict[tuple[int, int], Open]
"""By volume and inode."""


class Opens:
    """Open inodes by session."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._sessions: dict[bytes, Held] = {}

    def open(self, session: bytes, volume: Volume, inode: int, verbs: Verb = _NONE) -> None:
        held = self._sessions.setdefault(session, {})
        if len(held) >= OPENS_PER_SESSION_MAX:
            raise Invalid("too many open files", errno=24)
        taken = _take(held, volume, inode)
        taken.verbs = taken.verbs | verbs if taken.verbs is not _NONE else verbs

    def verbs_of(self, session: bytes, volume: Volume, inode: int) -> Verb | None:
        """With which verbs the session opened it; None: it has not."""
        held = self._sessions.get(session)
        found = held.get((volume.id, inode)) if held else None
        return found.verbs if found is not None else None

    def add_verbs(self, session: bytes, volume: Volume, inode: int, verbs: Verb) -> None:
        """What the session has open it has open for these, too, until it has closed it."""
        held = self._sessions.get(session)
        found = held.get((volume.id, inode)) if held else None
        if found is not None:
            found.verbs |= verbs

    def ensure(self, session: bytes, volume: Volume, inode: int) -> None:
        """Open it, unless the session has it open. No limit: it has lost its name already."""
        held = self._sessions.setdefault(session, {})
        if (volume.id, inode) not in held:
            _take(held, volume, inode)

    def close(self, session: bytes, volume: Volume, inode: int) -> None:
        """Closing what is not open changes nothing: the session may have expired."""
        held = self._sessions.get(session)
        key = (volume.id, inode)
        if not held or key not in held:
            return
        held[key].count -= 1
        if not held[key].count:
            del held[key]
            _let_go(volume, inode)

    def forget_volume(self, volume_id: int) -> None:
        """The volume was closed for everybody: nothing of it is open any more."""
        for held in self._sessions.values():
            for key in [key for key in held if key[0] == volume_id]:
                del held[key]

    def close_session(self, session: bytes) -> None:
        """The client is gone."""
        volumes = {v.id: v for v in self._platform.volumes}
        for volume_id, inode in self._sessions.pop(session, {}):
            if volume_id in volumes:
                _let_go(volumes[volume_id], inode)


def _take(held: Held, volume: Volume, inode: int) -> Open:
    key = (volume.id, inode)
    taken = held.get(key)
    if taken is None:
        taken = held[key] = Open()
        volume.opens[inode] = volume.opens.get(inode, 0) + 1
    taken.count += 1
    return taken


def _let_go(volume: Volume, inode: int) -> None:
    volume.opens[inode] -= 1
    if not volume.opens[inode]:
        del volume.opens[inode]
