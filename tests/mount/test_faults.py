"""What fails: the server, the worker, the keeper, both, the disk's quota, a right, a client.

Nothing that fsync confirmed is lost; a program sees an error only where one is due.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import dataplatform
from tests.integration.servers import ServerProcess

from .conftest import assert_clean
from .hands import Hands
from .loads import Running
from .mounts import DP, Mount, ground, is_mounted, mounted, wait_until
from .test_posix import refused

WAIT_S = 60.0
LEASE_S = 15.0
"""Changes wait no longer for a mount that does not answer."""
SWEPT_S = 150.0
"""A client that is gone is given up after its lease; then what it had open goes."""


@contextmanager
def _mount(own: ServerProcess, *options: str) -> Iterator[Mount]:
    with mounted(own, "/", *options) as mount:
        assert isinstance(mount, Mount)
        yield mount


# -------------------------------------------------------------------------------- the server


def _server_killed(own: ServerProcess, local: Path, seed: int, rounds: int) -> None:
    with _mount(own) as mount:
        (mount.mountpoint / "w").mkdir()
        with Running(mount.mountpoint / "w", local / "journal", seed) as running:
            for _ in range(rounds):
                running.progress(15)
                own.kill()
                own.start()
            running.progress(15)


@pytest.mark.timeout(240)
def test_the_server_is_killed_under_load(own: ServerProcess, local: Path, seed: int) -> None:
    _server_killed(own, local, seed, rounds=4)


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_the_server_is_killed_often(own: ServerProcess, local: Path, seed: int) -> None:
    _server_killed(own, local, seed, rounds=100)


def test_open_files_outlive_the_server(own: ServerProcess) -> None:
    """They are open in another process: the one that starts the server has to fork, and what is
    forked closes its copies of open files, which waits for the server."""
    with _mount(own) as mount, _mount(own) as other, Hands([mount.mountpoint]) as hands:
        assert hands.do(0, "open", 0, "f", os.O_CREAT | os.O_RDWR, 0o644, 0) == ("ok", True)
        assert hands.do(0, "write", 0, b"synced") == ("ok", 6)
        assert hands.do(0, "fsync", 0) == ("ok", None)
        assert hands.do(0, "write", 0, b" and not") == ("ok", 8)
        own.kill()
        own.start()
        assert hands.do(0, "write", 0, b" and after") == ("ok", 10)
        assert hands.do(0, "pread", 0, 99, 0) == ("ok", b"synced and not and after")
        assert hands.do(0, "unlink", "f") == ("ok", None)
        own.kill()
        own.start()
        assert hands.do(0, "write", 0, b" unlinked") == ("ok", 9)
        assert hands.do(0, "fsync", 0) == ("ok", None)
        assert hands.do(0, "pread", 0, 99, 0) == ("ok", b"synced and not and after unlinked")
        assert hands.do(0, "close", 0) == ("ok", None)
        assert os.listdir(other.mountpoint) == []


def test_the_server_stands_still_for_a_while(own: ServerProcess, local: Path, seed: int) -> None:
    with _mount(own) as mount:
        (mount.mountpoint / "w").mkdir()
        process = _process(own)
        with Running(mount.mountpoint / "w", local / "journal", seed) as running:
            running.progress(10)
            process.send_signal(signal.SIGSTOP)
            before = running.count()
            time.sleep(10)
            process.send_signal(signal.SIGCONT)
            assert running.count() <= before + 1
            running.progress(10)


def test_a_server_that_stays_away_is_an_error_after_the_patience(own: ServerProcess) -> None:
    with _mount(own, "--patience", "2s") as mount:
        (mount.mountpoint / "f").write_text("x")
        own.kill()
        started = time.monotonic()
        with pytest.raises(OSError):
            (mount.mountpoint / "g").write_text("y")
        assert 1 < time.monotonic() - started < 30
        own.start()
        wait_until(lambda: _can_write(mount.mountpoint / "g"), WAIT_S, "it works again")
        assert (mount.mountpoint / "f").read_text() == "x"


def test_a_program_that_waits_for_the_server_can_be_killed(own: ServerProcess) -> None:
    with _mount(own) as mount:
        (mount.mountpoint / "f").write_text("x")
        own.kill()
        process = subprocess.Popen(
            ["dd", "if=/dev/zero", f"of={mount}/g", "count=1", "status=none"]
        )
        time.sleep(1)
        assert process.poll() is None
        process.kill()
        process.wait(15)
        own.start()
        assert (mount.mountpoint / "f").read_text() == "x"


def _process(own: ServerProcess) -> psutil.Process:
    assert own._process is not None
    return psutil.Process(own._process.pid)


def _can_write(path: Path) -> bool:
    try:
        path.write_text("again")
    except OSError:
        return False
    return True


# --------------------------------------------------------------------------- worker and keeper


def _worker(mount: Mount) -> psutil.Process:
    """The process that serves; the first one keeps the connection."""
    wait_until(lambda: len(mount.processes()) > 1, WAIT_S, "a worker")
    return mount.processes()[-1]


def test_open_files_outlive_the_worker(own: ServerProcess) -> None:
    with _mount(own) as mount:
        path = mount.mountpoint / "f"
        (mount.mountpoint / "d").mkdir()
        directory = os.open(mount.mountpoint / "d", os.O_RDONLY)
        with open(path, "w+b", buffering=0) as file:
            file.write(b"before")
            os.fsync(file.fileno())
            worker = _worker(mount)
            worker.kill()
            file.seek(0)
            assert file.read() == b"before"
            file.write(b" after")
            os.fsync(file.fileno())
            assert _worker(mount).pid != worker.pid
            path.unlink()
            _worker(mount).kill()
            file.seek(0)
            assert file.read() == b"before after"
            assert os.fstat(file.fileno()).st_nlink == 0
        fd = os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=directory)
        os.close(fd)
        assert os.listdir(directory) == ["x"]
        os.close(directory)


def test_the_worker_is_killed_under_load(own: ServerProcess, local: Path, seed: int) -> None:
    """The load syncs before it says anything: no error is due but for what was not yet sent, and
    that is said once, by fsync or close. The load's journal then shows no loss."""
    with _mount(own) as mount:
        failures = 0
        for number in range(5):
            directory = mount.mountpoint / f"{number}"
            directory.mkdir()
            journal = local / f"journal{number}"
            with Running(directory, journal, seed + number, "Input/output error") as running:
                running.progress(10)
                _worker(mount).kill()
                running.progress(10)
            failures += running.has_failed
        assert failures < 5, "every death of the worker was seen by the program"


