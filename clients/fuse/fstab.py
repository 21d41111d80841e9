"""`mount.dp`: what mount(8) calls for a line of /etc/fstab whose type is `dp`.

    dp://127.0.0.1:7222/projects  /mnt/projects  dp  defaults,_netdev,nofail  0 0

mount(8) looks for it as /sbin/mount.dp and calls `mount.dp SPEC DIR [-sfnv] [-N namespace]
[-o options] [-t type]`; the exit codes are those of mount(8).
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from . import mountinfo, mounting, starting
from .options import MountOptions, parse_options, parse_spec
from .refusals import MountRefused

USAGE = "usage: mount.dp SPEC DIR [-sfnv] [-o OPTIONS]"

USAGE_ERROR = 1  # exit codes of mount(8)
MOUNT_FAILURE = 32


def main() -> NoReturn:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code."""
    try:
        flags, places = getopt.gnu_getopt(list(arguments), "sfnvo:t:N:h")
    except getopt.GetoptError as error:
        return _say(f"{error.msg}. {USAGE}", USAGE_ERROR)
    given = dict(flags)
    if "-h" in given or len(places) != 2:
        return _say(USAGE, USAGE_ERROR)
    try:
        words = [word for word in _all(flags, "-o").split(",") if word]
        is_remount = "remount" in words
        words = [word for word in words if word != "remount"]
        options = read(places[0], places[1], ",".join(words))
        if "-f" in given:  # a rehearsal, as mount(8) calls it
            return 0
        if is_remount:
            starting.ours(options.mountpoint)
            mounting.remount(options.mountpoint, options)
        else:
            starting.start(options)
    except MountRefused as refusal:
        return _say(refusal.message, USAGE_ERROR if refusal.kind == "INVALID" else MOUNT_FAILURE)
    return 0


def read(spec: str, directory: str, text: str) -> MountOptions:
    """The options of a line. What is shown as its source is the line's SPEC itself, so that
    `mount -a` knows that it is mounted."""
    address, path = parse_spec(spec)
    found = {"source": spec, **parse_options(text)}
    if address:
        found["address"] = address
    options = MountOptions(mountpoint=mountinfo.resolve(directory), path=path, **found)
    if not options.token and not options.token_file:
        options = replace(options, token=os.environ.get("DP_TOKEN", ""))
    return options


def _all(flags: list[tuple[str, str]], name: str) -> str:
    return ",".join(value for flag, value in flags if flag == name)


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"mount.dp: {text}\n")
    return code


if __name__ == "__main__":
    main()
