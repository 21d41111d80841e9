"""A file of a table's directory: a row, or a scratch file (see `tables`).

Without a draft, a handle reads the row as a whole whenever it reads from the start of the file, and
goes on with what it read then: what one program reads in pieces is one version of the row.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from dataplatform.client import literals
from dataplatform.client.rows import key_bytes
from dataplatform.client.values import Row

from .base import ViewAttributes, ViewHandle, ViewNode, view_attributes
from .drafts import Draft
from .keys import key_of, names_row

if TYPE_CHECKING:
    from .tables import TableView


def content(row: Row) -> bytes:
    """What the row's file holds."""
    return literals.to_json(row.columns).encode() + b"\n"


def missing() -> OSError:
    return FileNotFoundError(errno.ENOENT, "no such row")


class RowFile(ViewNode):
    """A row, or a scratch file. Its name changes when it is renamed."""

    def __init__(self, table: TableView, name: str) -> None:
        self.table = table
        self.name = name
        self.is_removed = False

    async def attributes(self) -> ViewAttributes:
        node = self.table.node
        if self.is_removed:
            found = view_attributes(node, directory=False)
            found.links = 0
            return found
        draft = self.table.shown_draft(self.name)
        if draft is not None:
            found = view_attributes(node, directory=False, size=len(draft.content))
            found.mtime_ns = found.ctime_ns = draft.mtime_ns
            return found
        row = await self.table.row(self.name)
        found = view_attributes(node, directory=False, size=len(content(row)))
        found.mtime_ns = found.ctime_ns = found.atime_ns = node.birth_ns + row.version
        return found

    async def xattrs(self) -> dict[str, bytes]:
        if self.is_removed or self.table.shown_draft(self.name) is not None:
            return {"user.dp.kind": b"row" if key_of(self.name) else b"scratch"}
        row = await self.table.row(self.name)
        found = {
            "user.dp.kind": b"row",
            "user.dp.version": b"%d" % row.version,
            "user.dp.key": key_bytes(row.key),
        }
        if row.expires_ms:
            found["user.dp.expires_ms"] = b"%d" % row.expires_ms
        return found

    async def set_attributes(self, *, size: int | None = None) -> None:
        if size is not None:
            draft = await self.draft(is_emptied=size == 0)
            self.table.drafts.truncate(draft, size)

    async def open(self, *, reading: bool, writing: bool, truncate: bool) -> ViewHandle:
        handle = RowHandle(self, reading=reading, writing=writing)
        if truncate and writing:
            handle.hold(await self.draft(is_emptied=True), is_emptied=True)
        elif (draft := self.table.drafts.find(self.name)) is not None and not self.is_removed:
            handle.hold(draft)
        else:
            await handle.load()
        return handle

    async def draft(self, *, is_emptied: bool = False) -> Draft:
        """The file's draft, made of the row's content unless that goes anyway. ENOENT."""
        if self.is_removed:
            raise missing()
        drafts = self.table.drafts
        draft = drafts.find(self.name)
        if draft is None:
            row = await self.table.row(self.name)
            draft = drafts.find(self.name)  # made by another handle meanwhile
            if draft is None:
                draft = drafts.make(self.name, b"" if is_emptied else content(row))
        return draft


class RowHandle(ViewHandle):
    """An open file."""

    def __init__(self, file: RowFile, *, reading: bool, writing: bool) -> None:
        self._file = file
        self._reading = reading
        self._writing = writing
        self._draft: Draft | None = None
        self._loaded = b""

    def hold(self, draft: Draft, *, is_emptied: bool = False) -> None:
        drafts = self._file.table.drafts
        drafts.hold(draft)
        self._draft = draft
        if is_emptied:
            drafts.truncate(draft, 0)

    async def load(self) -> None:
        self._loaded = content(await self._file.table.row(self._file.name))

    async def read(self, offset: int, size: int) -> bytes:
        if not self._reading:
            raise OSError(errno.EBADF, "not open for reading")
        file = self._file
        draft = self._draft
        if draft is None and not file.is_removed:
            draft = file.table.drafts.find(file.name)
        if draft is not None and (draft.unsaved or draft.name is None or not names_row(draft.name)):
            return bytes(draft.content[offset : offset + size])
        if (offset == 0 or not self._loaded) and not file.is_removed:
            await self.load()
        return self._loaded[offset : offset + size]

    async def write(self, offset: int, data: bytes) -> int:
        if not self._writing:
            raise OSError(errno.EBADF, "not open for writing")
        if self._draft is None:
            draft = await self._file.draft()
            if self._draft is None:  # no other write of this handle was faster
                self.hold(draft)
        assert self._draft is not None
        self._file.table.drafts.write(self._draft, offset, data)
        return len(data)

    async def flush(self) -> None:
        if self._draft is None and self._writing and not self._file.is_removed:
            draft = self._file.table.drafts.find(self._file.name)  # of a truncate(2)
            if draft is not None:
                self.hold(draft)
        if self._draft is not None and self._writing:
            await self._file.table.save(self._draft)

    async def release(self) -> None:
        draft, self._draft = self._draft, None
        if draft is None:
            return
        try:
            if self._writing and draft.refused_turn != draft.turn:
                await self._file.table.save(draft)
        finally:
            self._file.table.drafts.let_go(draft)
