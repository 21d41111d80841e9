"""The seam: a place is a directory that unmodified programs work in, and what serves it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..processes import Failed, Running, run

UNMOUNT_S = 60.0
END_S = 60.0
MOUNT_S = 60.0


@dataclass(frozen=True, slots=True)
class Durability:
    """What a power cut leaves."""

    on_return: str
    """Of a call that has returned, without fsync."""
    on_fsync: str


class Place(ABC):
    """What is measured: ours, a peer, or the local disk."""

    name: str
    title: str
    durability: Durability

    def missing(self) -> str | None:
        """Why it cannot run here and how to install it; None when it can."""
        return None

    @abstractmethod
    def start(self, directory: Path) -> None:
        """Serve it, with everything below `directory`. Raises processes.Failed."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all that `start` has started, also when that failed half-way."""

    @property
    @abstractmethod
    def point(self) -> Path:
        """Where programs work."""

    @property
    @abstractmethod
    def stores(self) -> Sequence[Path]:
        """The directories on the disk that hold what was written to it."""

    def remount(self) -> None:  # noqa: B027 (a place without a mount has nothing to do)
        """Serve it with nothing in the memory of the mount. Raises processes.Failed."""

    def is_served(self) -> bool:
        """False where programs would work in an empty directory instead."""
        return _is_mount(self.point)

    def mount_pids(self) -> Sequence[int]:
        """The processes of the mount."""
        return ()

    def server_pids(self) -> Sequence[int]:
        """The processes behind the mount."""
        return ()


def mounted(command: Sequence[str], point: Path, log: Path, **environment: str) -> Running:
    """A mount that stays in the foreground, once it is there."""
    point.mkdir(exist_ok=True)
    running = Running(command, log, environment or None)
    try:
        running.wait_until(point.is_mount, MOUNT_S)
    except Failed:
        running.stop()
        raise
    return running


def unmount(point: Path, running: Running | None, *first: Sequence[str]) -> None:
    """Unmount by the commands in `first`, else by force, and see its process end."""
    for command in (*first, ["umount", str(point)], ["umount", "--lazy", str(point)]):
        with suppress(Failed):
            if _is_mount(point):
                run(command, UNMOUNT_S)
    if running is not None:
        running.ended(END_S)
        running.stop()


def _is_mount(point: Path) -> bool:
    """Also where the process of the mount is dead and stat fails."""
    try:
        return os.path.ismount(point)
    except OSError:
        return True


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found
