"""Who has what open: a removed file lives on until the last of them lets go.

Opens belong to a client's session, which outlives a connection by a lease. After a restart of the
server clients open again what they had; until the lease has passed, orphans of before are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import Invalid

if TYPE_CHECKING:
    from .platform import Platform
    from .volumes import Volume

OPENS_PER_SESSION_MAX = 100_000
"""Files one client may have open, as a large `fs.file-max`."""


class Opens:
    """Open inodes by session."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._sessions: dict[bytes, dict[tuple[int, int], int]] = {}

    def open(self, session: bytes, volume: Volume, inode: int) -> None:
        held = self._sessions.setdefault(session, {})
        if len(held) >= OPENS_PER_SESSION_MAX:
            raise Invalid("too many open files", errno=24)
        _take(held, volume, inode)

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
        if held[key] > 1:
            held[key] -= 1
        else:
            del held[key]
            _let_go(volume, inode)

    def close_session(self, session: bytes) -> None:
        """The client is gone."""
        volumes = {v.id: v for v in self._platform.volumes}
        for volume_id, inode in self._sessions.pop(session, {}):
            if volume_id in volumes:
                _let_go(volumes[volume_id], inode)


def _take(held: dict[tuple[int, int], int], volume: Volume, inode: int) -> None:
    key = (volume.id, inode)
    count = held[key] = held.get(key, 0) + 1
    if count == 1:
        volume.opens[inode] = volume.opens.get(inode, 0) + 1


def _let_go(volume: Volume, inode: int) -> None:
    volume.opens[inode] -= 1
    if not volume.opens[inode]:
        del volume.opens[inode]
