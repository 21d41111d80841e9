"""Forgetting what the kernel has cached, so that the next call has to ask. Needs root."""

from __future__ import annotations

from pathlib import Path

from ..processes import Failed, run

SYNC_S = 120.0
DROP = Path("/proc/sys/vm/drop_caches")
NAMES = "2"
"""Entries and inodes, which takes the pages of files that nobody has open along."""
ALL = "3"


def drop(what: str) -> None:
    try:
        DROP.write_text(what)
    except OSError as error:
        raise Failed(f"the kernel's caches cannot be dropped: {error}") from None


def settle() -> None:
    """What was written before is on the disk, and no burden to what comes next. In a process of
    its own, as a mount may hang."""
    run(["sync"], SYNC_S)
