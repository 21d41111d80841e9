"""Lines of commits: which volumes have a past in common, and how much of it.

A volume's *history* is a random id of its line of commits. Where the line is cut (a volume is
made, cloned, restored or promoted) a new one begins, and the *lineage* says up to which commit
earlier ones are part of it. Two volumes with a common line differ by what either has committed
since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..base.clock import Entropy
from ..keyspace import keys
from ..keyspace.records import VolumeSettings
from .units import SYSTEM, Unit
from .volumes import Volume

HISTORY_BYTES = 16

LINEAGE_MAX = 1000
"""Cuts that are remembered; of older ones nobody is a sibling any more."""


async def of(volume: Volume) -> bytes:
    """Of an open volume. One from before there were any gets its own now, durably; one that cannot
    be written may have none."""
    if not volume.settings.history and not volume.read_only:
        history = volume.entropy.token(HISTORY_BYTES)

        async def work(unit: Unit) -> None:
            if not volume.settings.history:
                settings = replace(volume.settings, history=history)
                unit.quiet = True
                unit.put(keys.SETTINGS_KEY, settings.pack())
                unit.on_commit(lambda _: setattr(volume, "settings", settings))

        await volume.run(SYSTEM, work, durable=True)
    return volume.settings.history


def cut(settings: VolumeSettings, commit: int, entropy: Entropy) -> None:
    """The line goes on as another one after `commit`. For settings that are not in use yet."""
    if settings.history:
        settings.lineage = [*settings.lineage, [settings.history, commit]][-LINEAGE_MAX:]
    settings.history = entropy.token(HISTORY_BYTES)


def last_common(
    history: bytes,
    lineage: Sequence[Sequence[Any]],
    commit: int,
    other: bytes,
    other_lineage: Sequence[Sequence[Any]],
    other_commit: int,
) -> int | None:
    """The last commit that two lines have in common; None if they have nothing to do with each
    other. `commit` and `other_commit` are where they are now."""
    mine = {bytes(name): int(last) for name, last in lineage} | {history: commit}
    theirs = {bytes(name): int(last) for name, last in other_lineage} | {other: other_commit}
    shared = mine.keys() & theirs.keys() - {b""}
    return max((min(mine[name], theirs[name]) for name in shared), default=None)
