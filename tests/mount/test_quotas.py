"""Quotas of directories through the mount: df, EDQUOT in time, free again at once, no overshoot."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dataplatform
from tests.integration.servers import ServerProcess

from .mounts import TREE, wait_until
from .programs import run
from .test_posix import refused

pytestmark = pytest.mark.skipif(bool(TREE), reason="a plain directory has no quotas")

QUOTA = 4 << 20
ENTRIES = 30
WAIT_S = 30


@pytest.fixture
def limited(server: ServerProcess, places: tuple[Path, Path]) -> Iterator[tuple[Path, Path]]:
    """A new directory with a quota, on two mounts."""
    (places[0] / "q").mkdir()
    with dataplatform.connect(server.address) as client:
        path = f"/{places[0].name}/q"
        client.set_quota(path, quota_bytes=QUOTA, quota_entries=ENTRIES)
        yield places[0] / "q", places[1] / "q"
        assert client.quota(path).used_bytes <= QUOTA


def _free_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def test_df_shows_the_tightest_quota(limited: tuple[Path, Path]) -> None:
    here, there = limited
    (here / "sub").mkdir()
    found = os.statvfs(here / "sub")
    assert found.f_blocks * found.f_frsize == QUOTA
    assert (found.f_files, found.f_ffree) == (ENTRIES, ENTRIES - 1)
    assert os.statvfs(here.parent).f_blocks != found.f_blocks
    run(["dd", "if=/dev/urandom", f"of={here}/f", "bs=1M", "count=3", "conv=fsync"])
    wait_until(lambda: _free_bytes(there) == QUOTA - (3 << 20), WAIT_S, "df says so")
    shown = run(["df", "-B1", "--output=size,avail", here]).stdout.split()[-2:]
    assert [int(word) for word in shown] == [QUOTA, QUOTA - (3 << 20)]
    os.unlink(there / "f")
    wait_until(lambda: _free_bytes(here) == QUOTA, WAIT_S, "df says so")


def test_dd_is_told_by_its_write(limited: tuple[Path, Path]) -> None:
    here, _ = limited
    for _ in range(2):  # free again at once
        command = ["dd", "if=/dev/zero", f"of={here}/f", "bs=64k", "count=200"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == 1
        assert "error writing" in done.stderr, done.stderr
        assert "Disk quota exceeded" in done.stderr
        os.unlink(here / "f")
    fd = os.open(here / "g", os.O_CREAT | os.O_WRONLY)
    os.write(fd, bytes(QUOTA))
    os.fsync(fd)
    os.pwrite(fd, b"x" * QUOTA, 0)  # takes nothing
    os.fsync(fd)
    with refused(errno.EDQUOT):
        os.pwrite(fd, b"y", QUOTA)
        os.fsync(fd)
    _close(fd)


def test_many_small_files(limited: tuple[Path, Path]) -> None:
    here, there = limited
    made = 0
    with refused(errno.EDQUOT):
        for number in range(ENTRIES + 1):
            (here, there)[number % 2].joinpath(f"{number}").write_bytes(b"x" * 1000)
            made += 1
    assert made == ENTRIES
    with refused(errno.EDQUOT):
        (there / "directory").mkdir()
    os.unlink(here / "0")
    (there / "directory").mkdir()


def test_rows_and_records_count_with_files(
    server: ServerProcess, limited: tuple[Path, Path]
) -> None:
    here, _ = limited
    path = f"/{here.parent.name}/q"
    with dataplatform.connect(server.address) as client:
        table = client.create_table(f"{path}/t")
        table.put_many({f"{n}": {"text": "x" * 100_000} for n in range(35)})
        with refused(errno.EDQUOT):
            fd = os.open(here / "f", os.O_CREAT | os.O_WRONLY)
            try:
                os.write(fd, bytes(1 << 20))
                os.fsync(fd)
            finally:
                _close(fd)
        with pytest.raises(dataplatform.Exhausted):
            table.put_many({f"more {n}": {"text": "x" * 100_000} for n in range(10)})
        client.remove(f"{path}/t")
    (here / "f").write_bytes(bytes(1 << 20))


def _close(fd: int) -> None:
    """Which may tell again what a write met."""
    with contextlib.suppress(OSError):
        os.close(fd)


def test_clients_race_for_the_last_bytes(server: ServerProcess, limited: tuple[Path, Path]) -> None:
    """Two mounts and the library: what fsync confirmed is no more than the quota."""
    path = f"/{limited[0].parent.name}/q"

    def write_files(number: int) -> int:
        kept = 0
        fd = os.open(limited[number % 2] / f"{number}", os.O_CREAT | os.O_WRONLY)
        try:
            for _ in range(24):
                os.write(fd, os.urandom(100_000))
                os.fsync(fd)
                kept += 100_000
        except OSError as error:
            assert error.errno == errno.EDQUOT  # noqa: PT017
        finally:
            _close(fd)
        return kept

    def put_files(number: int) -> int:
        kept = 0
        with dataplatform.connect(server.address) as client:
            try:
                for part in range(6):
                    client.write_file(f"{path}/{number}.{part}", os.urandom(100_000))
                    kept += 100_000
            except dataplatform.Exhausted:
                pass
        return kept

    with ThreadPoolExecutor(3) as pool:
        kept = sum(pool.map(lambda n: (put_files if n == 2 else write_files)(n), range(3)))
    assert QUOTA - 600_000 < kept <= QUOTA


def test_moving_across_the_border(limited: tuple[Path, Path]) -> None:
    here, _ = limited
    outside = here.parent
    (outside / "big").write_bytes(os.urandom(QUOTA + 1))
    os.sync()
    with refused(errno.EDQUOT):
        os.rename(outside / "big", here / "big")
    (outside / "small").write_bytes(b"x" * 1000)
    os.rename(outside / "small", here / "small")
    wait_until(lambda: _free_bytes(here) == QUOTA - 1000 // 4096 * 4096 - 4096, WAIT_S, "df")
    os.rename(here / "small", outside / "small")
