"""A worker that serves nothing: it does what the file `plan` says, one word per start, and writes
what happens to it into `events`. Started by the keeper, with the line's descriptor as argument."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from dataplatform_clients.fuse import link
from dataplatform_clients.fuse.handover import Handover

DIRECTORY = Path(os.environ["FAKE_DIRECTORY"])
UNMOUNTED = DIRECTORY / "unmounted"
LIFE_S_MAX = 60.0


def event(text: str) -> None:
    with (DIRECTORY / "events").open("a") as events:
        events.write(f"{text}\n")


def main() -> int:
    starts = (DIRECTORY / "starts").read_text() if (DIRECTORY / "starts").exists() else ""
    with (DIRECTORY / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    plan = (DIRECTORY / "plan").read_text().split()
    mode = plan[min(starts.count("\n"), len(plan) - 1)]
    connection = socket.socket(fileno=int(sys.argv[1]))
    line = link.Link(connection)
    message, (_options, memory) = line.receive(link.BEGIN)
    event(message.decode())
    if mode == "die-loading":
        return 3
    if mode == "refuse-loading":
        line.refuse("NOT_FOUND", "there is\nno such thing")
        return 3
    line.say(link.LOADED)
    _, (kernel,) = line.receive(link.GO)
    shared = Handover(memory, line)
    event(f"go {shared.generation} {shared.session.hex()}")
    if mode == "die":
        return 3
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "refuse":
        line.refuse("UNAVAILABLE", "no server")
        return 8
    assert os.fstat(kernel).st_ino == DIRECTORY.stat().st_ino
    signal.signal(signal.SIGUSR1, lambda *_: event("usr1"))
    event("ready")
    line.ready()
    listening = [connection]
    ends = time.monotonic() + LIFE_S_MAX
    while not UNMOUNTED.exists() and time.monotonic() < ends:
        if select.select(listening, [], [], 0.005)[0]:
            heard = connection.recv(100)
            event(heard.decode() or "alone")
            if heard == link.DRAIN:
                return link.HANDED_OVER if mode != "die-draining" else 1
            if not heard:
                listening.clear()
    event("flushed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
