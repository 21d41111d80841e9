"""How a mirror is: what is known of it in memory, and what people are told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...base.errors import Invalid
from ...keyspace.records import ClusterRecord, CopyCursor, MirrorCursor
from ..signals import Signal
from ..volumes import Volume
from .apply import cursor_of
from .incoming import Counts
from .links import shown
from .seam import Described, Source

if TYPE_CHECKING:
    from ..platform import Platform

LISTEN_S = 2.0
"""A continuous mirror waits so long at its source for something new, then asks again."""

RATE_S = 10.0
"""Over which the rate is told."""


@dataclass(slots=True)
class Status:
    """Of one mirror, for people."""

    volume: int
    path: str
    source: str
    cluster: str  # the source's name, as it says
    state: str  # copying, current, behind, paused, failing
    commit: int = 0
    source_commit: int = 0
    lag_s: float | None = None  # None: nobody knows
    copied_ns: int = 0
    every_ms: int = 0
    bandwidth: int = 0
    rate: float = 0.0  # bytes per second, lately
    shipped: Counts = field(default_factory=Counts)  # since the server was started
    error: str = ""
    error_ns: int = 0
    copied_bytes: int = 0  # of a copy aside
    total_bytes: int = 0

    @property
    def lag_commits(self) -> int:
        return max(0, self.source_commit - self.commit)


class Known:
    """What is known in memory of one mirror; it may be lost."""

    def __init__(self, changed: Signal | None = None) -> None:
        self.source: Source | None = None
        self.reached: tuple[str, ClusterRecord] | None = None
        """Its cluster, as it was when the source was opened."""
        self.described: Described | None = None
        self.heard_s = 0.0  # when that was
        self.cursor: MirrorCursor | None = None
        self.copy: CopyCursor | None = None
        self.counts = Counts()
        self.error = ""
        self.error_ns = 0
        self.moved: list[tuple[float, int]] = []
        self.task: asyncio.Task[Any] | None = None
        self.changed = changed or Signal()  # somebody set, paused, resumed or promoted it
        self.stopped = False

    def shipped(self, counts: Counts, now_s: float) -> None:
        self.counts.add(counts)
        self.moved = [moved for moved in self.moved if moved[0] > now_s - RATE_S]
        self.moved.append((now_s, counts.size_bytes))

    def rate(self, now_s: float) -> float:
        """Bytes per second, lately."""
        return sum(size for at_s, size in self.moved if at_s > now_s - RATE_S) / RATE_S

    def heard(self, described: Described, now_s: float) -> None:
        self.described, self.heard_s = described, now_s


async def status_of(platform: Platform, volume: Volume, known: Known) -> Status:
    """INVALID if it is no mirror."""
    mirror = volume.settings.mirror
    if not mirror:
        raise Invalid(
            "this volume is no mirror, or has been promoted",
            path=await platform.catalog.mount_path(volume.id),
        )
    cursor, clock = await cursor_of(volume), platform.clock
    described = known.described
    status = Status(
        volume.id,
        await platform.catalog.mount_path(volume.id),
        shown(mirror).words,
        described.cluster if described is not None else mirror.get("name", ""),
        "copying",
        commit=cursor.commit if cursor is not None else 0,
        copied_ns=cursor.copied_ns if cursor is not None else 0,
        every_ms=mirror.get("every_ms", 0),
        bandwidth=mirror.get("bandwidth", 0),
        shipped=known.counts,
        error=known.error,
        error_ns=known.error_ns if known.error else 0,
    )
    status.source_commit = described.commit if described is not None else status.commit
    status.rate = known.rate(clock.monotonic())
    if known.copy is not None:
        status.copied_bytes = known.copy.size_bytes
        status.total_bytes = max(known.copy.total_bytes, known.copy.size_bytes)
    if cursor is not None and described is not None:
        # By the source's clock up to when it was last heard, by ours from then on.
        heard_s = clock.monotonic() - known.heard_s
        is_all = cursor.commit == described.commit
        behind_s = 0 if is_all else max(0, described.time_ns - cursor.asked_ns) / 1e9
        is_listening = is_all and not (known.error or status.every_ms) and heard_s < 2 * LISTEN_S
        status.lag_s = 0.0 if is_listening else behind_s + heard_s
    status.state = _state(mirror, known, cursor, status)
    return status


def _state(
    mirror: dict[str, Any], known: Known, cursor: MirrorCursor | None, status: Status
) -> str:
    if mirror.get("paused"):
        return "paused"
    if known.error:
        return "failing"
    if cursor is None or known.copy is not None:
        return "copying"
    return "behind" if status.lag_commits else "current"
