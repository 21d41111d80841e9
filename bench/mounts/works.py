"""The works that are measured on every place, and what is asked of ours.

A work has one figure. Of rates more is better; of sizes (`is_size`) less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..sides import DISK
from .metadata import MANY, Metadata
from .sqlite import WRITERS

JUICEFS = ("juicefs-always", "juicefs-memory")
PEERS = (*JUICEFS, "seaweedfs")


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing that ours must reach; exactly one of the first three is given."""

    at_least: float | None = None
    at_most: float | None = None
    times: float | None = None
    """Our rate, as a multiple of the best of the places in `of`, or of our own in `work`."""
    of: tuple[str, ...] = ()
    work: str = ""
    words: str = ""
    """As it is shown."""


AHEAD = Goal(times=1, of=PEERS, words="ahead of all peers")


def juicefs(times: float) -> Goal:
    return Goal(times=times, of=JUICEFS, words=f"≥ {times:g}× JuiceFS")


def disk(times: float, words: str) -> Goal:
    return Goal(times=times, of=(DISK,), words=words)


@dataclass(frozen=True, slots=True)
class Work:
    title: str
    unit: str
    goals: tuple[Goal, ...] = ()
    is_size: bool = False


FILES = "files/s"
SYNCED = (juicefs(3), disk(0.25, "≤ 4× the disk's time"))
BULK_COLD = (juicefs(1.3), disk(1 / 1.4, "≥ 1/1.4 of the disk"))
DATABASE = (juicefs(2), disk(0.5, "≥ half of the disk"))

_SINGLE: Mapping[str, Work] = {
    "create": Work("create + close", FILES, (AHEAD,)),
    "create-write": Work("create + write 4 KiB + close", FILES, (AHEAD, juicefs(2))),
    "open-read": Work("open + read 4 KiB + close, again", FILES, (AHEAD,)),
    "open-read-cold": Work("open + read 4 KiB + close, uncached", FILES, (AHEAD,)),
    "unlink": Work("unlink of 4 KiB", FILES, (AHEAD,)),
    "rename": Work("rename", FILES, (AHEAD,)),
    "mkdir": Work("mkdir", "/s", (AHEAD,)),
    "stat": Work("stat, uncached", FILES, (AHEAD,)),
    "stat-cached": Work("stat, again", FILES, (AHEAD,)),
    "write-fsync": Work("append 4 KiB + fsync", "/s", SYNCED),
    "overwrite-fsync": Work("overwrite 4 KiB + fsync", "/s", SYNCED),
}
_LISTINGS: Mapping[str, Work] = {
    "listdir": Work("readdir of 10,000, uncached", "entries/s", (AHEAD,)),
    "listdir-again": Work("readdir of 10,000, again", "entries/s", (AHEAD,)),
    "scandir": Work("readdir + stat of 10,000, uncached", "entries/s", (AHEAD,)),
    "scandir-again": Work("readdir + stat of 10,000, again", "entries/s", (AHEAD,)),
}
_BULK: Mapping[str, Work] = {
    "sequential-write": Work("sequential write + fsync", "MB/s", (juicefs(1.3),)),
    "sequential-read-cold": Work("sequential read, new mount", "MB/s", BULK_COLD),
    "sequential-read": Work("sequential read, again", "MB/s", (juicefs(1.3),)),
}


def _together(works: Mapping[str, Work]) -> Mapping[str, Work]:
    """The same with four processes; asked is what one of them does alone."""
    return {
        f"{name}-{MANY}": Work(
            f"{work.title}, {MANY} processes",
            work.unit,
            (Goal(times=1, work=name, words="≥ one process"),),
        )
        for name, work in works.items()
    }


def _random() -> Mapping[str, Work]:
    return {
        f"random-{kind}{direct}-{depth}x{jobs}": Work(
            f"random 4 KiB {kind}, {'O_DIRECT' if direct else 'buffered'}, depth {depth}, "
            f"{jobs} job{'s' if jobs > 1 else ''}",
            "/s",
            (AHEAD,),
        )
        for direct in ("", "-direct")
        for kind in ("read", "write")
        for depth in (1, 16)
        for jobs in (1, 4)
    }


FAIR = (Goal(at_least=0.5, words="≥ 0.5"),)
"""No starvation: the slowest process has half of the mean at least."""

WORKS: Mapping[str, Work] = {
    **_SINGLE,
    **_LISTINGS,
    **_BULK,
    **_random(),
    **_together(_SINGLE),
    f"share-{MANY}": Work("slowest process's share of the mean, least of these", "", FAIR),
    **_together(_BULK),
    "pgbench-1": Work("pgbench, scale 10, 1 client", "tps", DATABASE),
    "pgbench-8": Work("pgbench, scale 10, 8 clients", "tps", DATABASE),
    "sysbench": Work("sysbench OLTP read-write, MariaDB, 4 threads", "tps", DATABASE),
    "sqlite": Work(f"SQLite WAL, {WRITERS} writers", "tps", DATABASE),
    "sqlite-share": Work("slowest writer's share of the mean", ""),
    "store-ratio": Work(
        "most in the store while databases write, per live byte",
        "×",
        (Goal(at_most=3, words="≤ 3×"),),
        is_size=True,
    ),
    "store-ratio-end": Work("the same at the end", "×", is_size=True),
    "mount-memory": Work(
        "memory of the mount, most", "MB", (Goal(at_most=200, words="≤ 200 MB"),), is_size=True
    ),
    "server-memory": Work("memory of what is behind it, most", "MB", is_size=True),
}
assert set(Metadata.works) == set(_SINGLE)


def known(patterns: Sequence[str]) -> list[str]:
    """The works with these names, which may be patterns such as `pgbench*`; as in the table."""
    return [work for work in WORKS if any(fnmatchcase(work, pattern) for pattern in patterns)]
