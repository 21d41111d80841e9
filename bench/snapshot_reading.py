"""Reading through `.snapshot` beside reading what is live: the same bytes, by the same paths.

    python -m bench.snapshot_reading [--rounds 10] [--mount]

One server, one volume, one snapshot that is what the volume still is. Both sides take turns and
change places every round. Printed are the medians of time and CPU (server's and client's) and by
how much those of the snapshot are longer. At most 20 % are asked.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dataplatform

from .audit import cpu_ns

FILES, ROWS, RECORDS, LARGE_BYTES = 500, 20_000, 20_000, 32 << 20
SIDES = ("live", "snapshot")
ROOTS = {"live": "/v", "snapshot": "/v/.snapshot/s"}

Work = Callable[[str], None]


def fill(dp: dataplatform.Client) -> None:
    dp.create_volume("/v")
    dp.mkdir("/v/a/b", parents=True)
    for number in range(FILES):
        dp.write_file(f"/v/a/b/f{number}", os.urandom(4096))
    with dp.open("/v/a/large", "wb") as file:
        for _ in range(LARGE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    table = dp.create_table("/v/a/t")
    for first in range(0, ROWS, 1000):
        table.put_many({f"k{n:06}": {"n": n, "x": "y" * 50} for n in range(first, first + 1000)})
    stream = dp.create_stream("/v/a/s")
    with stream.producer() as producer:
        for number in range(RECORDS):
            producer.send("a", value=b"x" * 100, key=b"%d" % number)
    dp.create_snapshot("/v", "s")


def works(dp: dataplatform.Client) -> dict[str, Work]:
    def small(root: str) -> None:
        for number in range(FILES):
            dp.read_file(f"{root}/a/b/f{number}")

    def stats(root: str) -> None:
        for number in range(FILES):
            dp.stat(f"{root}/a/b/f{number}")

    def names(root: str) -> None:
        for _ in range(5):
            sum(1 for _ in dp.scandir(f"{root}/a/b"))

    def large(root: str) -> None:
        with dp.open(f"{root}/a/large", "rb") as file:
            while file.read(1 << 20):
                pass

    def rows(root: str) -> None:
        table = dp.table(f"{root}/a/t")
        for number in range(0, ROWS, ROWS // 500):
            table.get(f"k{number:06}")

    def scan(root: str) -> None:
        assert sum(1 for _ in dp.table(f"{root}/a/t").scan()) == ROWS

    def records(root: str) -> None:
        with dp.stream(f"{root}/a/s").consumer("a", follow=False) as consumer:
            assert sum(1 for _ in consumer) == RECORDS

    return {
        "500 small files": small,
        "500 stats": stats,
        "5 listings of 500": names,
        "32 MiB": large,
        "500 gets": rows,
        "a scan": scan,
        "20000 records": records,
    }


def works_of_mount(mountpoint: Path) -> dict[str, Work]:
    def place(root: str) -> Path:
        return mountpoint / root[1:]

    def small(root: str) -> None:
        base = place(root) / "a/b"
        for number in range(FILES):
            with (base / f"f{number}").open("rb") as file:
                file.read()

    def stats(root: str) -> None:
        base = place(root) / "a/b"
        for number in range(FILES):
            os.stat(base / f"f{number}")

    def large(root: str) -> None:
        descriptor = os.open(place(root) / "a/large", os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        while os.read(descriptor, 1 << 20):
            pass
        os.close(descriptor)

    return {"mount: 500 small files": small, "mount: 500 stats": stats, "mount: 32 MiB": large}


def measure(works: dict[str, Work], pids: list[int], rounds: int) -> None:
    for name, work in works.items():
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for number in range(rounds + 1):
            for side in SIDES if number % 2 else SIDES[::-1]:
                cpu = sum(map(cpu_ns, pids)) / 1e9 + time.process_time()
                begun_s = time.perf_counter()
                work(ROOTS[side])
                time_s = time.perf_counter() - begun_s
                used_s = sum(map(cpu_ns, pids)) / 1e9 + time.process_time() - cpu
                found[side].append((time_s, used_s))
        said = []
        for index, what in ((0, "time"), (1, "CPU")):
            live, then = (statistics.median(t[index] for t in found[side][1:]) for side in SIDES)
            more = then / live - 1 if live else 0.0
            said.append(f"{what} {live * 1e3:7.1f} and {then * 1e3:7.1f} ms {more:+.0%}")
        sys.stdout.write(f"{name:24} {'; '.join(said)}\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--mount", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "dp.sock"
        listen = [f"--{name}=none" for name in ("listen", "grpc", "http")]
        command = [sys.executable, "-m", "dataplatform_server", "start"]
        command += ["--data", f"{directory}/data", "--socket", str(socket), *listen]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not socket.exists():
                time.sleep(0.05)
            address = f"dp+unix://{socket}"
            with dataplatform.connect(address) as dp:
                fill(dp)
                measure(works(dp), [server.pid], options.rounds)
            if options.mount:
                _measure_mount(address, Path(directory) / "mnt", server.pid, options.rounds)
        finally:
            server.terminate()
            server.wait()


def _measure_mount(address: str, mountpoint: Path, pid: int, rounds: int) -> None:
    mountpoint.mkdir()
    dp = str(Path(sys.executable).with_name("dp"))
    subprocess.run([dp, "--server", address, "mount", "/", str(mountpoint)], check=True)
    try:
        measure(works_of_mount(mountpoint), [pid], rounds)
    finally:
        subprocess.run([dp, "umount", str(mountpoint)], check=True)


if __name__ == "__main__":
    main()
