"""Two hosts on one machine: network namespaces joined by a cable that can be pulled."""

from __future__ import annotations

import os
import subprocess
import uuid
from types import TracebackType

from .programs import need

LIMIT_S = 30.0


def _ip(*words: str) -> None:
    done = subprocess.run(
        ["ip", *words], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Cable:
    """A namespace named `name`, reached from here over a pair of devices.

    Here it is `here`, there `there`. `enter` is what a command begins with that runs over there:
    its network is the namespace's, all else (files, mounts) stays what it is here.
    """

    def __init__(self, number: int) -> None:
        unique = uuid.uuid4().hex[:6]
        self.name = f"dp-{unique}"
        self.here = f"10.213.{number}.1"
        self.there = f"10.213.{number}.2"
        self._device = f"dph{unique}"
        self.enter = ("nsenter", f"--net=/run/netns/{self.name}")

    @staticmethod
    def reason_to_skip() -> str | None:
        need("ip", "nsenter")
        if os.geteuid() != 0:
            return "network namespaces need root"
        try:
            with Cable(254):
                return None
        except OSError as error:
            return f"no network namespaces here: {error}"

    def __enter__(self) -> Cable:
        try:
            _ip("netns", "add", self.name)
            peer = f"{self._device}p"
            _ip("link", "add", self._device, "type", "veth", "peer", "name", peer)
            _ip("link", "set", peer, "netns", self.name)
            _ip("addr", "add", f"{self.here}/30", "dev", self._device)
            _ip("link", "set", self._device, "up")
            _ip("-n", self.name, "addr", "add", f"{self.there}/30", "dev", peer)
            _ip("-n", self.name, "link", "set", peer, "up")
            _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def pull(self) -> None:
        """Packets go nowhere; nobody is told."""
        _ip("link", "set", self._device, "down")

    def plug(self) -> None:
        _ip("link", "set", self._device, "up")

    def _remove(self) -> None:
        for words in (("link", "del", self._device), ("netns", "del", self.name)):
            try:
                _ip(*words)
            except OSError:
                continue

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()
