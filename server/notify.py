"""Tell whoever started the server that it is ready: a file, a descriptor, systemd."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path

from .servers import Endpoints


def ready_line(endpoints: Endpoints) -> str:
    return " ".join(["ready", *(a for a in asdict(endpoints).values() if a)])


def ready_json(endpoints: Endpoints, cluster: str) -> str:
    return json.dumps({"pid": os.getpid(), "cluster": cluster, **asdict(endpoints)})


def write_ready_file(path: Path, text: str) -> None:
    """Whole or not at all: who waits for the file may read it as soon as it is there."""
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n")
    part.chmod(0o644)  # others may wait for it, and it tells no secret
    part.replace(path)


def write_ready_fd(descriptor: int, text: str) -> None:
    with os.fdopen(descriptor, "w") as pipe:
        pipe.write(text + "\n")


def tell_systemd(state: str) -> None:
    """sd_notify(3): a datagram to NOTIFY_SOCKET, if it is set."""
    name = os.environ.get("NOTIFY_SOCKET")
    if not name:
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(state.encode(), address)
