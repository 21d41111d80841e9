"""A server of the demo's own, and `dp` against it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dataplatform

START_S = 30.0


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """A server on a fresh data directory; its address. Stopped by SIGTERM, as an operator would."""
    socket = directory / "dp.sock"
    address = f"dp+unix://{socket}"
    process = subprocess.Popen(
        [
            sys.executable,
            *("-m", "dataplatform_server", "start", "--data", str(directory / "data")),
            *("--socket", str(socket), "--listen", "none", "--grpc", "none", "--http", "none"),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait(process, address)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise SystemExit(f"the server ended with exit code {process.returncode}")


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("the server did not start: see its messages above")
        try:
            with dataplatform.connect(address, patience_s=1.0) as dp:
                dp.ping()
                return
        except dataplatform.PlatformError:
            continue
    raise SystemExit(f"the server did not answer within {START_S:.0f} s")


def dp_command(address: str, *arguments: str) -> str:
    """Run `dp` as a user would, and show it."""
    program = Path(sys.executable).with_name("dp")
    print(f"\n$ dp {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [str(program), *arguments],
        env={**os.environ, "DP_SERVER": address},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print("\n".join(f"  {line}" for line in done.stdout.rstrip().splitlines()), flush=True)
    return done.stdout
