"""The server itself: is it there, how is it, is what it stores whole. Synchronous."""

from __future__ import annotations

from collections.abc import Callable

from ..paths import Path
from ..runtime import run
from ..values import CheckProgress, CheckReport, MasterRotation, Status
from .base import Operations


class SystemOperations(Operations):
    def ping(self) -> float:
        """A round trip to the server, in seconds."""
        return run(self._aio.ping())

    def status(self) -> Status:
        """Version, engine, volumes, memory and counters of the server."""
        return run(self._aio.status())

    def rotate_master_key(self) -> MasterRotation:
        """Let the server read its master keys again and wrap every volume's keys with the first of
        them. Repeat it after an interruption: it goes on where it stopped."""
        return run(self._aio.rotate_master_key())

    def check(
        self,
        path: Path | None = None,
        *,
        repair: bool = False,
        progress: Callable[[CheckProgress], None] | None = None,
    ) -> CheckReport:
        """Read everything in the volume that holds `path` (None: in all), prove what must hold, and
        with `repair` mend what can be mended without guessing. `progress` is called as it goes on.

        Example: `assert dp.check().ok`
        """
        return run(self._aio.check(path, repair=repair, progress=progress))
