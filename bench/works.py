"""The works that are measured, and what is asked of each.

A work is one thing a program does, with one figure: a rate (more is better) or a time (less is
better). Every side that can do the work has one or more ways of doing it (`sides.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """What must be reached; all of it. Nothing given: nothing is asked."""

    at_least: float | None = None
    at_most: float | None = None
    times: float | None = None
    """Our rate at least (our time at most) so many times the best of the sides in `of`."""
    of: tuple[str, ...] = ()
    way: str = ""
    """Only those ways of theirs whose label begins so; all without it."""


NOTHING = Asked()


@dataclass(frozen=True, slots=True)
class Work:
    title: str
    unit: str
    asked: Asked = NOTHING
    is_time: bool = False
    turns: int = 1
    """Turns per round: many short ones where the sides must be measured close to each other."""
    is_heavy: bool = False
    """Takes minutes to prepare, so it runs only when it is named or against peers."""


BROKERS = ("redis", "nats")

PRODUCE = Asked(at_least=1_000_000, times=5, of=BROKERS)
SYNCED = Asked(times=2.5, of=("disk",))
CONCURRENT = Asked(at_least=30_000)

WORKS: Mapping[str, Work] = {
    "produce-many": Work("one producer, 100-byte records, many per call", "/s", PRODUCE),
    "produce": Work("one producer, 100-byte records, one per call", "/s", PRODUCE),
    "consume": Work("one consumer of those", "/s", Asked(at_least=1_500_000)),
    "put": Work("one durable put, one client", "µs", SYNCED, is_time=True, turns=5),
    "append": Work("one durable append, one client", "µs", SYNCED, is_time=True, turns=5),
    "put-shared": Work("durable puts, 64 tasks on one connection", "/s", CONCURRENT),
    "put-connections": Work("durable puts, 64 connections of one process", "/s", CONCURRENT),
    "put-processes": Work("durable puts, 64 connections of 2 processes", "/s", CONCURRENT),
    "put-many": Work(
        "100-byte rows, many per call",
        "rows/s",
        Asked(times=1.5, of=("redis",), way="SET, pipelines, everysec"),
    ),
    "get": Work(
        "get, one at a time",
        "/s",
        Asked(times=1.3, of=("redis",), way="GET (redis-py)"),
        turns=3,
    ),
    "get-pipelined": Work("get, 64 tasks on one connection", "/s", Asked(at_least=60_000)),
    "scan": Work("scan of a table to the client", "rows/s", Asked(at_least=300_000)),
    "file-write": Work(
        "file write, 1 MiB calls, until close returns",
        "MB/s",
        Asked(at_least=500, times=0.6, of=("disk",)),
    ),
    "file-write-sync": Work("file write, 1 MiB calls, with fsync", "MB/s"),
    "file-read": Work(
        "file read, 1 MiB calls", "MB/s", Asked(at_least=900, times=0.6, of=("disk",))
    ),
    "small-files": Work("4 KiB files created and written", "/s", Asked(at_least=5_000)),
    "stat": Work(
        "stat in a directory of 1,000,000 files",
        "µs",
        Asked(times=1.5, of=("ours",)),
        is_time=True,
        turns=3,
        is_heavy=True,
    ),
}
