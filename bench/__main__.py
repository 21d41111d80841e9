"""Run with `make bench`: a first figure of each kind of work, beside what the disk gives."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import dataplatform
from demo.server import running

from . import disk, workloads


def main() -> None:
    table = Table("work", "figure", "durability")
    with tempfile.TemporaryDirectory(prefix="dp-bench-") as name:
        directory = Path(name)
        sync_s = disk.sync_write_s(directory)
        written, read = disk.buffered_rates(directory)
        table.add_row("disk: append + fdatasync", f"{sync_s * 1e6:,.0f} µs", "durable")
        table.add_row("disk: buffered write", f"{written / 1e6:,.0f} MB/s", "buffered")
        table.add_row("disk: cached read", f"{read / 1e6:,.0f} MB/s", "-")
        with running(directory) as address:
            for figure in workloads.all_of_them(address):
                table.add_row(figure.work, f"{figure.value:,.0f} {figure.unit}", figure.durability)
            with dataplatform.connect(address) as dp:
                memory = dp.status().memory_bytes
                table.add_row("server's memory afterwards", f"{memory / 1e6:,.0f} MB", "-")
    Console().print(table)


if __name__ == "__main__":
    main()
