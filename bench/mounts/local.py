"""A directory of the local disk: what a mount is held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..sides import DISK
from .places import Durability, Place


class LocalDisk(Place):
    name = DISK
    title = "local disk"
    durability = Durability("within 30 s", "synced")
    _point: Path

    def start(self, directory: Path) -> None:
        self._point = directory

    def stop(self) -> None:
        pass

    def is_served(self) -> bool:
        return True

    @property
    def point(self) -> Path:
        return self._point

    @property
    def stores(self) -> Sequence[Path]:
        return (self._point,)
