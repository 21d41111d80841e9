"""python -m bench.fairness [--rounds N] [--seconds S] [--processes N]

How long a quiet volume's requests take while another volume is driven as hard as clients can,
beside how long they take when it is alone. Asked: the 99th percentile within 3 times.

The loud volume's clients are processes of their own, each with many tasks: rows put and read, files
written and read, records appended. The quiet client makes one request at a time: a row read, a row
put lazily, a name looked up, a small file read.
"""

from __future__ import annotations

import argparse
import asyncio
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
BLOCK = 256 * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--loud", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.loud:
        uvloop.run(_loud(options.loud))
        return 0
    alone: list[float] = []
    beside: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="dp-fairness-") as name,
        serving(Path(name)) as server,
        dataplatform.connect(server.address) as dp,
    ):
        for volume in ("/quiet", "/loud"):
            dp.create_volume(volume)
        quiet = _Quiet(dp)
        quiet.measure(1.0)
        for number in range(options.rounds):
            alone += quiet.measure(options.seconds)
            crowd = [_start(server.address) for _ in range(options.processes)]
            try:
                _wait_until_loud(dp)
                beside += quiet.measure(options.seconds)
            finally:
                for process in crowd:
                    process.kill()
                    process.wait()
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    ratio = _percentile(beside, 99) / _percentile(alone, 99)
    print("| quiet volume | requests | median, µs | 99 %, µs | most, ms |")
    print("| --- | --- | --- | --- | --- |")
    for label, times in (("alone", alone), ("beside a loud one", beside)):
        median, high = statistics.median(times) * 1e6, _percentile(times, 99) * 1e6
        print(
            f"| {label} | {len(times):,} | {median:,.0f} | {high:,.0f} | {max(times) * 1e3:,.1f} |"
        )
    print(f"\n99th percentile: {ratio:.2f}x (asked: at most {ASKED:g}x)")
    return 0


class _Quiet:
    def __init__(self, dp: dataplatform.Client) -> None:
        self._dp = dp
        self._table = dp.create_table("/quiet/rows")
        self._table.put("k", {"v": "x" * 90})
        dp.write_file("/quiet/file", os.urandom(4096))

    def measure(self, seconds: float) -> list[float]:
        """How long each request took."""
        dp, table = self._dp, self._table
        works = (
            lambda: table.get("k"),
            lambda: dp.stat("/quiet/file"),
            lambda: dp.read_file("/quiet/file"),
        )
        times: list[float] = []
        ends = time.perf_counter() + seconds
        while (now := time.perf_counter()) < ends:
            works[len(times) % len(works)]()
            times.append(time.perf_counter() - now)
            time.sleep(0.001)  # it is quiet
        return times


def _start(address: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "bench.fairness", "--loud", address])


def _wait_until_loud(dp: dataplatform.Client) -> None:
    before = dp.volume_info("/loud").commit
    while dp.volume_info("/loud").commit < before + 200:
        time.sleep(0.05)


def _percentile(times: list[float], percent: int) -> float:
    return sorted(times)[len(times) * percent // 100]


async def _loud(address: str) -> None:
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

        async def files(number: int) -> None:
            while True:
                await client.write_file(f"{own}/{number}", block)
                await client.read_file(f"{own}/{number}")

        async def names(number: int) -> None:
            while True:
                await client.stat(f"{own}/rows")

        async def records() -> None:
            async with await stream.producer() as producer:
                while True:
                    await producer.send_many("t", [b"x" * 100] * 1000)
                    await producer.flush()

        works = [work(n) for n in range(TASKS) for work in (rows, files, names)]
        await asyncio.gather(*works, records())


if __name__ == "__main__":
    sys.exit(main())
