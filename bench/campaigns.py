"""A whole measurement: which sides, in which directory, and its results one by one."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplatform import Invalid

from . import memory
from .disk import Disk
from .ours.side import Connected, Own
from .peers import PEERS
from .results import Result
from .rounds import Tell, entered, measured
from .sides import DISK, Side, Sizes
from .works import WORKS

BUSY = 0.25
"""Load average per processor from which on others disturb the figures."""
IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured."""

    works: tuple[str, ...] = ()
    """Names of works; none: all (but no heavy ones on a server that is in use)."""
    peers: tuple[str, ...] | None = None
    """Names of peers to compare with, on servers of their own and beside the disk; None: the
    server at an address is measured, alone."""
    rounds: int = 3
    scale: float = 1.0
    directory: Path | None = None
    """Where the servers store; the temporary directory without it."""

    def __post_init__(self) -> None:
        _known("workload", self.works, WORKS)
        _known("peer", self.peers or (), (DISK, *PEERS))
        if self.rounds < 1 or self.scale <= 0:
            raise Invalid("rounds and scale must be more than 0")

    @property
    def chosen(self) -> list[str]:
        """The works, in the order of the table."""
        is_own = self.peers is not None
        return [
            name
            for name, work in WORKS.items()
            if (name in self.works if self.works else is_own or not work.is_heavy)
        ]


def _known(what: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise Invalid(f"no {what} is called {name!r}: there are {', '.join(known)}")


def run(plan: Plan, address: str | None, token: str | None, tell: Tell) -> Iterator[Result]:
    """The results, each as soon as it is there. With peers all run on servers of their own; without
    them the works run against the server at `address`, in a directory that is removed at the end.

    Raises processes.Failed when our own server does not start, Unavailable when there is none.
    """
    load = os.getloadavg()[0]
    if load > BUSY * (os.cpu_count() or 1):
        tell(f"other programs are busy (load average {load:.1f}): the figures will be worse for it")
    own = Own()
    sides: list[Side]
    if plan.peers is None:
        sides = [Connected(address, token, f"/dp-bench-{secrets.token_hex(4)}")]
    else:
        sides = [own, Disk(), *(PEERS[name]() for name in plan.peers if name != DISK)]
    with tempfile.TemporaryDirectory(prefix="dp-bench-", dir=plan.directory) as name:
        directory = Path(name)
        if plan.peers is not None and (kind := file_system(directory)) in IN_MEMORY:
            tell(f"{directory} is {kind}: a sync costs nothing there; choose another with --dir")
        with entered(sides, plan.chosen, directory, tell) as field:
            for side, reason in field.missing.items():
                tell(f"without {side}: {reason}")
            yield from measured(
                plan.chosen, field.contestants, plan.rounds, Sizes(plan.scale), tell
            )
            if own.pid:
                yield from memory.at_end(own.pid, own.rest_bytes)


def file_system(directory: Path) -> str:
    """The kind of the file system that a directory is on, such as ext4 or tmpfs."""
    best, kind = "", "unknown"
    place = f"{directory.resolve()}/"
    for line in Path("/proc/mounts").read_text().splitlines():
        point, found = line.split()[1:3]
        if place.startswith(f"{point.rstrip('/')}/") and len(point) >= len(best):
            best, kind = point, found
    return kind
