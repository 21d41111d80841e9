"""What a mount counts, and how it is shown: `.stats` in the mount's root, SIGUSR1, `dp status`.

Whoever does the work changes the attributes of `Stats` directly; reading is rare and does the rest.
`.stats` is lines of `name value`, sizes in bytes and times in microseconds, so that `grep` and
`awk` are enough; names that are there stay, others may come.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from .options import MountOptions

if TYPE_CHECKING:
    from dataplatform.api import platform_pb2 as pb

logger = logging.getLogger(__name__)

LATENCIES = 1024
"""How many of the last calls to the server median and p99 are of."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Stats:
    """The counters of one worker. They begin anew with a successor; `generation` tells."""

    def __init__(self, options: MountOptions, session: bytes = b"", generation: int = 0) -> None:
        self.options = options
        self.session = session
        self.generation = generation
        self.since_ns = time.time_ns()
        self.operations: defaultdict[str, int] = defaultdict(int)  # requests of the kernel, by name
        self.cache_hits = 0  # of these, answered without asking the server
        self.read_bytes = 0  # by programs
        self.written_bytes = 0
        self.dirty_bytes = 0  # written by programs, not yet answered by the server
        self.unsynced_bytes = 0  # answered, not yet durable
        self.open_files = 0
        self.cached_bytes = 0  # in the cache on disk
        self.cached_read_bytes = 0  # read from there, of what would have been asked for
        self.failures = 0  # requests answered with an error that is no ordinary one (EIO, …)
        self.reconnects = 0
        self._latencies_s = [0.0] * LATENCIES
        self._calls = 0  # to the server, so far

    def answered(self, seconds: float) -> None:
        """The server answered a call after so long."""
        self._latencies_s[self._calls % LATENCIES] = seconds
        self._calls += 1

    @property
    def requests(self) -> int:
        return sum(self.operations.values())

    @property
    def calls(self) -> int:
        """Calls to the server so far."""
        return self._calls

    def latency_us(self) -> tuple[int, int]:
        """Median and 99th percentile of the last calls to the server; 0 before the first."""
        last = sorted(self._latencies_s[: min(self._calls, LATENCIES)])
        if not last:
            return 0, 0
        median_s, p99_s = last[len(last) // 2], last[len(last) * 99 // 100]
        return round(median_s * 1e6), round(p99_s * 1e6)

    # ---------------------------------------------------------------------------------- shown

    def text(self) -> str:
        """What `.stats` reads as."""
        median_us, p99_us = self.latency_us()
        requests = self.requests
        rows: dict[str, object] = {
            "source": self.options.source,
            "mountpoint": self.options.mountpoint,
            "pid": os.getpid(),
            "keeper_pid": os.getppid(),
            "generation": self.generation,
            "session": self.session.hex(),
            "up_seconds": (time.time_ns() - self.since_ns) // 10**9,
            "requests": requests,
            "cache_hits": self.cache_hits,
            "hit_percent": f"{100 * self.cache_hits / max(1, requests):.1f}",
            "server_calls": self.calls,
            "latency_us_median": median_us,
            "latency_us_p99": p99_us,
            "reconnects": self.reconnects,
            "failures": self.failures,
            "open_files": self.open_files,
            "dirty_bytes": self.dirty_bytes,
            "unsynced_bytes": self.unsynced_bytes,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "cached_bytes": self.cached_bytes,
            "cached_read_bytes": self.cached_read_bytes,
            "memory_bytes": memory_bytes(),
        }
        rows |= {f"requests.{name}": count for name, count in sorted(self.operations.items())}
        return "".join(f"{name} {value}\n" for name, value in rows.items())

    def report(self) -> pb.MountReport:
        """The same for the server, which shows it in `dp status`."""
        from dataplatform.api import platform_pb2 as pb

        median_us, p99_us = self.latency_us()
        return pb.MountReport(
            mountpoint=self.options.mountpoint,
            path=self.options.path,
            host=socket.gethostname(),
            pid=os.getpid(),
            since_ns=self.since_ns,
            requests=self.requests,
            cache_hits=self.cache_hits,
            dirty_bytes=self.dirty_bytes,
            unsynced_bytes=self.unsynced_bytes,
            open_files=self.open_files,
            latency_us_median=median_us,
            latency_us_p99=p99_us,
            read_bytes=self.read_bytes,
            written_bytes=self.written_bytes,
            memory_bytes=memory_bytes(),
            session=self.session.hex(),
        )

    def log(self) -> None:
        """One line in the log."""
        rows = parse_stats(self.text())
        logger.info("stats: %s", ", ".join(f"{name}={value}" for name, value in rows.items()))

    def log_on_signal(self) -> None:
        """From now on SIGUSR1 logs them. In the loop that serves."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.log)


def parse_stats(text: str) -> dict[str, str]:
    """What `.stats` says, by name."""
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def memory_bytes() -> int:
    """What this process holds in memory."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE_BYTES
