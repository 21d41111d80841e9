"""The worker's process: what happens around `worker.serve`.

    python -m dataplatform_clients.fuse.process LINK_FD

The keeper starts it. It loads, and for the first worker of a mount looks whether there is something
to mount, before anything is mounted. Then it waits for its turn, serves, and ends with code 0 when
the file system was unmounted, HANDED_OVER when it was drained, or as the error's kind says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

import uvloop

from dataplatform import aio
from dataplatform.base.errors import KINDS, ErrorKind, Invalid, NotFound, PlatformError
from dataplatform.base.logs import start_logging

from . import link
from .handover import Handover
from .options import MountOptions
from .worker import serve

logger = logging.getLogger("dataplatform_clients.fuse.process")

MOUNTABLE = ("directory", "table", "stream")

PRIORITY = -10
"""Of the worker, if root mounts (nice(2)): every program that uses the mount waits for it, so it
must not wait behind them."""

ANSWER_S_MAX = 2.0
"""How long the first worker waits for a server: an address typed wrong should be noticed soon."""


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    # The keeper alone is told to stop, and unmounts; until then there is somebody to serve.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=int(arguments[0]))
    connection.set_inheritable(False)
    keeper = link.Link(connection)
    message, (options_descriptor, handover_descriptor) = keeper.receive(link.BEGIN)
    options = MountOptions.from_json(os.pread(options_descriptor, 1 << 20, 0))
    start_logging(options.log_level)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a container may not
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    try:
        if message == link.BEGIN_FIRST:
            uvloop.run(look(options))
        keeper.say(link.LOADED)
        _, (kernel,) = keeper.receive(link.GO)
        shared = Handover(handover_descriptor, keeper)
        uvloop.run(serve(options, kernel, shared))
    except PlatformError as error:
        keeper.refuse(error.kind.name, str(error))
        return KINDS[error.kind].exit_code
    except EOFError:
        return 0  # the keeper ended before it was our turn
    except BaseException as error:
        logger.critical("a defect ends this worker", exc_info=True)
        keeper.refuse(ErrorKind.INTERNAL.name, f"unexpected {type(error).__name__}: {error}")
        return KINDS[ErrorKind.INTERNAL].exit_code
    return link.HANDED_OVER if keeper.is_draining else 0


async def look(options: MountOptions) -> None:
    """Whether the server is there and has a directory of that name; the error says what to do."""
    place = options.address or None
    async with aio.connect(
        place,
        read_token(options),
        patience_s=ANSWER_S_MAX,
        ca=options.ca,
        cert=options.cert,
        key=options.key,
    ) as client:
        try:
            found = await client.stat(options.path)
        except NotFound:
            raise NotFound(
                f"the server has no {options.path}: make it with `dp mkdir -p {options.path}`"
            ) from None
    if found.kind not in MOUNTABLE:
        raise Invalid(f"{options.path} is no directory but a {found.kind}")


def read_token(options: MountOptions) -> str | None:
    """None: the library's default. INVALID if the file with it cannot be read."""
    try:
        return options.read_token() or None
    except OSError as error:
        reason = error.strerror
        raise Invalid("cannot read the token", file=options.token_file, reason=reason) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
