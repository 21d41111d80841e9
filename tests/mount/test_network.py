"""Two hosts share one tree over a network that fails: programs wait, and see no error."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.servers import ServerProcess

from .conftest import assert_whole
from .loads import Running
from .mounts import Mount, ground
from .networks import Cable

PORT = 7222


@contextmanager
def _hosts(tmp_path: Path, *options: str) -> Iterator[tuple[Cable, ServerProcess, Mount, Mount]]:
    """The cable, the server, a mount beside it, and one over the cable."""
    if reason := Cable.reason_to_skip():
        pytest.skip(reason)
    directory = ground()
    try:
        with Cable(os.getpid() % 250) as cable:
            listen = ("--listen", f"{cable.here}:{PORT}", "--insecure")
            server = ServerProcess(tmp_path, "rocks", *listen)
            server.start()
            try:
                address = f"dp://{cable.here}:{PORT}"
                near = Mount(server.address, directory / "near", "/", *options)
                token = directory / "token"
                token.write_text(server.admin_token())
                shown = ("-o", f"token_file={token}")
                far = Mount(address, directory / "far", "/", *options, *shown, wrap=cable.enter)
                with near, far:
                    yield cable, server, near, far
            finally:
                assert_whole(server)
    finally:
        shutil.rmtree(directory)


def test_two_hosts_share_a_tree(tmp_path: Path, seed: int) -> None:
    with _hosts(tmp_path) as (_, _, near, far):
        (near.mountpoint / "a").mkdir()
        (near.mountpoint / "b").mkdir()
        (far.mountpoint / "a" / "f").write_text("from afar")
        assert (near.mountpoint / "a" / "f").read_text() == "from afar"
        with (
            Running(near.mountpoint / "a", tmp_path / "near.journal", seed) as one,
            Running(far.mountpoint / "b", tmp_path / "far.journal", seed + 1) as other,
        ):
            one.progress(20)
            other.progress(20)
        for name in "ab":
            names = sorted(os.listdir(near.mountpoint / name))
            assert names == sorted(os.listdir(far.mountpoint / name))
            for file in names:
                paths = [mount.mountpoint / name / file for mount in (near, far)]
                assert paths[0].read_bytes() == paths[1].read_bytes()


def _cut(tmp_path: Path, seed: int, seconds: float, rounds: int) -> None:
    """The far host is cut off while both work: the near one goes on, the far one waits."""
    with _hosts(tmp_path) as (cable, _, near, far):
        (near.mountpoint / "near").mkdir()
        (near.mountpoint / "far").mkdir()
        (far.mountpoint / "shared").write_text("before")
        with (
            Running(near.mountpoint / "near", tmp_path / "near.journal", seed) as one,
            Running(far.mountpoint / "far", tmp_path / "far.journal", seed + 1) as other,
        ):
            for number in range(rounds):
                other.progress(10)
                cable.pull()
                ends = time.monotonic() + seconds
                one.progress(5)
                (near.mountpoint / "shared").write_text(f"meanwhile {number}")
                time.sleep(max(0.0, ends - time.monotonic()))
                cable.plug()
                other.progress(10)
                one.progress(5)
                assert (far.mountpoint / "shared").read_text() == f"meanwhile {number}"


@pytest.mark.timeout(180)
def test_a_cut_of_the_network_is_waited_for(tmp_path: Path, seed: int) -> None:
    _cut(tmp_path, seed, seconds=4, rounds=1)


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_a_cut_of_thirty_seconds_is_waited_for(tmp_path: Path, seed: int) -> None:
    _cut(tmp_path, seed, seconds=30, rounds=4)


@pytest.mark.timeout(120)
def test_a_host_that_is_cut_off_for_longer_than_its_patience_sees_an_error(
    tmp_path: Path,
) -> None:
    with _hosts(tmp_path, "--patience", "2s") as (cable, _, near, far):
        (far.mountpoint / "f").write_text("x")
        cable.pull()
        (near.mountpoint / "f").write_text("changed")
        started = time.monotonic()
        with pytest.raises(OSError) as caught:
            (far.mountpoint / "new").write_text("y")
        assert time.monotonic() - started < 30
        assert caught.value.errno is not None
        cable.plug()
        # What it remembers from before the cut is not believed any more.
        assert _read_when_back(far.mountpoint / "f") == "changed"


def _read_when_back(path: Path) -> str:
    end = time.monotonic() + 60
    while True:
        try:
            return path.read_text()
        except OSError:
            if time.monotonic() > end:
                raise
