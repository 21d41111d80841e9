"""The platform as a side: a server of its own, or the one that `dp` is connected to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import dataplatform

from .. import proc
from ..servers import serving
from ..sides import OURS, MakeDriver, Side
from ..works import WORKS
from .driver import OurDriver

REST_S = 2.0
"""After its start, before its memory is read."""


class Connected(Side):
    """The server at an address; what is made there is below `base`, and removed at the end."""

    name = OURS
    works = frozenset(WORKS)

    def __init__(self, address: str | None, token: str | None, base: str) -> None:
        self._address = address
        self._token = token
        self._base = base

    def start(self, directory: Path) -> Sequence[MakeDriver]:
        with dataplatform.connect(self._address, self._token) as dp:
            dp.mkdir(self._base)
        return (partial(OurDriver, self._address, self._token, self._base),)

    def stop(self) -> None:
        with dataplatform.connect(self._address, self._token) as dp:
            dp.rmtree(self._base, missing_ok=True)


class Own(Side):
    """A server on a directory that is thrown away with it."""

    name = OURS
    works = frozenset(WORKS)

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.pid = 0
        self.rest_bytes = 0

    def start(self, directory: Path) -> Sequence[MakeDriver]:
        server = self._stack.enter_context(serving(directory))
        time.sleep(REST_S)
        self.pid = server.pid
        self.rest_bytes = proc.resident_bytes(server.pid)
        return (partial(OurDriver, server.address, None, ""),)

    def stop(self) -> None:
        self._stack.close()