def test_bytes_that_died_with_the_worker_are_an_error_at_fsync(own: ServerProcess) -> None:
    """Never silently: either they are there, or fsync or close says EIO."""
    with _mount(own) as mount:
        for number in range(5):
            path = mount.mountpoint / f"f{number}"
            fd = os.open(path, os.O_CREAT | os.O_RDWR)
            data = bytes([number + 1]) * 300_000
            written = os.write(fd, data)
            _worker(mount).kill()
            answers = {_answer(call, fd) for call in (os.fsync, os.close)}
            assert answers <= {0, errno.EIO}
            assert errno.EIO in answers or path.read_bytes() == data[:written]


def _answer(call: Callable[[int], None], fd: int) -> int:
    try:
        call(fd)
    except OSError as error:
        return error.errno or -1
    return 0


def test_the_keeper_is_killed_and_the_worker_serves_on(own: ServerProcess) -> None:
    directory = ground()
    mount = Mount(own.address, directory / "mnt")
    try:
        mount.start()
        worker = _worker(mount)
        with open(mount.mountpoint / "f", "w+b", buffering=0) as file:
            file.write(b"before")
            psutil.Process(mount.pid).kill()
            file.write(b" after")
            os.fsync(file.fileno())
            assert (mount.mountpoint / "f").read_bytes() == b"before after"
        subprocess.run(["umount", str(mount.mountpoint)], check=True, timeout=WAIT_S)
        worker.wait(WAIT_S)
    finally:
        mount.end()
        shutil.rmtree(directory)
    assert_clean(own)


