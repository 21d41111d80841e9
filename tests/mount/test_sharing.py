"""Bulk written through memory that the mount and the server share, and without it: the same bytes
are there, whenever the server is killed."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.integration.servers import ServerProcess

from . import bulk_writer
from .mounts import mounted, wait_until

WAIT_S = 30.0


def _maps_shared(pid: int) -> bool:
    """Whether the server has the memory of a mount mapped."""
    return "/memfd:dataplatform" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("option", ["near", "nonear"])
def test_the_server_is_killed_while_bulk_is_written(
    own: ServerProcess, seed: int, option: str
) -> None:
    with mounted(own, "/", "-o", option) as mount:
        path = mount.mountpoint / "bulk"
        writer = subprocess.Popen(
            [sys.executable, bulk_writer.__file__, str(path), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                own.kill()
                ready = own.start()
                if option == "near":
                    maps = partial(_maps_shared, int(str(ready["pid"])))
                    wait_until(maps, WAIT_S, "memory is shared again")
                if line == b"synced\n":
                    break
            writer.kill()
        assert line == b"synced\n"
        assert path.read_bytes() == bulk_writer.content(seed)
    with mounted(own) as mount:
        assert (mount.mountpoint / "bulk").read_bytes() == bulk_writer.content(seed)
