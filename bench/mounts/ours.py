"""The platform as a mount: a server of its own on RocksDB, and `dp mount`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..processes import Running
from ..servers import Server, serving
from ..sides import OURS
from .places import Durability, Place, family, mounted, unmount


class Ours(Place):
    name = OURS
    title = "ours"
    durability = Durability("within a second", "synced")

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._server: Server | None = None
        self._mount: Running | None = None

    def start(self, directory: Path) -> None:
        self._directory = directory
        self._server = self._stack.enter_context(serving(directory))
        self._serve(self._server)

    def _serve(self, server: Server) -> None:
        self._mount = mounted(
            [
                *(sys.executable, "-P", "-m", "dataplatform_clients.cli.main"),
                *("mount", "/", str(self.point), "--foreground"),
            ],
            self.point,
            self._directory / "mount.log",
            DP_SERVER=server.address,
        )

    def remount(self) -> None:
        self._unmount()
        assert self._server is not None
        self._serve(self._server)

    def _unmount(self) -> None:
        unmount(self.point, self._mount)
        self._mount = None

    def stop(self) -> None:
        if self._mount is not None:
            self._unmount()
        self._stack.close()

    @property
    def point(self) -> Path:
        return self._directory / "mount"

    @property
    def stores(self) -> Sequence[Path]:
        return (self._directory / "data",)

    def mount_pids(self) -> Sequence[int]:
        return family(self._mount.pid) if self._mount else ()

    def server_pids(self) -> Sequence[int]:
        return (self._server.pid,) if self._server else ()
