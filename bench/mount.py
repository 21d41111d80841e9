"""python -m bench.mount [--rounds N] [--only WORK,…] [--sides SIDE,…] [--write FILE]

Measures the mount beside JuiceFS, SeaweedFS and the local disk, in turn, on this machine. Needs
root, fuse3, fio and the peers; what is missing is named, and the rest goes on.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .mounts import juicefs, tables
from .mounts.local import LocalDisk
from .mounts.ours import Ours
from .mounts.parts import Plan
from .mounts.places import Place
from .mounts.records import Record, load
from .mounts.rounds import MEMORY, measured
from .mounts.seaweedfs import SeaweedFS
from .mounts.works import WORKS, known
from .sides import DISK, OURS

PLACES: Mapping[str, Callable[[], Place]] = {
    OURS: Ours,
    "juicefs-always": juicefs.always,
    "juicefs-memory": juicefs.in_memory,
    "seaweedfs": SeaweedFS,
    DISK: LocalDisk,
}
GROWTH = ("store-ratio", "store-ratio-end")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parsed(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    record = load(options.save) if options.save and options.save.exists() else Record()
    if not options.render:
        _measure(options, record)
    print(tables.table(record))
    if options.write:
        tables.write(record, options.write)
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.mount", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help=f"of {', '.join(WORKS)}; patterns too")
    parser.add_argument("--sides", default=",".join(PLACES), help=f"of {', '.join(PLACES)}")
    parser.add_argument("--write", type=Path, help="put the table into this document")
    parser.add_argument("--save", type=Path, help="keep the figures in this JSON file")
    parser.add_argument("--render", action="store_true", help="show what is in it; do not measure")
    parser.add_argument("--dir", type=Path, help="where all store (the temporary directory)")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1 is a quick look")
    parser.add_argument(
        "--patience", type=float, default=0.0, help="seconds to wait for quiet before a turn"
    )
    parser.add_argument(
        "--growth-minutes", type=float, default=0.0, help="of store-ratio (0: none)"
    )
    options = parser.parse_args(arguments)
    if options.render and not options.save:
        parser.error("--render needs --save")
    names = options.only.split(",") if options.only else list(WORKS)
    options.works = known(names)
    if not options.works:
        parser.error(f"no work is called {options.only}")
    if not options.growth_minutes:
        options.works = [work for work in options.works if work not in GROWTH]
    options.places = options.sides.split(",")
    if unknown := set(options.places) - set(PLACES):
        parser.error(f"no side is called {', '.join(unknown)}")
    return options


def _measure(options: argparse.Namespace, record: Record) -> None:
    full = Plan(growth_minutes=options.growth_minutes, patience_s=options.patience)
    plan = scaled(full, options.scale)
    places = [PLACES[name]() for name in PLACES if name in options.places]
    with tempfile.TemporaryDirectory(prefix="dp-mount-bench-", dir=options.dir) as name:
        directory = Path(name)
        directory.chmod(0o755)  # databases run as users of their own
        for found in measured(places, options.works, plan, options.rounds, directory, _tell):
            shown = {*options.works, *MEMORY}
            found.works = {work: found.works[work] for work in found.works if work in shown}
            record.update(found)
            if options.save:
                record.save(options.save)


def scaled(plan: Plan, scale: float) -> Plan:
    def part(full: int, least: int) -> int:
        return max(least, round(full * scale))

    return replace(
        plan,
        files=part(plan.files, 100),
        syncs=part(plan.syncs, 40),
        bulk_mib=part(plan.bulk_mib, 16),
        fio_s=part(plan.fio_s, 1),
        fio_mib=part(plan.fio_mib, 16),
        database_s=part(plan.database_s, 2),
    )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
