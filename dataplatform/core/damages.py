"""Damage is named by the path that it belongs to, counted from the platform's root.

Below, an error of the kind CORRUPT knows the file or object in which it was met. A user knows
paths. `name` puts the path into the fact ``path``, and what stood there into ``stored_in``; an
error that has a ``stored_in`` was named before, and stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import ErrorKind, PlatformError
from ..keyspace.records import ROOT_INODE, ROOT_VOLUME

if TYPE_CHECKING:
    from .platform import Platform

STORED_IN = "stored_in"

_PLACES = ("partition", "table", "topic")
"""Facts that begin with a path from the volume's root."""


def named(error: PlatformError, path: str, **facts: object) -> PlatformError:
    """The same error with this path, and with further facts."""
    if STORED_IN in error.facts:
        return error
    kept = {name: value for name, value in error.facts.items() if name != "path"}
    stored_in = str(error.facts.get("path", "the database"))
    return PlatformError(
        error.kind, error.message, **{"path": path, **kept, **facts, STORED_IN: stored_in}
    )


async def name(
    platform: Platform, error: PlatformError, volume_id: int, number: int, path: str = ""
) -> PlatformError:
    """The error as it is, unless it is of the kind CORRUPT and not named yet: then it is about
    `path`, if that counts from the platform's root, or else about the inode `number`."""
    if error.kind is not ErrorKind.CORRUPT or STORED_IN in error.facts:
        return error
    mount, below = await _find(platform, volume_id, number)
    full = mount.rstrip("/") + ("" if below == "/" else below) or "/"
    if path.startswith("/"):
        full = path
    places = {
        fact: full + value.removeprefix(below)
        for fact in _PLACES
        if below != "/" and isinstance(value := error.facts.get(fact), str)
        if value.startswith(below)
    }
    return named(error, full, **places)


async def _find(platform: Platform, volume_id: int, number: int) -> tuple[str, str]:
    """(where the volume is mounted, path in it), as far as what is damaged lets us know: where a
    volume is mounted, the root volume knows."""
    volume_id = volume_id or ROOT_VOLUME
    mount, below = "/", "/"
    try:
        mount = await platform.catalog.mount_path(volume_id)
        if number not in (0, ROOT_INODE):
            below = f"/(inode {number})"
            volume = await platform.acquire(volume_id)
            try:
                below = await volume.path_of(number)
            finally:
                platform.release(volume)
    except PlatformError:
        pass  # the damage itself is in the way
    return mount, below if below.startswith("/") else f"/{below}"
