"""How a keeper says that the mount works, or why it cannot: to whoever started it, and to systemd.

`dp mount` waits at the other end of a pipe for one line of JSON: `{"pid"}`, or
`{"kind", "message"}`.
Standard library only: the keeper imports this.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys

from .refusals import MountRefused


class Announcer:
    """Without a descriptor, refusals go to standard error; systemd is told by sd_notify(3)."""

    def __init__(self, descriptor: int = -1) -> None:
        self._descriptor = descriptor

    def ready(self) -> None:
        self._tell({"pid": os.getpid()})
        self.systemd("READY=1")

    def refused(self, refusal: MountRefused) -> None:
        if self._descriptor >= 0:
            self._tell({"kind": refusal.kind, "message": refusal.message})
        else:
            sys.stderr.write(f"dp: {refusal.message}\n")

    def _tell(self, what: dict[str, object]) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # whoever started us did not wait
                os.write(self._descriptor, json.dumps(what).encode() + b"\n")
            os.close(self._descriptor)
            self._descriptor = -1

    @staticmethod
    def systemd(state: str) -> None:
        name = os.environ.get("NOTIFY_SOCKET")
        if not name:
            return
        address = "\0" + name[1:] if name.startswith("@") else name
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
            contextlib.suppress(OSError),
        ):
            notify.sendto(state.encode(), address)
