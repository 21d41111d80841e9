"""stat in a very large directory and in a small one, of names taken from all over it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..sides import Sizes, Way, way
from ..timing import median_us
from .context import Context

LARGE, SMALL = 1_000_000, 1_000
NAMES_PER_COMMIT = 2_000
STATS = 1_000


class Directories:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._made: dict[int, str] = {}
        self._chance = random.Random(0)

    def ways(self) -> Sequence[Way]:
        return (
            way("stat", "stat, large directory", "–", self.large),
            way("stat", "stat, 1,000 files", "–", self.small, is_baseline=True),
        )

    def large(self, sizes: Sizes) -> float:
        return self._stat(sizes.count(LARGE, SMALL), sizes)

    def small(self, sizes: Sizes) -> float:
        return self._stat(SMALL, sizes)

    def _stat(self, files: int, sizes: Sizes) -> float:
        directory = self._directory(files)
        names = [f"{directory}/{self._chance.randrange(files):07}" for _ in range(STATS)]
        dp = self._context.dp
        return median_us(lambda i: dp.stat(names[i]), min(STATS, sizes.count(STATS)))

    def _directory(self, files: int) -> str:
        """A directory of so many empty files, made in transactions."""
        if files not in self._made:
            directory = self._context.directory(f"stat{files}")
            for start in range(0, files, NAMES_PER_COMMIT):
                with self._context.dp.transaction(directory, durable=False) as tx:
                    for number in range(start, min(start + NAMES_PER_COMMIT, files)):
                        tx.write_file(f"{number:07}", b"")
            self._made[files] = directory
        return self._made[files]
