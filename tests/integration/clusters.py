"""Several clusters, each a real server process on a host of its own: network namespaces around a
bridge, whose links can be cut, mended and made slow.

Unix sockets are files, so the test reaches every server whatever its links are like.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from types import TracebackType

import dataplatform
from dataplatform.core.clusters import Access
from dataplatform_server.replication.remote import RemoteSource
from dataplatform_server.replication.wires import FramesWire

from .servers import ServerProcess

LIMIT_S = 30.0
FRAMES_PORT = 7222
GRPC_PORT = 7223


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


class Host:
    """A network namespace and its link to the bridge."""

    def __init__(self, network: Network, number: int) -> None:
        self.name = f"{network.name}h{number}"
        self.address = f"{network.prefix}.{number + 1}"
        self._device = f"{network.name}v{number}"
        self._bridge = network.bridge
        self.enter = ("nsenter", f"--net=/run/netns/{self.name}")

    def make(self) -> None:
        peer = f"{self._device}p"
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self._device, "type", "veth", "peer", "name", peer)
        _run("ip", "link", "set", peer, "netns", self.name)
        _run("ip", "link", "set", self._device, "master", self._bridge, "up")
        inside = ("ip", "-n", self.name)
        _run(*inside, "addr", "add", f"{self.address}/24", "dev", peer)
        _run(*inside, "link", "set", peer, "up")
        _run(*inside, "link", "set", "lo", "up")

    def remove(self) -> None:
        for words in (("link", "del", self._device), ("netns", "del", self.name)):
            try:
                _run("ip", *words)
            except OSError:
                continue

    def cut(self) -> None:
        """Packets go nowhere, from here on; nobody is told."""
        _run("ip", "link", "set", self._device, "down")

    def mend(self) -> None:
        _run("ip", "link", "set", self._device, "up")

    def shape(self, *, delay_ms: float = 0, loss_percent: float = 0, rate_mbit: int = 0) -> None:
        """What comes to this host comes late, or not at all (tc-netem(8)). All 0: as it was."""
        with contextlib.suppress(OSError):  # there was none
            _run("tc", "qdisc", "del", "dev", self._device, "root")
        words = []
        if delay_ms:
            words += ["delay", f"{delay_ms}ms"]
        if loss_percent:
            words += ["loss", f"{loss_percent}%"]
        if rate_mbit:
            words += ["rate", f"{rate_mbit}mbit"]
        if words:
            _run("tc", "qdisc", "add", "dev", self._device, "root", "netem", *words)


class Network:
    """`with Network(2) as network:` makes two hosts, `network.hosts`, that reach each other."""

    def __init__(self, hosts: int) -> None:
        unique = uuid.uuid4().hex
        self.name = f"dp{unique[:6]}"
        self.bridge = f"{self.name}b"
        self.prefix = f"10.{214 + int(unique[6:8], 16) % 30}.{int(unique[8:10], 16)}"
        self.hosts = [Host(self, number) for number in range(1, hosts + 1)]

    @staticmethod
    @functools.cache
    def reason_to_skip() -> str:
        """Empty if there is none."""
        if missing := [name for name in ("ip", "nsenter") if shutil.which(name) is None]:
            return f"missing: {' '.join(missing)} (apt-get install iproute2 util-linux)"
        if os.geteuid() != 0:
            return "network namespaces need root"
        try:
            with Network(1):
                return ""
        except OSError as error:
            return f"no network namespaces here: {error}"

    @staticmethod
    @functools.cache
    def reason_not_to_shape() -> str:
        """Why links cannot be made slow; empty if they can."""
        if shutil.which("tc") is None:
            return "missing: tc (apt-get install iproute2)"
        try:
            with Network(1) as network:
                network.hosts[0].shape(delay_ms=1)
                return ""
        except OSError as error:
            return f"this kernel shapes no traffic: {error}"

    def __enter__(self) -> Network:
        try:
            _run("ip", "link", "add", self.bridge, "type", "bridge")
            _run("ip", "addr", "add", f"{self.prefix}.1/24", "dev", self.bridge)
            _run("ip", "link", "set", self.bridge, "up")
            for host in self.hosts:
                host.make()
        except BaseException:
            self._remove()
            raise
        return self

    def _remove(self) -> None:
        for host in self.hosts:
            host.remove()
        with contextlib.suppress(OSError):
            _run("ip", "link", "del", self.bridge)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()


class Cluster(ServerProcess):
    """The server of a cluster, on a host. It speaks frames and gRPC there, unencrypted."""

    def __init__(self, directory: Path, name: str, host: Host, engine: str = "rocks") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        options = ["--cluster", name, "--insecure"]
        options += ["--listen", f"{host.address}:{FRAMES_PORT}"]
        options += ["--grpc", f"{host.address}:{GRPC_PORT}"]
        super().__init__(directory, engine, *options)
        self.name = name
        self.host = host
        self.prefix = host.enter
        self.frames = f"dp://{host.address}:{FRAMES_PORT}"
        self.grpc = f"grpc://{host.address}:{GRPC_PORT}"

    def client(self) -> dataplatform.Client:
        """Of an administrator, over the Unix socket."""
        return dataplatform.connect(self.address)

    def source(self, path: str) -> RemoteSource:
        """What is there, over the Unix socket. Belongs to the running loop."""
        return RemoteSource(
            FramesWire(Access(self.name, self.address, "", "", b"", 0), "test"), path
        )

    def know(self, other: Cluster, address: str = "") -> None:
        """Make the other cluster known here, as an administrator of it; `address`: of a relay."""
        with self.client() as dp:
            if other.name not in {known.name for known in dp.clusters()}:
                token = other.admin_token()
                dp.add_cluster(other.name, address or other.frames, token=token, insecure=True)
