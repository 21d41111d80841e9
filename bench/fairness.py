"""python -m bench.fairness [--rounds N] [--seconds S] [--processes N]

How long a quiet volume's requests take while another volume is driven as hard as clients can,
beside how long they take when it is alone. Asked: the 99th percentile within 3 times.

On a machine whose processors are taken by others, too, the time that a request takes says more
about these than about the server. So it is also measured how much CPU time the server uses, for
whomever, between a request and its answer: what the request waited for within the server. And what
the loud volume gets done: with `--alone`, without a quiet one beside it.

The loud volume's clients are processes of their own, each with many tasks: rows put and read, files
written and read, records appended. The quiet client makes one request at a time: a row read, a row
put lazily, a name looked up, a small file read.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

import dataplatform
from dataplatform import aio

from .servers import serving

ASKED = 3.0
TASKS = 32
PROCESSES_MAX = 64
BLOCK = 256 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="only what the loud volume gets done")
    parser.add_argument("--loud", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--counter", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.loud:
        uvloop.run(_loud(options.loud, _Counter(Path(options.counter), options.number)))
        return 0
    alone: list[_Took] = []
    beside: list[_Took] = []
    rates: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="dp-fairness-") as name,
        serving(Path(name)) as server,
        dataplatform.connect(server.address) as dp,
    ):
        for volume in ("/quiet", "/loud"):
            dp.create_volume(volume)
        quiet = _Quiet(dp, server.pid)
        quiet.measure(1.0)
        counter = _Counter(Path(name) / "counter")
        for number in range(options.rounds):
            alone += quiet.measure(options.seconds)
            crowd = [_start(server.address, counter, n) for n in range(options.processes)]
            try:
                _wait_until_loud(dp)
                before, began = counter.read(), time.perf_counter()
                if options.alone:
                    time.sleep(options.seconds)
                else:
                    beside += quiet.measure(options.seconds)
                rates.append((counter.read() - before) / (time.perf_counter() - began))
            finally:
                for process in crowd:
                    process.kill()
                    process.wait()
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    print(f"loud volume: {statistics.median(rates):,.0f} requests/s\n")
    if options.alone:
        return 0
    print("| quiet volume | requests | median | 99 % | most | server's CPU: median | 99 % |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for label, took in (("alone", alone), ("beside a loud one", beside)):
        times, cpu = ([one[i] * 1e6 for one in took] for i in (0, 1))
        cells = [statistics.median(times), _percentile(times, 99), max(times)]
        cells += [statistics.median(cpu), _percentile(cpu, 99)]
        print(f"| {label} | {len(times):,} | {' | '.join(f'{cell:,.0f} µs' for cell in cells)} |")
    for index, what in enumerate(("time", "server's CPU")):
        high, low = (_percentile([one[index] for one in took], 99) for took in (beside, alone))
        print(f"\n99th percentile, {what}: {high / low:.2f}x (asked of time: at most {ASKED:g}x)")
    return 0


_Took = tuple[float, float]
"""Seconds that a request took, and seconds of the server's CPU meanwhile."""


class _Quiet:
    def __init__(self, dp: dataplatform.Client, server: int) -> None:
        self._dp = dp
        self._cpu_clock = (~server << 3) | 2  # clock_getcpuclockid(3): of a process
        self._table = dp.create_table("/quiet/rows")
        self._table.put("k", {"v": "x" * 90})
        dp.write_file("/quiet/file", os.urandom(4096))

    def measure(self, seconds: float) -> list[_Took]:
        """Of each request."""
        dp, table = self._dp, self._table
        works = (
            lambda: table.get("k"),
            lambda: dp.stat("/quiet/file"),
            lambda: dp.read_file("/quiet/file"),
        )
        took: list[_Took] = []
        clock, of = self._cpu_clock, time.clock_gettime
        ends = time.perf_counter() + seconds
        while (now := time.perf_counter()) < ends:
            cpu = of(clock)
            works[len(took) % len(works)]()
            took.append((time.perf_counter() - now, of(clock) - cpu))
            time.sleep(0.001)  # it is quiet
        return took


class _Counter:
    """Requests that the loud clients had answered, in memory that they share: a number for each."""

    def __init__(self, path: Path, number: int = 0) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(8 * PROCESSES_MAX))
        with path.open("r+b") as file:
            self._counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self._number = number

    def add(self, requests: int) -> None:
        self._counts[self._number] += requests

    def read(self) -> int:
        return sum(self._counts)


def _start(address: str, counter: _Counter, number: int) -> subprocess.Popen[bytes]:
    shared = ("--counter", str(counter.path), "--number", str(number))
    command = [sys.executable, "-m", "bench.fairness", "--loud", address, *shared]
    return subprocess.Popen(command)


def _wait_until_loud(dp: dataplatform.Client) -> None:
    before = dp.volume_info("/loud").commit
    while dp.volume_info("/loud").commit < before + 200:
        time.sleep(0.05)


def _percentile(times: Sequence[float], percent: int) -> float:
    return sorted(times)[len(times) * percent // 100]


async def _loud(address: str, counter: _Counter) -> None:
    """As hard as it can, until it is killed."""
    own = f"/loud/{os.getpid()}"
    async with aio.connect(address) as client:
        await client.mkdir(own)
        table = await client.create_table(f"{own}/rows")
        stream = await client.create_stream(f"{own}/records", partitions=4)
        await stream.create_topic("t")
        block = os.urandom(BLOCK)

        async def rows(number: int) -> None:
            while True:
                await table.put(f"k{number}", {"v": "x" * 90})
                await table.get(f"k{number}")
                counter.add(2)

        async def files(number: int) -> None:
            while True:
                await client.write_file(f"{own}/{number}", block)
                await client.read_file(f"{own}/{number}")
                counter.add(2)

        async def names(number: int) -> None:
            while True:
                await client.stat(f"{own}/rows")
                counter.add(1)

        async def records() -> None:
            async with await stream.producer() as producer:
                while True:
                    await producer.send_many("t", [b"x" * 100] * 1000)
                    await producer.flush()
                    counter.add(1)

        works = [work(n) for n in range(TASKS) for work in (rows, files, names)]
        await asyncio.gather(*works, records())


if __name__ == "__main__":
    sys.exit(main())
