"""A server and its mounts for a test. When they go, the check must find nothing.

`server`, `mount` and `mounts` are shared by a module's tests; a test works in its own directory
(`place`, or `places`: the same directory on two mounts). A test that kills or fills something
takes `own`: a server that only it has.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

import dataplatform
from tests.integration.servers import ServerProcess

from .mounts import TREE, Mount, PlainTree, ground, kill_all, mounted, reason_to_skip

DEFAULT_LIMIT_S = 300
"""As in pyproject.toml."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = reason_to_skip()
    for item in items:
        if "tests/mount" not in item.path.as_posix() or item.get_closest_marker("no_mount"):
            continue
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        elif TREE and "own" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="a plain directory has no server to kill"))


@pytest.fixture(autouse=True)
def _ends(request: pytest.FixtureRequest) -> Iterator[None]:
    """A call that waits for a mount which hangs would never see the test's time limit."""
    mark = request.node.get_closest_marker("timeout")
    limit_s = 0.8 * (mark.args[0] if mark else DEFAULT_LIMIT_S)
    timer = threading.Timer(limit_s, _give_up, [limit_s])
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


def _give_up(limit_s: float) -> None:
    sys.stderr.write(f"\nthe test took more than {limit_s:g} s: its mounts are killed\n")
    kill_all()


def assert_whole(server: ServerProcess) -> None:
    """The oracle: the server ends well, and the check of what it stored finds nothing."""
    assert server.stop() == 0, server.log.read_text()[-3000:]
    checked = server.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("server"))
    if TREE:
        yield server
        return
    server.start()
    try:
        yield server
    finally:
        assert_whole(server)


class _Shared:
    """A module's mounts, made when first wanted, and made again if one was killed."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._made: dict[int, tuple[Mount | PlainTree, ExitStack]] = {}

    def get(self, number: int) -> Path:
        if number in self._made:
            mount, stack = self._made[number]
            if isinstance(mount, PlainTree) or mount.is_running:
                return mount.mountpoint
            del self._made[number]
            with suppress(AssertionError):
                stack.close()
        stack = ExitStack()
        mount = stack.enter_context(mounted(self._server))
        self._made[number] = mount, stack
        return mount.mountpoint

    def close(self) -> None:
        with ExitStack() as all_of_them:
            for _, stack in self._made.values():
                all_of_them.callback(stack.close)


@pytest.fixture(scope="module")
def _shared(server: ServerProcess) -> Iterator[_Shared]:
    with closing(_Shared(server)) as shared:
        yield shared


@pytest.fixture
def mount(_shared: _Shared) -> Path:
    """The mountpoint of `/`."""
    return _shared.get(0)


@pytest.fixture
def mounts(_shared: _Shared) -> tuple[Path, Path]:
    """Two mounts of one tree."""
    return _shared.get(0), _shared.get(1)


def _new_directory(mount: Path) -> Path:
    place = mount / f"place-{uuid.uuid4().hex[:8]}"
    place.mkdir()
    place.chmod(0o777)
    return place


def assert_clean(server: ServerProcess) -> None:
    """The check, while the server serves."""
    if TREE:
        return
    with dataplatform.connect(server.address, patience_s=30) as client:
        report = client.check()
    assert report.ok, "".join(f"\n  {f.path}: {f.problem}" for f in report.findings)


@pytest.fixture
def place(server: ServerProcess, mount: Path) -> Iterator[Path]:
    """A new directory on the mount, open to all."""
    place = _new_directory(mount)
    yield place
    shutil.rmtree(place)
    assert not os.path.lexists(place)
    assert_clean(server)


@pytest.fixture
def places(server: ServerProcess, mounts: tuple[Path, Path]) -> Iterator[tuple[Path, Path]]:
    """The same new directory, on two mounts."""
    place = _new_directory(mounts[0])
    yield place, mounts[1] / place.name
    shutil.rmtree(place)
    assert not os.path.lexists(mounts[1] / place.name)
    assert_clean(server)


@pytest.fixture
def local() -> Iterator[Path]:
    """A directory on the local disk, open to all."""
    directory = ground()
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that this test may kill."""
    server = ServerProcess(tmp_path)
    server.start()
    yield server
    assert_whole(server)
