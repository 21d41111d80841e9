"""python tools/calls.py [--rounds N] [--only CALLS] [--beside TREE]

What rights, and everything else that a call is asked about, cost: CPU time of a call within the
server (dispatcher, handler, core, volumes in memory: no wire, no disk), side by side.

The sides are processes that take turns, in an order that is drawn for each round, with some forty
calls in each turn; a side's figure is its lowest one. So what else the machine does falls on all
alike, and mostly drops out.

- `free`: an administrator without limits, of whom nothing is asked.
- `user`: somebody who may by the modes, three directories deep.
- `rules`: the same, by expressions.
- `unasked`: the same user with every permission check patched out; what `user` costs beside it is
  what permission checks cost alone.

`--beside` gives another checkout (with its generated protobuf code): its administrator is the first
side then, which shows what everything that came since costs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

CALLS = [
    *("create", "mkdir", "rename", "unlink", "write", "read", "stat", "stat-path", "lookup"),
    *("open", "chmod", "put", "put-gathered", "get"),
]


class _Side:
    """One process that measures calls when told to: see `callsworker`."""

    def __init__(self, tree: Path, who: str) -> None:
        self.name = who if tree == HERE else "before"
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "tools" / "callsworker.py"), str(tree), who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, call: str) -> float:
        """µs of CPU per call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(call + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python tools/calls.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", default=",".join(CALLS), help="some of these, with commas")
    parser.add_argument("--beside", type=Path, metavar="TREE")
    options = parser.parse_args(arguments)
    calls = [call for call in CALLS if call in options.only.split(",")]
    sides = [_Side(options.beside.resolve(), "free")] if options.beside is not None else []
    sides += [_Side(HERE, who) for who in ("free", "unasked", "user", "rules")]
    try:
        lowest = _measured(sides, calls, options.rounds)
    finally:
        for side in sides:
            side.close()
    names = [side.name for side in sides]
    shares = [("before", "free"), ("unasked", "user"), ("unasked", "rules")]
    shares = [pair for pair in shares if pair[0] in names]
    titles = [f"{name}, µs" for name in names] + [f"{of} / {to}" for to, of in shares]
    print(f"| call | {' | '.join(titles)} |")
    print("| --- " * (len(titles) + 1) + "|")
    for call in calls:
        of = {name: lowest[name, call] for name in names}
        cells = [f"{of[name]:.1f}" for name in names]
        cells += [f"{100 * (of[two] / of[one] - 1):+.0f} %" for one, two in shares]
        print(f"| {call} | {' | '.join(cells)} |")
    return 0


def _measured(
    sides: Sequence[_Side], calls: Sequence[str], rounds: int
) -> dict[tuple[str, str], float]:
    lowest: dict[tuple[str, str], float] = {}
    for number in range(rounds + 1):
        for call in calls:
            for side in random.sample(sides, len(sides)):
                found = side.measure(call)
                if number:  # the first one warms up
                    key = side.name, call
                    lowest[key] = min(found, lowest.get(key, found))
    return lowest


if __name__ == "__main__":
    sys.exit(main())
