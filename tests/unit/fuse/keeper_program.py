"""A keeper that mounts nothing: its "mount" is the directory of the fake worker, and unmounting is
a file in it. Prints what it announces."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dataplatform_clients.fuse import keeper, mounting
from dataplatform_clients.fuse.announcer import Announcer
from dataplatform_clients.fuse.options import MountOptions
from dataplatform_clients.fuse.refusals import MountRefused

DIRECTORY = Path(os.environ["FAKE_DIRECTORY"])


def event(text: str) -> None:
    with (DIRECTORY / "events").open("a") as events:
        events.write(f"{text}\n")


def mount(options: MountOptions) -> int:
    if (DIRECTORY / "refuse-mount").exists():
        raise MountRefused("DENIED", "not here")
    event("mount")
    return os.open(DIRECTORY, os.O_RDONLY)


def unmount(mountpoint: str, *, is_lazy: bool = False) -> None:
    event("unmount lazily" if is_lazy else "unmount")
    (DIRECTORY / "unmounted").touch()


def unmount_surely(mountpoint: str) -> bool:
    while (DIRECTORY / "block-unmount").exists():
        time.sleep(0.01)
    if (DIRECTORY / "in-use").exists():
        event("unmount lazily")
        return True
    unmount(mountpoint)
    return False


mounting.check = lambda options: None
mounting.mount = mount
mounting.unmount = unmount
mounting.unmount_surely = unmount_surely
mounting.raise_readahead = lambda mountpoint: True

if __name__ == "__main__":
    options = MountOptions(mountpoint="/nowhere", patience_s=1)
    descriptor = os.memfd_create("options")
    os.pwrite(descriptor, options.to_json().encode(), 0)
    command = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]
    keeper.LOAD_S_MAX = float(os.environ.get("LOAD_S_MAX", keeper.LOAD_S_MAX))
    sys.exit(keeper.Keeper(options, descriptor, Announcer(os.dup(1)), command).run())
