"""What is written to a table's files and is no row yet: bytes in the memory of the mount.

Programs write a file in pieces, a row is put as a whole. Between the first piece and the close the
bytes stand in a `Draft`, which all open handles of the file share. A draft of a row lives as long
as somebody has the file open (and, between two calls of one open(2), for `GRACE_S` without). One
under any other name, such as the temporary file of an editor, lives until it is removed or renamed
to a row's name, or the mount ends.

Nothing here waits, or knows what a row is. Memory is bounded: `DRAFT_BYTES_MAX` of a file,
`BYTES_MAX` of a table, `SCRATCH_MAX` files that are no rows.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Iterator

from dataplatform.base.limits import MIB, ROW_BYTES_MAX

from .keys import names_row

DRAFT_BYTES_MAX = 4 * ROW_BYTES_MAX
"""A row as JSON is longer than its columns packed, as a rule less than that."""

BYTES_MAX = 64 * MIB
SCRATCH_MAX = 64
GRACE_S = 10.0
"""open(2) is several calls of the kernel: create or truncate, then open."""


class Draft:
    """The content of one file. `unsaved`: it is not what the row has."""

    def __init__(self, name: str) -> None:
        self.name: str | None = name  # None: removed, though it may be open
        self.content = bytearray()
        self.turn = 0  # moves with every change
        self.saved_turn = 0
        self.refused_turn = -1  # the last one that was no row, which has been said
        self.holders = 0
        self.since_s = 0.0  # without a holder
        self.mtime_ns = 0
        self.lock = asyncio.Lock()  # one put at a time

    @property
    def unsaved(self) -> bool:
        return self.turn != self.saved_turn

    def changed(self) -> None:
        self.turn += 1
        self.mtime_ns = time.time_ns()


class Drafts:
    """Those of one table."""

    def __init__(self) -> None:
        self._named: dict[str, Draft] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Draft]:
        return iter([draft for name in list(self._named) if (draft := self.find(name))])

    def find(self, name: str) -> Draft | None:
        draft = self._named.get(name)
        if (
            draft is None
            or draft.holders
            or not names_row(name)
            or _now() - draft.since_s < GRACE_S
        ):
            return draft
        self.drop(draft)
        return None

    def make(self, name: str, content: bytes = b"") -> Draft:
        """A draft with a content that is saved. ENOSPC."""
        assert name not in self._named
        if not names_row(name) and sum(not names_row(n) for n in self._named) >= SCRATCH_MAX:
            raise OSError(errno.ENOSPC, "too many files beside the rows")
        draft = Draft(name)
        draft.since_s = _now()
        self._reserve(draft, len(content))
        draft.content[:] = content
        self._named[name] = draft
        return draft

    # ---- who has it open

    def hold(self, draft: Draft) -> None:
        draft.holders += 1

    def let_go(self, draft: Draft) -> None:
        draft.holders -= 1
        if draft.holders == 0 and (draft.name is None or names_row(draft.name)):
            self.drop(draft)

    # ---- content

    def write(self, draft: Draft, offset: int, data: bytes) -> None:
        """EFBIG, ENOSPC."""
        end = offset + len(data)
        self._reserve(draft, max(end, len(draft.content)))
        if offset > len(draft.content):
            draft.content.extend(bytes(offset - len(draft.content)))
        draft.content[offset:end] = data
        draft.changed()

    def truncate(self, draft: Draft, size: int) -> None:
        """EFBIG, ENOSPC."""
        self._reserve(draft, size)
        if size < len(draft.content):
            del draft.content[size:]
        else:
            draft.content.extend(bytes(size - len(draft.content)))
        draft.changed()

    def _reserve(self, draft: Draft, size: int) -> None:
        more = size - len(draft.content)
        if size > DRAFT_BYTES_MAX:
            raise OSError(errno.EFBIG, "too large for a row")
        if more > 0 and self._bytes + more > BYTES_MAX:
            raise OSError(errno.ENOSPC, "too much is being written to one table")
        self._bytes += more

    # ---- names

    def rename(self, draft: Draft, name: str) -> None:
        """Instead of what has that name."""
        if (displaced := self._named.get(name)) is not None and displaced is not draft:
            self.unname(displaced)
        if draft.name is not None:
            self._named.pop(draft.name, None)
        draft.name = name
        self._named[name] = draft
        if not draft.holders and names_row(name):
            self.drop(draft)

    def unname(self, draft: Draft) -> None:
        """Its file is removed; those who have it open keep the bytes."""
        if draft.name is not None:
            self._named.pop(draft.name, None)
            draft.name = None
        if not draft.holders:
            self.drop(draft)

    def drop(self, draft: Draft) -> None:
        if draft.name is not None:
            self._named.pop(draft.name, None)
            draft.name = None
        self._bytes -= len(draft.content)
        draft.content.clear()


def _now() -> float:
    return asyncio.get_running_loop().time()
