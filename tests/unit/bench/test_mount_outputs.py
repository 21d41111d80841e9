"""What fio, pgbench and sysbench print, and what is read from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform_bench.mounts import databases, fio, mariadb, postgres, quiet
from dataplatform_bench.mounts.fio import JOBS, Job
from dataplatform_bench.mounts.works import WORKS
from dataplatform_bench.processes import Failed

FIO = """fio: this platform does not support process shared mutexes
{
  "fio version" : "fio-3.33",
  "jobs" : [
    {"jobname": "block", "error": 0, "read": {"iops": 0.0}, "write": {"iops": 1471.25}}
  ]
}
"""
PGBENCH = """pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: TPC-B (sort of)>
scaling factor: 10
number of transactions actually processed: 24971
latency average = 0.400 ms
initial connection time = 1.924 ms
tps = 2497.612349 (without initial connection time)
"""
SYSBENCH = """SQL statistics:
    queries performed:
        total:                           123020
    transactions:                        6151   (612.60 per sec.)
    queries:                             123020 (12252.10 per sec.)
"""


def test_fio_gives_operations_of_the_kind_asked_for() -> None:
    assert fio.operations_per_s(FIO, "write") == 1471.25
    assert fio.operations_per_s(FIO, "read") == 0


@pytest.mark.parametrize("output", ["", "fio: failed", "{", "{}", '{"jobs": [{"error": 0}]}'])
def test_fio_that_says_something_else_has_failed(output: str) -> None:
    with pytest.raises(Failed, match="fio"):
        fio.operations_per_s(output, "read")


def test_an_error_of_fio_is_a_failure() -> None:
    with pytest.raises(Failed, match="error 28"):
        fio.operations_per_s(FIO.replace('"error": 0', '"error": 28'), "write")


def test_jobs_share_the_size_and_writes_end_with_a_sync() -> None:
    write, read = Job("write", 16, 4, True), Job("read", 1, 1, False)
    assert write.work == "random-write-direct-16x4"
    written = write.command("fio", Path("/d"), 256, 5)
    assert {"--size=64m", "--numjobs=4", "--direct=1", "--end_fsync=1"} <= set(written)
    assert "--ioengine=libaio" in written
    plain = read.command("fio", Path("/d"), 256, 5)
    assert {"--size=256m", "--direct=0", "--ioengine=psync"} <= set(plain)
    assert "--end_fsync=1" not in plain


def test_every_job_is_a_work_of_the_table() -> None:
    assert {job.work for job in JOBS} == {work for work in WORKS if work.startswith("random-")}


def test_pgbench() -> None:
    assert postgres.transactions_per_s(PGBENCH) == pytest.approx(2497.612349)
    with pytest.raises(Failed, match="pgbench"):
        postgres.transactions_per_s("pgbench: error: connection to server failed")


def test_sysbench() -> None:
    assert mariadb.transactions_per_s(SYSBENCH) == 612.6
    with pytest.raises(Failed, match="sysbench"):
        mariadb.transactions_per_s("FATAL: unable to connect to MySQL server")


def test_how_busy_the_processors_were() -> None:
    before = "cpu 100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n"
    after = "cpu 130 0 70 840 60 0 0 0 30 0\ncpu0 9 9 9\n"
    assert quiet.busy_part(before, after) == pytest.approx(0.5)
    assert quiet.busy_part(before, before) == 0


def test_a_database_that_fails_is_asked_for_its_reasons(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("LOG:  ready\nPANIC:  could not fdatasync file\nLOG:  redo\n")
    assert databases.complaints(log) == "PANIC:  could not fdatasync file"
    log.write_text("LOG:  ready\n")
    assert databases.complaints(log) == "nothing in its log"
