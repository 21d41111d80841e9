"""GNU tail, as far as it asks a file: `tail -n N -f` of coreutils 9, for a remote file system.

It looks backwards from the size for line ends, then follows: once a second it compares the size and
the mtime with what it knows, reads what is more, and takes a smaller size for truncation.
"""

from __future__ import annotations

from dataplatform_clients.fuse.views.base import ViewHandle, ViewNode

BLOCK = 1024
"""BUFSIZ there; smaller, to have several."""


class Tail:
    def __init__(self, node: ViewNode, lines: int) -> None:
        self.node = node
        self.lines = lines
        self.output = b""
        self.was_truncated = False
        self._handle: ViewHandle | None = None
        self._size = 0
        self._mtime_ns = 0
        self._at = 0

    async def begin(self) -> None:
        self._handle = await self.node.open(reading=True, writing=False, truncate=False)
        seen = await self.node.attributes()
        self._size, self._mtime_ns = seen.size, seen.mtime_ns
        self._at = await self._start(seen.size)
        await self._dump(seen.size - self._at)

    async def _start(self, size: int) -> int:
        """`file_lines`."""
        assert self._handle is not None
        position = size
        left = self.lines
        while position > 0:
            count = position % BLOCK or BLOCK
            position -= count
            block = await self._handle.read(position, count)
            assert len(block) == count, "a read within the size is never short"
            end = len(block)
            if position + count == size and block.endswith(b"\n"):
                end -= 1  # the last line's own
            while (newline := block.rfind(b"\n", 0, end)) >= 0:
                left -= 1
                if left == 0:
                    return position + newline + 1
                end = newline
        return 0

    async def _dump(self, count: int) -> int:
        assert self._handle is not None
        read = 0
        while read < count and (
            data := await self._handle.read(self._at, min(BLOCK, count - read))
        ):
            self.output += data
            self._at += len(data)
            read += len(data)
        return read

    async def poll(self) -> None:
        """`tail_forever`, one turn."""
        seen = await self.node.attributes()
        if (seen.size, seen.mtime_ns) == (self._size, self._mtime_ns):
            return
        if seen.size < self._size:
            self.was_truncated = True
            self._at = self._size = 0
        self._mtime_ns = seen.mtime_ns
        self._size += await self._dump(seen.size - self._size)

    async def end(self) -> None:
        assert self._handle is not None
        await self._handle.release()
