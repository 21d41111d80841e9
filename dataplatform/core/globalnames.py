"""Global names (D9): `/cluster/path` is `/path` on that cluster.

So nothing in the root directory of the platform can have the name of a known cluster, nor can a
cluster get the name of something that is there. Whatever gives names asks here, inside its unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import Exists, NotFound
from ..keyspace.records import ROOT_INODE, ROOT_VOLUME

if TYPE_CHECKING:
    from .units import Unit


class Elsewhere(NotFound):
    """A symbolic link on the way leads to another cluster: `path`, from this one's root."""

    def __init__(self, path: str) -> None:
        super().__init__("this is in another cluster, where the request cannot go", path=path)
        self.path = path


def first_name(path: str) -> str:
    """Of a path from the root; "" for the root itself."""
    return path.lstrip("/").partition("/")[0]


def check_name(unit: Unit, directory: int, name: bytes) -> None:
    """EXISTS if a cluster is to be found there."""
    taken = unit.volume.guard.clusters
    if taken and name in taken and directory == ROOT_INODE and unit.volume.id == ROOT_VOLUME:
        raise Exists(
            "this is the name of a cluster: choose another name",
            path="/" + name.decode("utf-8", "replace"),
        )
