"""Snapshots while everybody writes, and while the server is killed.

Under load each writer notes the commit of whatever it wrote. A snapshot is some commit: it must
have exactly what was written up to that one, whichever kind it is of.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from pathlib import Path

import pytest

import dataplatform
from dataplatform.base.errors import NotFound, PlatformError
from tests.integration.servers import ServerProcess

WRITERS = 3
SNAPSHOTS = 8
KILLS = 8


class Writer(threading.Thread):
    """Rows, files, and records that come in one commit with a row; each under a name of its own."""

    def __init__(self, address: str, number: int) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.number = number
        self.stopping = threading.Event()
        self.rows: dict[str, int] = {}  # commit, by key
        self.files: dict[str, int] = {}
        self.together: dict[str, int] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with dataplatform.connect(self.address) as dp:
                table = dp.table("/v/t")
                count = 0
                while not self.stopping.is_set():
                    count += 1
                    name = f"w{self.number}-{count}"
                    if count % 3 == 0:
                        dp.write_file(f"/v/d{self.number}/{name}", name.encode() * 50)
                        self.files[name] = dp.stat(f"/v/d{self.number}/{name}").version
                    elif count % 3 == 1:
                        self.rows[name] = table.put(name, {"by": self.number})
                    else:
                        with dp.transaction("/v") as tx:
                            tx.table("t").put(name, {"by": self.number})
                            tx.stream("s").append("a", value=name.encode())
                        row = table.get(name)
                        assert row is not None
                        self.together[name] = row.version
        except BaseException as error:
            self.error = error


def test_a_snapshot_has_what_was_written_up_to_its_commit(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path)
    process.start()
    try:
        with dataplatform.connect(process.address) as dp:
            dp.create_volume("/v")
            dp.create_table("/v/t")
            dp.create_stream("/v/s").create_topic("a")
            for number in range(WRITERS):
                dp.mkdir(f"/v/d{number}")
            writers = [Writer(process.address, number) for number in range(WRITERS)]
            for writer in writers:
                writer.start()
            taken = []
            for number in range(SNAPSHOTS):
                seen = sum(len(writer.rows) for writer in writers)
                while sum(len(writer.rows) for writer in writers) < seen + 20:
                    assert all(writer.is_alive() for writer in writers), writers[0].error
                    time.sleep(0.001)
                taken.append(dp.create_snapshot("/v", f"s{number}"))
            for writer in writers:
                writer.stopping.set()
                writer.join()
                assert writer.error is None, writer.error
            commits = [snapshot.commit for snapshot in taken]
            assert commits == sorted(commits)
            for snapshot in taken:
                _check_commit(dp, snapshot, writers)
            assert dp.check().ok
    finally:
        process.stop()


def _check_commit(
    dp: dataplatform.Client, snapshot: dataplatform.SnapshotInfo, writers: list[Writer]
) -> None:
    def until(commits: dict[str, int]) -> set[str]:
        return {name for name, commit in commits.items() if commit <= snapshot.commit}

    rows = {row.key for row in dp.table(f"{snapshot.path}/t").scan()}
    together = set().union(*(until(writer.together) for writer in writers))
    assert rows == together.union(*(until(writer.rows) for writer in writers))
    with dp.stream(f"{snapshot.path}/s").consumer("a") as consumer:
        records = [(record.value or b"").decode() for record in consumer]
    assert sorted(records) == sorted(together)
    for writer in writers:
        directory = f"{snapshot.path}/d{writer.number}"
        names = {entry.name for entry in dp.scandir(directory)}
        assert names == until(writer.files)
        for name in list(names)[:10]:
            assert dp.read_file(f"{directory}/{name}") == name.encode() * 50


@pytest.mark.parametrize("engine", ["rocks", "slate"])
def test_kills(engine: str, tmp_path: Path, seed: int) -> None:
    """At any moment of taking and removing: what was answered holds, nothing is half there."""
    rng = random.Random(seed)
    process = ServerProcess(tmp_path, engine)
    process.start()
    try:
        with dataplatform.connect(process.address, patience_s=60) as dp:
            dp.create_volume("/v")
            there: dict[str, bytes] = {}
            removed: set[str] = set()
            for round_ in range(KILLS if engine == "rocks" else KILLS // 2):
                killer = threading.Timer(rng.uniform(0.02, 0.4), process.kill)
                killer.start()
                doubtful = _take_and_remove(process, there, removed, round_)
                killer.join()
                process.start()
                found = {snapshot.name for snapshot in dp.snapshots("/v")}
                assert found - doubtful == there.keys() - doubtful
                assert not found & (removed - doubtful)
                for name in found & there.keys():
                    assert dp.read_file(f"/v/.snapshot/{name}/f") == there[name]
                for name in found - there.keys():
                    there[name] = dp.read_file(f"/v/.snapshot/{name}/f")
                for name in there.keys() - found:
                    del there[name]
            report = dp.check()
            assert report.ok, report.findings
    finally:
        process.stop()


def _take_and_remove(
    process: ServerProcess, there: dict[str, bytes], removed: set[str], round_: int
) -> set[str]:
    """Until the server is gone. The names of which nobody knows what became."""
    count, name = 0, ""
    with (
        contextlib.suppress(PlatformError, OSError),
        dataplatform.connect(process.address, patience_s=0.1) as dp,
    ):
        while True:
            count += 1
            name = f"s{round_}-{count}"
            data = name.encode() * 3000
            dp.write_file("/v/f", data)
            dp.create_snapshot("/v", name)
            there[name] = data
            if len(there) > 3:
                name = next(iter(there))
                with contextlib.suppress(NotFound):
                    dp.remove_snapshot("/v", name)
                del there[name]
                removed.add(name)
    return {name}
