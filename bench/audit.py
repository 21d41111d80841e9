"""What the audit costs the server: CPU per call with it off, told of changes, and of reads, too.

    python -m bench.audit [--rounds 5] [--calls 3000]

One server, one volume of each setting, the same calls on each in turn, round by round, so that what
else the machine does meets all of them alike. CPU is the server's own (user and system), until the
audit has caught up. Printed are medians over the rounds, in microseconds per call.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from dataplatform import aio

MODES = ("off", "changes", "all")
TASKS = 16
CAUGHT_UP_S = 0.6
"""After the last call: the audit runs every quarter of a second."""

Step = Callable[[aio.Client, str, int], Awaitable[object]]


async def put(dp: aio.Client, path: str, number: int) -> object:
    return await (await dp.table(f"{path}/rows")).put(f"{number % 1000:06}", {"a": number})


async def get(dp: aio.Client, path: str, number: int) -> object:
    return await (await dp.table(f"{path}/rows")).get(f"{number % 1000:06}")


async def create(dp: aio.Client, path: str, number: int) -> object:
    return await dp.write_file(f"{path}/{number:08}", b"x" * 4096)


async def read(dp: aio.Client, path: str, number: int) -> object:
    return await dp.read_file(f"{path}/{number % 1000:08}")


STEPS: dict[str, Step] = {"row put": put, "row get": get, "file create": create, "file read": read}


def cpu_ns(pid: int) -> int:
    """Of all threads so far: in nanoseconds, where times(2) counts hundredths (proc(5))."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


async def measure(address: str, pid: int, rounds: int, calls: int) -> None:
    dp = await aio.connect(address)
    for mode in MODES:
        await dp.create_volume(f"/{mode}", audit=mode)
        await dp.create_table(f"/{mode}/rows")
        for number in range(1000):
            await create(dp, f"/{mode}", number)
    cpu_us: dict[tuple[str, str], list[float]] = {}
    first = 1000
    for _ in range(rounds):
        for name, step in STEPS.items():
            for mode in MODES:
                before_ns = cpu_ns(pid)
                await _run(dp, step, f"/{mode}", first, calls)
                await asyncio.sleep(CAUGHT_UP_S)
                used_ns = cpu_ns(pid) - before_ns
                cpu_us.setdefault((name, mode), []).append(used_ns / calls / 1000)
        first += calls
    await dp.close()
    for name in STEPS:
        found = [statistics.median(cpu_us[name, mode]) for mode in MODES]
        said = "  ".join(f"{mode} {us:7.1f}" for mode, us in zip(MODES, found, strict=True))
        ratios = " ".join(f"{us / found[0] - 1:+.0%}" for us in found[1:])
        sys.stdout.write(f"{name:12}  {said}  us  {ratios}\n")


async def _run(dp: aio.Client, step: Step, path: str, first: int, calls: int) -> None:
    numbers = iter(range(first, first + calls))

    async def work() -> None:
        for number in numbers:
            await step(dp, path, number)

    await asyncio.gather(*(work() for _ in range(TASKS)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "dp.sock"
        listen = [f"--{name}=none" for name in ("listen", "grpc", "http")]
        command = [sys.executable, "-m", "dataplatform_server", "start"]
        command += ["--data", f"{directory}/data", "--socket", str(socket), *listen]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not socket.exists():
                time.sleep(0.05)
            work = measure(f"dp+unix://{socket}", server.pid, options.rounds, options.calls)
            asyncio.run(work)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