def test_everything_is_killed_and_mounted_again(own: ServerProcess) -> None:
    directory = ground()
    mount = Mount(own.address, directory / "mnt")
    try:
        mount.start()
        path = mount.mountpoint / "f"
        held = open(path, "w+b", buffering=0)  # noqa: SIM115
        held.write(b"synced")
        os.fsync(held.fileno())
        mount.kill()
        assert is_mounted(mount.mountpoint)
        with refused(errno.ENOTCONN, errno.ECONNABORTED):
            os.stat(mount.mountpoint)
        mount.start()  # over the dead one
        assert path.read_bytes() == b"synced"
        (mount.mountpoint / "g").write_text("works")
        with refused(errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.ECONNABORTED):
            held.read()
        with refused(errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.ECONNABORTED):
            held.close()
        mount.unmount()
        assert not is_mounted(mount.mountpoint)
    finally:
        mount.end()
        shutil.rmtree(directory)
    assert_clean(own)


def test_unmounting_writes_what_was_buffered(own: ServerProcess) -> None:
    with _mount(own) as mount:
        for number in range(50):
            (mount.mountpoint / f"{number}").write_bytes(b"x" * number * 1000)
    own.kill()
    own.start()
    with dataplatform.connect(own.address) as client:
        for number in range(50):
            assert client.read_file(f"/{number}") == b"x" * number * 1000


