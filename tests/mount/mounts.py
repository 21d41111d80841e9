"""`dp mount` as a process: started, waited for, unmounted, and nothing of it left behind.

Whatever hangs ends: `kill_all` (called by a timer in `conftest.py`) kills every mount that is
there, so that each call that waits for one gets an error.

`DP_TEST_TREE=/some/directory` puts a plain directory in the place of the mount: the proofs that
need no faults then run against that one, a local disk or another product's mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from tests.integration.servers import ServerProcess

READY_S = 30.0
END_S = 60.0
POLL_S = 0.02

TREE = os.environ.get("DP_TEST_TREE")
_ALL: set[Mount] = set()
DP = str(Path(sys.executable).with_name("dp"))


def reason_to_skip() -> str | None:
    """Why no mount can be made here, if none can."""
    if TREE:
        return None
    if os.geteuid() != 0:
        return "mounting as these tests do needs root"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    return None


def wait_until(condition: Callable[[], object], limit_s: float, what: str) -> None:
    """Poll `condition` until it is true."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s:g} s: {what}")
        time.sleep(POLL_S)


def is_mounted(mountpoint: Path) -> bool:
    """From the kernel's list: asking the mountpoint itself could wait for ever."""
    with open("/proc/self/mountinfo") as lines:
        return any(line.split(" ")[4] == str(mountpoint) for line in lines)


def ground() -> Path:
    """A new directory that every user can reach (pytest's own are closed to others)."""
    directory = Path(tempfile.mkdtemp(prefix="dp-mount-"))
    directory.chmod(0o755)
    return directory


class Mount:
    """One mount: `with Mount(server.address, mountpoint): ...`."""

    def __init__(
        self,
        address: str,
        mountpoint: Path,
        path: str = "/",
        *options: str,
        wrap: Sequence[str] = (),
    ) -> None:
        self.address = address
        self.mountpoint = mountpoint
        self.path = path
        self.options = options
        self.log = mountpoint.with_name(mountpoint.name + ".log")
        self._wrap = tuple(wrap)
        self._process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return str(self.mountpoint)

    def start(self) -> Mount:
        """Start it, and wait until the kernel lists it and it answers."""
        if not is_mounted(self.mountpoint):  # else over a dead mount
            self.mountpoint.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "DP_SERVER": self.address}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._wrap,
                    *(DP, "mount", self.path, str(self.mountpoint), "--foreground"),
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        _ALL.add(self)
        try:
            wait_until(self._is_ready, READY_S, f"mounted. log:\n{self.last_log()}")
        except BaseException:
            self.end()
            raise
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise AssertionError(f"dp mount ended with {code}:\n{self.last_log()}")
        if not is_mounted(self.mountpoint):
            return False
        try:
            os.statvfs(self.mountpoint)
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                return False  # the dead mount is there still
            raise
        return True

    def last_log(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    # ---- processes

    @property
    def pid(self) -> int:
        """Of the process that `dp mount` is."""
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """All of the mount: the one that was started, then what it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        return []

    def kill(self) -> None:
        """SIGKILL to all of it, as an out-of-memory killer at its worst: a dead mount stays."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(END_S)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # ---- ends

    def _is_used_by_us(self) -> bool:
        for entry in os.scandir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path).startswith(f"{self.mountpoint}/"):
                    return True
        return False

    def unmount(self) -> None:
        """As an administrator does; the process must then end by itself, and well.

        A test that failed may have left something open in its frames: that says nothing more.
        """
        process = self._process
        assert process is not None
        options = ["-l"] if self._is_used_by_us() else []
        done = subprocess.run(
            ["umount", *options, str(self.mountpoint)],
            capture_output=True,
            text=True,
            timeout=END_S,
        )
        if options:
            return
        assert done.returncode == 0, f"umount: {done.stderr}{self.last_log()}"
        code = process.wait(END_S)
        assert code == 0, f"dp mount ended with {code}:\n{self.last_log()}"

    def end(self) -> None:
        """Whatever its state: nothing is mounted, nothing runs."""
        self.kill()
        _ALL.discard(self)
        while is_mounted(self.mountpoint):
            subprocess.run(["umount", "-l", str(self.mountpoint)], check=True, timeout=END_S)

    def __enter__(self) -> Mount:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                self.unmount()
        finally:
            self.end()
            if exception[0] is not None and self.last_log():
                sys.stderr.write(f"\nlog of the mount:\n{self.last_log()}\n")


def kill_all() -> None:
    for mount in list(_ALL):
        mount.kill()


class PlainTree:
    """A plain directory where a mount is expected (`DP_TEST_TREE`)."""

    def __init__(self, directory: Path) -> None:
        self.mountpoint = directory

    def __str__(self) -> str:
        return str(self.mountpoint)


@contextlib.contextmanager
def mounted(server: ServerProcess, path: str = "/", *options: str) -> Iterator[Mount | PlainTree]:
    """The tree of `server` at `path`, on a mountpoint of its own."""
    directory = ground()
    try:
        if TREE:
            yield PlainTree(Path(TREE))
            return
        with Mount(server.address, directory / "mnt", path, *options) as mount:
            yield mount
    finally:
        shutil.rmtree(directory)
