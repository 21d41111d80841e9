"""From options to a mount that works: starting the keeper, in the background or as this process;
and what people do with it later: upgrade, unmount."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from . import keepers, mountinfo, mounting
from .options import FILE_SYSTEM, MountOptions
from .refusals import MountRefused

LOG_BYTES_MAX = 10 << 20
"""A log larger than this becomes NAME.log.1 when its mount is started anew."""

UPGRADE_S_MAX = 600.0
LOOK_S = 0.02
"""Between two looks at processes that cannot be waited for."""


def default_log_file(mountpoint: str) -> Path:
    """/var/log/dp-mount/NAME.log for root, ~/.local/state/dataplatform/NAME.log for others; NAME is
    the mountpoint with `-` for `/`."""
    name = mountpoint.strip("/").replace("/", "-") or "root"
    if mounting.is_root():
        return Path("/var/log/dp-mount") / f"{name}.log"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "dataplatform" / f"{name}.log"


TOKEN_VARIABLE = "DP_TOKEN"  # noqa: S105  its name
"""It is among the options by now, and would stand in the keeper's environment as long as it lives,
for its user and root to read (/proc/PID/environ)."""


def become_keeper(options: MountOptions) -> NoReturn:
    """Serve in this process, which systemd or a terminal waits for."""
    descriptor = _options_descriptor(options)
    os.set_inheritable(descriptor, True)
    os.environ.pop(TOKEN_VARIABLE, None)
    os.execv(sys.executable, _command(options, descriptor, -1))


def start(options: MountOptions) -> int:
    """Mount in the background; the keeper's process number, once the mount works."""
    import subprocess

    log = Path(options.log_file) if options.log_file else default_log_file(options.mountpoint)
    _open_log(log)
    options = replace(options, log_file=str(log))
    descriptor = _options_descriptor(options)
    answers, answer = os.pipe()
    keeper = subprocess.Popen(
        _command(options, descriptor, answer),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[descriptor, answer],
        start_new_session=True,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE},
    )
    os.close(answer)
    os.close(descriptor)
    try:
        with os.fdopen(answers) as pipe:
            line = pipe.readline()
    except KeyboardInterrupt:
        keeper.terminate()
        raise
    if not line:
        raise MountRefused("INTERNAL", f"the keeper ended at once; {log} may say why")
    told = json.loads(line)
    if "kind" in told:
        keeper.wait()
        raise MountRefused(told["kind"], told["message"])
    keeper.returncode = 0  # it goes on without us: no warning about that
    return int(told["pid"])


def _command(options: MountOptions, descriptor: int, answer: int) -> list[str]:
    words = [sys.executable, "-P", "-m", keepers.MODULE, options.source, options.mountpoint]
    return [*words, str(descriptor), str(answer)]


def _options_descriptor(options: MountOptions) -> int:
    """Not on the command line: there is a token among them."""
    descriptor = os.memfd_create("dp-mount-options", os.MFD_CLOEXEC)
    os.pwrite(descriptor, options.to_json().encode(), 0)
    return descriptor


def _open_log(log: Path) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > LOG_BYTES_MAX:
                log.replace(log.with_name(log.name + ".1"))
        log.open("ab").close()
    except OSError as error:
        raise MountRefused(
            "DENIED",
            f"cannot write the log {log} ({error.strerror}): name another, --log-file FILE",
        ) from None


# ----------------------------------------------------------------------------------- later


def ours(mountpoint: str) -> mountinfo.Mounted:
    """The mount of this kind on a path as `mountinfo.resolve` gives it; NOT_FOUND if none is."""
    mounted = mountinfo.find(mountpoint)
    if mounted is None or mounted.kind != FILE_SYSTEM:
        raise MountRefused(
            "NOT_FOUND", f"nothing of ours is mounted on {mountpoint}: see `dp mount`"
        )
    return mounted


def upgrade(mountpoint: str) -> None:
    """Let a worker of the program that is installed now take over; returns when it did."""
    ours(mountpoint)
    keeper = keepers.find(mountpoint)
    if keeper is None:
        raise MountRefused(
            "UNAVAILABLE",
            f"the keeper of {mountpoint} is gone: `dp umount {mountpoint}`, then mount again",
        )
    before = keepers.workers(keeper)
    try:
        os.kill(keeper, signal.SIGHUP)
    except PermissionError:
        raise MountRefused(
            "DENIED", f"no right to upgrade {mountpoint}: another user mounted it"
        ) from None
    seen = before
    ends_s = time.monotonic() + UPGRADE_S_MAX
    while time.monotonic() < ends_s and keepers.is_alive(keeper):
        now = keepers.workers(keeper)
        if now and not now & before:
            return
        if now == before and seen > before:
            raise MountRefused(
                "INTERNAL", "the new worker did not load, the old one goes on: see the mount's log"
            )
        seen = seen | now
        time.sleep(LOOK_S)
    raise MountRefused("UNAVAILABLE", f"{mountpoint} was not upgraded: see the mount's log")


def unmount(mountpoint: str, *, is_lazy: bool = False) -> None:
    """Unmount, and wait until everything is with the server; `is_lazy`: neither waits for programs
    that use it, nor for that."""
    ours(mountpoint)
    keeper = keepers.find(mountpoint)
    try:
        mounting.unmount(mountpoint, is_lazy=is_lazy)
    except MountRefused as refusal:
        if refusal.kind != "CONFLICT":
            raise
        using = [f"{name} ({pid})" for pid, name in keepers.users(mountpoint).items()][:5]
        by = f" by {', '.join(using)}" if using else ""
        raise MountRefused(
            "CONFLICT", f"{mountpoint} is in use{by}: end that first, or `dp umount --lazy`"
        ) from None
    while not is_lazy and keeper is not None and keepers.is_alive(keeper):
        time.sleep(LOOK_S)