def test_dp_umount_and_dp_mount_in_the_background(own: ServerProcess) -> None:
    directory = ground()
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    environment = {**os.environ, "DP_SERVER": own.address}
    try:
        log = ["--log-file", str(directory / "log")]
        done = subprocess.run(
            [DP, "mount", "/", str(mountpoint), *log],
            env=environment,
            timeout=WAIT_S,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        (mountpoint / "f").write_text("x")
        with open(mountpoint / "f"):
            busy = subprocess.run(
                [DP, "umount", str(mountpoint)],
                env=environment,
                timeout=WAIT_S,
                capture_output=True,
                text=True,
            )
            assert busy.returncode != 0
            assert "busy" in busy.stderr or "use" in busy.stderr, busy.stderr
        subprocess.run([DP, "umount", str(mountpoint)], env=environment, timeout=WAIT_S, check=True)
        assert not is_mounted(mountpoint)
    finally:
        while is_mounted(mountpoint):
            subprocess.run(["umount", "-l", str(mountpoint)], check=True, timeout=WAIT_S)
        shutil.rmtree(directory)


# ------------------------------------------------------------------------------- full, revoked


QUOTA = 4 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _small(own: ServerProcess) -> Iterator[Path]:
    with dataplatform.connect(own.address) as client:
        client.create_volume("/small", quota_bytes=QUOTA)
    with mounted(own, "/small") as mount:
        yield mount.mountpoint


def test_a_full_volume_says_so(own: ServerProcess) -> None:
    """By write, fsync or close, before the program believes that all went well."""
    with _small(own) as small:
        answers = []
        for number in range(12):
            fd = os.open(small / f"{number}", os.O_CREAT | os.O_WRONLY)
            written = _answer(lambda fd: _write_all(fd, os.urandom(1 << 20)), fd)
            answers.append(written or _answer(os.fsync, fd))
            assert _answer(os.close, fd) in (0, *FULL)
        assert set(answers) <= {0, *FULL}
        assert 2 <= answers.count(0) <= 4, answers
        wait_until(lambda: _free_bytes(small) < 1 << 20, WAIT_S, "df says so")
        for name in os.listdir(small):
            os.unlink(small / name)
        wait_until(lambda: _fits(small / "again"), WAIT_S, "there is room again")


def test_a_full_volume_is_seen_by_programs_that_do_not_sync(own: ServerProcess) -> None:
    with _small(own) as small:
        errors = []
        for number in range(12):
            done = subprocess.run(
                ["dd", "if=/dev/urandom", f"of={small}/{number}", "bs=64k", "count=16"],
                capture_output=True,
                text=True,
                timeout=WAIT_S,
            )
            if done.returncode:
                errors.append(done.stderr)
            else:
                assert (small / f"{number}").stat().st_size == 1 << 20
        assert errors
        words = ("No space left on device", "Disk quota exceeded")
        assert all(any(word in said for word in words) for said in errors), errors


def test_a_full_volume_can_be_read_and_emptied(own: ServerProcess) -> None:
    with _small(own) as small:
        (small / "kept").write_bytes(b"kept" * 1000)
        fd = os.open(small / "big", os.O_CREAT | os.O_WRONLY)
        with refused(*FULL):
            for _ in range(10):
                os.write(fd, os.urandom(1 << 20))
                os.fsync(fd)
        assert _answer(os.close, fd) in (0, *FULL)
        assert (small / "kept").read_bytes() == b"kept" * 1000
        (small / "big").unlink()


def _free_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _fits(path: Path) -> bool:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    answer = _answer(lambda fd: _write_all(fd, os.urandom(1 << 20)), fd) or _answer(os.fsync, fd)
    assert answer in (0, *FULL)
    return _answer(os.close, fd) == answer == 0


# --------------------------------------------------------------------------------- clients die


@pytest.mark.timeout(300)
def test_what_a_dead_client_had_open_is_swept(own: ServerProcess) -> None:
    """An open file without a name lives as long as its client, and not longer."""
    directory = ground()
    mount = Mount(own.address, directory / "mnt")
    try:
        mount.start()
        with Hands([mount.mountpoint]) as hands, dataplatform.connect(own.address) as client:
            hands.do(0, "open", 0, "f", os.O_CREAT | os.O_RDWR, 0o644, 0)
            hands.do(0, "write", 0, os.urandom(3 << 20))
            assert hands.do(0, "fsync", 0) == ("ok", None)
            assert hands.do(0, "unlink", "f") == ("ok", None)
            assert _unswept(client) == 1
            mount.kill()
            wait_until(lambda: not _unswept(client), SWEPT_S, "it is swept")
    finally:
        mount.end()
        shutil.rmtree(directory)
    assert_clean(own)


def _unswept(client: dataplatform.Client) -> int:
    return client.check().counts.get("removed and not yet swept", 0)


def test_a_mount_that_hangs_does_not_stop_others(own: ServerProcess) -> None:
    """Changes wait for a stopped mount's caches at most as long as its lease."""
    with _mount(own) as mount, _mount(own) as other:
        (mount.mountpoint / "f").write_text("old")
        assert (other.mountpoint / "f").read_text() == "old"
        processes = other.processes()
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            (mount.mountpoint / "f").write_text("new")
            os.rename(mount.mountpoint / "f", mount.mountpoint / "g")
            assert time.monotonic() - started < LEASE_S + 10
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
        assert (other.mountpoint / "g").read_text() == "new"
        with refused(errno.ENOENT):
            os.stat(other.mountpoint / "f")


def test_a_program_that_dies_leaves_what_it_wrote(own: ServerProcess) -> None:
    code = "import os, sys; os.write(os.open(sys.argv[1], 66), b'written'); os.kill(os.getpid(), 9)"
    with _mount(own) as mount, _mount(own) as other:
        done = subprocess.run(
            [sys.executable, "-c", code, str(mount.mountpoint / "f")], timeout=WAIT_S, check=False
        )
        assert done.returncode == -signal.SIGKILL
        for place in (mount, other):
            assert (place.mountpoint / "f").read_bytes() == b"written"
