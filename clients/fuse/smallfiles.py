"""The bytes of small files that were written or read a moment ago, kept in memory.

Who reads such a file once the kernel has dropped its pages asks nobody. They are kept where all of
a file went through the mount in one piece, and believed for as long as the node's data is what it
was then (`Node.data_turn`: any write here and any word of the server moves it) and is promised to
stay so. The least recently used go when there are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataplatform.base.limits import KIB, MIB
from dataplatform.transport.connections import Bulk

if TYPE_CHECKING:
    from .nodes import Node

FILE_BYTES_MAX = 16 * KIB
"""Of one file: what is larger stands in segments, where it is read from fast enough."""

KEPT_BYTES_MAX = 12 * MIB
"""Of all of them, with what keeping them costs."""

ENTRY_BYTES = 400
"""What keeping a file costs beside its bytes."""


class SmallFiles:
    """Of one mount."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[int, bytes]] = OrderedDict()  # by the node's number
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def kept_bytes(self) -> int:
        return self._kept_bytes

    def find(self, node: Node) -> bytes | None:
        """All bytes of the file as they are now, if they are here."""
        kept = self._kept.get(node.number)
        if kept is None:
            return None
        turn, data = kept
        if turn != node.data_turn or len(data) != node.size:
            self._drop(node.number)
            return None
        if not (node.promised and node.known):
            return None
        self._kept.move_to_end(node.number)
        return data

    def keep(self, node: Node, parts: Sequence[Bulk]) -> None:
        """These are all bytes of the file, if they are as many as it has. The caller knows that
        they are as of now: see `Calls.are_bytes_as_of`."""
        length = sum(map(len, parts))
        if not 0 < length == node.size <= FILE_BYTES_MAX:
            return
        self._drop(node.number)
        self._kept[node.number] = node.data_turn, b"".join(parts)
        self._kept_bytes += length + ENTRY_BYTES
        while self._kept_bytes > KEPT_BYTES_MAX:
            self._drop(next(iter(self._kept)))

    def _drop(self, number: int) -> None:
        kept = self._kept.pop(number, None)
        if kept is not None:
            self._kept_bytes -= len(kept[1]) + ENTRY_BYTES
