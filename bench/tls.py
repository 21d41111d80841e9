"""python -m bench.tls [--rounds N] [--scale S]

What TLS costs: the same works over TCP with and without it, in turn, on one machine. Asked: 60% of
plain frames, for small calls and for bulk.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import dataplatform
from dataplatform_clients.cli.authority import Authority

from .ours.context import Context
from .ours.files import Files
from .ours.rows import Rows
from .servers import serving
from .sides import Sizes, Way

WORKS = ("get", "get-pipelined", "put-many", "scan", "file-write", "file-read")
ASKED = 0.6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="0.1 is a quick look")
    parser.add_argument("--only", default=",".join(WORKS), help="some of these, with commas")
    options = parser.parse_args(arguments)
    works = [work for work in WORKS if work in options.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="dp-tls-bench-") as name, ExitStack() as stack:
        directory = Path(name)
        certs = directory / "certs"
        Authority.create(certs).server()
        os.environ["DP_CA"] = str(certs / "ca.pem")
        secret = ("--tls-cert", str(certs / "server.pem"), "--tls-key", str(certs / "server.key"))
        sides = {
            side: _ways(stack, directory / side, scheme, flags)
            for side, scheme, flags in (("plain", "dp", ()), ("tls", "dps", secret))
        }
        figures = _measured(sides, works, Sizes(options.scale), options.rounds)
    print("| work | plain | TLS | TLS / plain | asked | reached |")
    print("| --- | --- | --- | --- | --- | --- |")
    for work in works:
        plain, tls = figures["plain", work], figures["tls", work]
        ratio = tls / plain
        reached = "yes" if ratio >= ASKED else "NO"
        print(f"| {work} | {plain:,.0f} | {tls:,.0f} | {ratio:.2f} | ≥ {ASKED} | {reached} |")
    return 0


def _ways(stack: ExitStack, directory: Path, scheme: str, flags: Sequence[str]) -> list[Way]:
    directory.mkdir()
    port = _free_port()
    server = stack.enter_context(serving(directory, "--listen", f"localhost:{port}", *flags))
    with dataplatform.connect(server.address) as dp:
        dp.create_user("bench", admin=True)
        token = dp.create_token("bench").token
    context = Context(f"{scheme}://localhost:{port}", token, "")
    stack.callback(context.close)
    ways = [*Rows(context).ways(), *Files(context).ways()]
    return [way for way in ways if way.label.work in WORKS]


def _measured(
    sides: Mapping[str, list[Way]], works: Sequence[str], sizes: Sizes, rounds: int
) -> Mapping[tuple[str, str], float]:
    """The median of the rounds, by side and work; who is first changes from round to round."""
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for work in works:
            for side in sorted(sides, reverse=bool(number % 2)):
                way = next(way for way in sides[side] if way.label.work == work)
                found.setdefault((side, work), []).append(way.measure(sizes))
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {key: statistics.median(figures) for key, figures in found.items()}


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as taken:
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
