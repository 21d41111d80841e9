"""python -m bench.soak --minutes 60 --rate 150 --csv soak.csv

The report goes to standard output: memory at rest, its peak, the medians of the first and the last
quarter, and its slope. Exit code 1 when something read was not what was written, or when the check
at the end finds something.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import uvloop

from dataplatform import CheckReport, aio

from .. import proc
from ..servers import Server, serving
from .files import Files
from .parts import Part
from .records import Records
from .rows import Rows
from .samples import Sampler, trend
from .transfers import Transfers
from .visits import Visits

PARTS: tuple[type[Part], ...] = (Files, Rows, Records, Transfers, Visits)
SAMPLE_S = 10.0
SAMPLES_MIN = 8
REST_S = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=150.0, help="operations per second (150)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 32))
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"), help="(soak.csv)")
    parser.add_argument("--dir", type=Path, help="where the server stores (a temporary directory)")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.rate:g} operations/s", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="dp-soak-", dir=options.dir) as name,
        serving(Path(name)) as server,
        options.csv.open("w", newline="") as file,
    ):
        return uvloop.run(soak(server, options, file))


async def soak(server: Server, options: argparse.Namespace, file: IO[str]) -> int:
    await asyncio.sleep(REST_S)
    rest = proc.resident_bytes(server.pid)
    async with contextlib.AsyncExitStack() as stack:
        parts = []
        for kind in PARTS:
            dp = await stack.enter_async_context(await aio.connect(server.address))
            parts.append(kind(dp, "/soak", options.seed))
        for part in parts:
            await part.begin()
        sampler = Sampler(file, server.pid, server.data, lambda: sum(p.steps for p in parts))
        sampling = asyncio.create_task(_sample(sampler))
        problems = await _load(parts, options.rate, options.minutes * 60)
        sampling.cancel()
        started = time.monotonic()
        report = await parts[0].dp.check()
        print(f"check: {time.monotonic() - started:.1f} s, {dict(report.counts)}")
    _tell(server, rest, sampler, parts)
    return _judge(problems, report)


async def _sample(sampler: Sampler) -> None:
    while True:
        await asyncio.to_thread(sampler.take)
        await asyncio.sleep(SAMPLE_S)


async def _load(parts: list[Part], rate: float, seconds: float) -> list[BaseException]:
    """All parts at once; what went wrong in them. The first failure ends the load."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(part.run(rate * part.share, seconds))
        for part in parts:
            await part.finish()
    except ExceptionGroup as problems:
        return list(problems.exceptions)
    except Exception as problem:
        return [problem]
    return []


def _tell(server: Server, rest: int, sampler: Sampler, parts: list[Part]) -> None:
    last = sampler.take()
    steps = ", ".join(f"{type(part).__name__.lower()} {part.steps}" for part in parts)
    print(f"operations: {steps}")
    first = sampler.samples[0]
    share = (last.processor_s - first.processor_s) / (last.seconds - first.seconds)
    stored = _mb(last.data_bytes)
    print(f"server: {share:.0%} of a core, {last.open_files} open files, {stored} on disk")
    print(f"memory at rest {_mb(rest)}, peak {_mb(proc.peak_resident_bytes(server.pid))}")
    samples = sampler.samples[:-1]  # the last one was taken after the check
    print(f"memory after the check {_mb(last.rss_bytes)}")
    if len(samples) < SAMPLES_MIN:
        print("too short a run for a trend")
        return
    found = trend(samples)
    print(
        f"median of the first quarter {_mb(found.first_quarter_bytes)}, of the last"
        f" {_mb(found.last_quarter_bytes)}; slope over the last three quarters"
        f" {found.slope_bytes_per_hour / 1e6:+.1f} MB/hour"
    )


def _judge(problems: list[BaseException], report: CheckReport) -> int:
    for problem in problems:
        print(f"FAILED: {type(problem).__name__}: {problem}")
    for finding in report.findings:
        print(f"FOUND: {finding.path}: {finding.problem}")
    print("FAILED" if problems or not report.ok else "ok: all that was read was what was written")
    return 1 if problems or not report.ok else 0


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
