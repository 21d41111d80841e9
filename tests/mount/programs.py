"""Real programs: found or the test is skipped, run with a limit, started as other users."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

RUN_S = 120.0

PACKAGES = {
    "fio": "fio",
    "gcc": "gcc",
    "getfacl": "acl",
    "git": "git",
    "ip": "iproute2",
    "make": "make",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "nsenter": "util-linux",
    "rsync": "rsync",
    "setfattr": "attr",
    "sysbench": "sysbench",
    "tar": "tar",
}
"""The Debian package of each program that is looked for; tools/test-packages.sh installs them."""


def find(name: str) -> str | None:
    """Also where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def need(*names: str) -> None:
    """Skip the test when a program is missing."""
    missing = [name for name in names if find(name) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES.get(name, name) for name in missing}))
        pytest.skip(f"missing: {' '.join(missing)} (apt-get install {packages})")


def need_user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pytest.skip(f"there is no user {name}")


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    user: str | None = None,
    limit_s: float = RUN_S,
    stdin: str | None = None,
    succeeds: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what it printed is in the failure."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd or "/",
        env=_environment(user),
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=limit_s,
        **_as(user),
    )
    if succeeds:
        said = (done.stdout + done.stderr)[-3000:]
        assert done.returncode == 0, f"{_line(command)} ended with {done.returncode}:\n{said}"
    return done


@contextlib.contextmanager
def started(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run it beside the test; it is killed when the test goes on without it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd or "/",
            env=_environment(user),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **_as(user),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(RUN_S)


def _as(user: str | None) -> dict[str, object]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _environment(user: str | None) -> dict[str, str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    if user is not None:
        environment |= {"USER": user, "LOGNAME": user, "HOME": "/nonexistent"}
    return environment


def _line(command: Sequence[str | Path]) -> str:
    return " ".join(str(word) for word in command)
