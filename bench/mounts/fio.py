"""Blocks of 4 KiB at random places of a file, through fio, buffered and with O_DIRECT.

Reads visit every block once, in a file whose pages the kernel has dropped; writes end with an fsync
that counts. With libaio, a queue of more than one is one only with O_DIRECT: a buffered request
is done when it is submitted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..peers.tools import find_program
from ..processes import Failed, run
from . import room
from .parts import Figures, Part
from .places import Place

SPARE_S = 120.0
"""For laying out the file, and for the fsync at the end."""


@dataclass(frozen=True, slots=True)
class Job:
    kind: str
    """read or write."""
    depth: int
    jobs: int
    is_direct: bool

    @property
    def work(self) -> str:
        direct = "-direct" if self.is_direct else ""
        return f"random-{self.kind}{direct}-{self.depth}x{self.jobs}"

    def command(self, program: str, directory: Path, size_mib: int, run_s: int) -> list[str]:
        return [
            *(program, "--output-format=json", "--name=block", f"--rw=rand{self.kind}"),
            *("--bs=4k", f"--size={size_mib // self.jobs}m", f"--numjobs={self.jobs}"),
            *(f"--iodepth={self.depth}", f"--ioengine={'psync' if self.depth == 1 else 'libaio'}"),
            *(f"--direct={int(self.is_direct)}", f"--runtime={run_s}", f"--directory={directory}"),
            *("--group_reporting", "--randseed=1", "--fallocate=none"),
            *(["--end_fsync=1"] if self.kind == "write" else []),
        ]


JOBS = tuple(
    Job(kind, depth, jobs, is_direct)
    for is_direct in (False, True)
    for kind in ("read", "write")
    for depth in (1, 16)
    for jobs in (1, 4)
)


class RandomBlocks(Part):
    works = tuple(job.work for job in JOBS)

    def take(self, place: Place) -> Figures:
        program = find_program("fio")
        if program is None:
            raise Failed("no fio: apt-get install fio")
        figures = {}
        for job in JOBS:
            room.check(self.scratch)
            # Files of the readers stay as they were laid out.
            directory = place.point / f"fio-{job.kind}-{job.jobs}"
            directory.mkdir(exist_ok=True)
            command = job.command(program, directory, self.plan.fio_mib, self.plan.fio_s)
            try:
                figures[job.work] = operations_per_s(
                    run(command, SPARE_S + self.plan.fio_s), job.kind
                )
            except Failed as error:
                if not job.is_direct:
                    raise
                self.tell(f"  {job.work} on {place.name}: {error}")  # O_DIRECT is not for all
        return figures


def operations_per_s(output: str, kind: str) -> float:
    """What fio says, which may begin with warnings."""
    begin = output.find("{")
    try:
        report: dict[str, Any] = json.loads(output[begin:] if begin >= 0 else "")
        jobs = report["jobs"]
        if any(job["error"] for job in jobs):
            raise Failed(f"fio failed: error {jobs[0]['error']}")
        return float(sum(job[kind]["iops"] for job in jobs))
    except (ValueError, KeyError) as error:
        raise Failed(f"fio's output is not understood ({error}): {output[:200]}") from None
