"""`mount.dp` as mount(8) calls it; nothing is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform_clients.fuse import fstab, starting
from dataplatform_clients.fuse.options import MountOptions
from dataplatform_clients.fuse.refusals import MountRefused


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[MountOptions]:
    options: list[MountOptions] = []
    monkeypatch.setattr(starting, "start", options.append)
    monkeypatch.delenv("DP_TOKEN", raising=False)
    return options


def test_a_line_of_fstab(started: list[MountOptions], tmp_path: Path) -> None:
    spec = "dp://127.0.0.1:7222/projects"
    line = [spec, str(tmp_path), "-v", "-o", "rw,_netdev,nofail,noatime,patience=1m"]
    assert fstab.run(line) == 0
    (options,) = started
    assert options.address == "dp://127.0.0.1:7222"
    assert options.path == "/projects"
    assert options.mountpoint == str(tmp_path)
    assert options.atime == "noatime"
    assert options.patience_s == 60
    assert options.source == spec, "mount -a looks for it"


def test_a_rehearsal_mounts_nothing(started: list[MountOptions], tmp_path: Path) -> None:
    assert fstab.run(["dp:/", str(tmp_path), "-f", "-o", "rw"]) == 0
    assert not started


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "usage: mount.dp"),
        (["dp:/"], "usage: mount.dp"),
        (["-q", "dp:/", "/m"], "usage: mount.dp"),
        (["nfs:/", "/m"], "names nothing to mount"),
        (["dp:/", "/m", "-o", "fast"], "unknown option 'fast'"),
    ],
)
def test_a_line_that_is_wrong(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fstab.run(arguments) == fstab.USAGE_ERROR
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_mount_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(options: MountOptions) -> int:
        raise MountRefused("UNAVAILABLE", "no server")

    monkeypatch.setattr(starting, "start", refuse)
    assert fstab.run(["dp:/", "/m"]) == fstab.MOUNT_FAILURE
    assert capsys.readouterr().err == "mount.dp: no server\n"


def test_the_token_may_come_from_the_environment(
    started: list[MountOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DP_TOKEN", "t")
    assert fstab.run(["dp:/", str(tmp_path)]) == 0
    assert fstab.run(["dp:/", str(tmp_path), "-o", "token_file=/t"]) == 0
    assert [options.token for options in started] == ["t", ""]
