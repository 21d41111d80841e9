"""What encryption at rest costs: the same file written, synced and read, encrypted and not.

    python -m bench.encryption [--rounds 12] [--mebibytes 64]

One server with an encrypted and a plain volume; the two take turns, and change places every round,
so that what else the machine does meets both alike. Printed are the medians of the time and of the
CPU (the server's and the client's), and by how much the encrypted volume's are longer. At most 25 %
are asked of write and read together.
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

CALL = 1 << 20
VOLUMES = ("plain", "encrypted")


def measure(address: str, pid: int, rounds: int, calls: int) -> None:
    block = os.urandom(CALL)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with dataplatform.connect(address) as dp:
        for volume in VOLUMES:
            dp.create_volume(f"/{volume}", encrypt=volume == "encrypted")

        def write(path: str) -> None:
            with dp.open(path, "wb") as file:
                for _ in range(calls):
                    file.write(block)
                file.sync()

        def read(path: str) -> None:
            with dp.open(path, "rb") as file:
                while file.read(CALL):
                    pass

        for number in range(rounds + 1):
            for volume in VOLUMES if number % 2 else VOLUMES[::-1]:
                path = f"/{volume}/{number}"
                for name, step in (("write", write), ("read", read)):
                    times.setdefault((name, volume), []).append(_timed(step, path, pid))
                dp.remove(path)
    for name in ("write", "read"):
        plain, encrypted = ([*times[name, volume]][1:] for volume in VOLUMES)  # the first warms up
        _print(name, plain, encrypted)
    both = (
        [
            (w[0] + r[0], w[1] + r[1])
            for w, r in zip(times["write", volume], times["read", volume], strict=True)
        ][1:]
        for volume in VOLUMES
    )
    _print("both", *both)


def _timed(step: Callable[[str], None], path: str, pid: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    cpu = cpu_ns(pid) / 1e9 + time.process_time()
    begun_s = time.perf_counter()
    step(path)
    return time.perf_counter() - begun_s, cpu_ns(pid) / 1e9 + time.process_time() - cpu


def _print(
    name: str, plain: list[tuple[float, float]], encrypted: list[tuple[float, float]]
) -> None:
    said = []
    for index, what, of in (
        (0, "time", statistics.median),
        (1, "CPU", statistics.median),
        (1, "least CPU", min),
    ):
        first, second = (of([t[index] for t in found]) for found in (plain, encrypted))
        said.append(
            f"{what} {first * 1e3:6.1f} and {second * 1e3:6.1f} ms {second / first - 1:+.0%}"
        )
    sys.stdout.write(f"{name:6} {'; '.join(said)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--mebibytes", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        socket, key = Path(directory) / "dp.sock", Path(directory) / "master.key"
        dp = str(Path(sys.executable).with_name("dp"))
        subprocess.run(
            [dp, "keys", "create-master", str(key)], check=True, stdout=subprocess.DEVNULL
        )
        listen = [f"--{name}=none" for name in ("listen", "grpc", "http")]
        command = [sys.executable, "-m", "dataplatform_server", "start", f"--master-key-file={key}"]
        command += ["--data", f"{directory}/data", "--socket", str(socket), *listen]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not socket.exists():
                time.sleep(0.05)
            measure(f"dp+unix://{socket}", server.pid, options.rounds, options.mebibytes)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
