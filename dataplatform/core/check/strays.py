"""Rows whose inode does not exist."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from . import repairs
from .keytable import NOUNS

if TYPE_CHECKING:
    from .context import Check


class Strays:
    """Counts rows of one kind whose inode is surely missing."""

    def __init__(self, check: Check, prefix: bytes) -> None:
        self._check = check
        self._prefix = prefix
        self._rows: Counter[int] = Counter()

    def is_stray(self, number: int) -> bool:
        """Whether the row's inode is missing: then it is counted, and nothing more to be said."""
        if number not in self._rows and not self._check.is_missing(number):
            return False
        self._rows[number] += 1
        return True

    def end(self) -> None:
        noun, _ = NOUNS[self._prefix]
        for number, count in self._rows.items():
            self._check.add(
                f"(inode {number})",
                f"{noun} are stored for something that does not exist: rows {count}",
                repairs.remove_strays(self._prefix + number.to_bytes(8, "big"), number),
            )
