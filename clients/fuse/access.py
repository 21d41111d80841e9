"""Times of access, by the kernel's rule `relatime`: a read moves them only if the file was changed
since it was last read, or a day has passed.

They are seen here at once and reach the server in the background, some at a time; those that were
on their way are lost with the mount, as with `lazytime` on a local disk. With `noatime` none moves.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import PlatformError

from .calls import SET_ATTRIBUTES

if TYPE_CHECKING:
    from .mount import Mount
    from .nodes import Key, Node

DAY_NS = 24 * 3600 * 10**9
SENT_MAX = 500
"""Times sent in one run: they are no program's business, so they cost little."""

KEPT_MAX = 20_000
EVERY_S = 20.0


class Access:
    """The times of access of a mount."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._is_off = mount.options.atime == "noatime" or mount.options.read_only
        self._moved: dict[Key, int] = {}

    def read(self, node: Node) -> None:
        """Somebody reads the file."""
        if self._is_off or not node.known or node.is_snapshot:
            return
        now_ns, atime_ns = time.time_ns(), node.atime_ns
        is_recent = atime_ns > node.mtime_ns and atime_ns > node.ctime_ns
        if now_ns <= atime_ns or (is_recent and now_ns - atime_ns < DAY_NS):
            return
        node.atime_ns = now_ns
        node.packed = None
        if len(self._moved) < KEPT_MAX:
            self._moved[node.key] = now_ns
        if self._mount.kernel is not None:
            self._mount.kernel.attributes_changed(node.number)

    def latest_ns(self, key: Key, known_ns: int) -> int:
        """When it was read last: the server knows of this, but perhaps not of a later time."""
        return max(self._moved.get(key, known_ns), known_ns)

    def set(self, key: Key) -> None:
        """A program sets it: what was to be told is past."""
        self._moved.pop(key, None)

    async def run_once(self) -> None:
        """Tell the server some of them."""
        for key in list(self._moved)[:SENT_MAX]:
            request = pb.SetAttributesRequest(
                target=pb.Target(volume=key[0], inode=key[1]),
                atime_ns=self._moved.pop(key),
                accessed=True,
            )
            try:
                await self._mount.calls.channel.call(SET_ATTRIBUTES, request, is_numbered=False)
            except PlatformError:
                return  # gone, or the server is away: it is only a time of access
