"""A table as a directory: a row is a file `KEY.json`, its columns as one JSON object on a line.

Reading shows what the server has. Writing fills a `Draft` that all open handles of the file share
and other programs of this mount see; close(2) and fsync(2) put it as the whole row. So a row is
never half written: until then, and if the content is no JSON object, it keeps its old value. An
empty file puts nothing, since shells close a file between opening and writing it. The last one to
close wins, as with any file: no version is compared. A column whose text did not change keeps the
value that it had, so that editing a row loses no types (`literals.restore`).

Names that are no rows' (`keys.names_row`) are scratch files for editors, in memory; renaming one to
a row's name puts the row. Renaming a row puts and deletes in one transaction.

Rows have no times of their own. Their mtime is the table's birth and as many nanoseconds as the
row's version says: it moves when the row is written, stays when others are, and sorts by age.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakValueDictionary

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Conflict, PlatformError
from dataplatform.client import literals
from dataplatform.client.clients import Client
from dataplatform.client.rows import key_bytes, pack_columns
from dataplatform.client.tables import INFO, Table, delete_request, put_request
from dataplatform.client.values import Row

from .base import ViewAttributes, ViewNode, view_attributes
from .drafts import Draft, Drafts
from .keys import key_of, name_of, names_row
from .rows import RowFile, content, missing

COMMIT = METHODS["Transactions.Commit"]

ATTEMPTS = 10
"""Of a rename whose row is written by others meanwhile."""

PAGE_ROWS = 512
"""Of a listing: a directory is read a page at a time, and each page is a scan of its own."""

logger = logging.getLogger(__name__)

_Operation = pb.TransactionRequest.Operation


class TableView(ViewNode):
    is_directory = True

    def __init__(self, client: Client, node: pb.Node) -> None:
        self.node = node
        self.drafts = Drafts()
        self._channel = client.channel
        self._target = pb.Target(volume=node.volume, inode=node.inode)
        self._table = Table(client.channel, node.name, node)
        self._files: WeakValueDictionary[str, RowFile] = WeakValueDictionary()

    async def attributes(self) -> ViewAttributes:
        await self._info()
        return view_attributes(self.node, directory=True)

    async def xattrs(self) -> dict[str, bytes]:
        info = await self._info()
        return {
            "user.dp.kind": b"table",
            "user.dp.rows": b"%d" % info.rows,
            "user.dp.size_bytes": b"%d" % info.size_bytes,
        }

    async def _info(self) -> pb.TableInfoReply:
        info: pb.TableInfoReply
        info, _ = await self._channel.call(INFO, pb.StatRequest(target=self._target))
        self.node = info.node
        self._table.path = info.path
        return info

    # ---------------------------------------------------------------------------------- names

    async def lookup(self, name: str) -> ViewNode:
        if self.shown_draft(name) is None:
            await self.row(name)
        return self.file(name)

    async def entries(self, after: str = "") -> AsyncIterator[tuple[str, ViewNode]]:
        """Scratch files, then rows in the order of their keys."""
        start = b""
        if names_row(after):
            start = (key_of(after) or b"") + b"\0"
        else:
            for name in sorted(d.name for d in self.drafts if d.name and not names_row(d.name)):
                if name > after:
                    yield name, self.file(name)
        async for key in self._keys(start):
            row_name = name_of(key)
            if row_name is not None:
                yield row_name, self.file(row_name)

    async def _keys(self, start: bytes) -> AsyncIterator[bytes]:
        """Of rows and of those that are being created, in order, from `start` on."""
        created = sorted(
            key for d in self.drafts if d.unsaved and d.name and (key := key_of(d.name))
        )
        created = [key for key in created if key >= start]
        last = False
        while not last:
            last = True
            async for page in self._table.scan_pages(start=start or None, limit=PAGE_ROWS):
                for row in page:
                    key = key_bytes(row.key)
                    while created and created[0] <= key:
                        if (before := created.pop(0)) < key:
                            yield before
                    yield key
                    start = key + b"\0"
                    last = False
        for key in created:
            yield key

    async def create(self, name: str) -> ViewNode:
        if names_row(name) and key_of(name) is None:
            raise OSError(errno.EINVAL, "no name that a row has")
        if self.drafts.find(name) is None:
            self.drafts.make(name).changed()
        return self.file(name)

    async def unlink(self, name: str) -> None:
        draft = self.drafts.find(name)
        key = key_of(name)
        existed = key is not None and await self._table.delete(key)
        if not existed and (draft is None or (key is not None and not draft.unsaved)):
            raise missing()
        if draft is not None:
            self.drafts.unname(draft)
        self._removed(name)

    async def rename(self, name: str, directory: ViewNode, new_name: str) -> None:
        if directory is not self:
            raise OSError(errno.EXDEV, "not within one table")
        if names_row(new_name) and key_of(new_name) is None:
            raise OSError(errno.EINVAL, "no name that a row has")
        if name == new_name:
            await self.lookup(name)
            return
        draft = self.drafts.find(name)
        if draft is not None and draft.unsaved and names_row(name):
            await self.save(draft)
        if key_of(name) is not None:
            draft = await self._rename_row(name, new_name)
        elif draft is None:
            raise missing()
        elif key_of(new_name) is not None:
            await self.save(draft, new_name)
        if draft is not None:
            self.drafts.rename(draft, new_name)
        elif (displaced := self.drafts.find(new_name)) is not None:
            self.drafts.unname(displaced)
        self._renamed(name, new_name)

    async def _rename_row(self, name: str, new_name: str) -> Draft | None:
        """The draft that goes with it, if there is one."""
        key, new_key = key_of(name), key_of(new_name)
        assert key is not None
        for attempt in range(1, ATTEMPTS + 1):
            row = await self._table.get(key)
            draft = self.drafts.find(name)
            if row is None:
                if draft is None or not draft.unsaved:
                    raise missing()
                return draft  # created, and empty so far
            try:
                if new_key is not None:
                    await self._move(row, new_key)
                    return draft
                if draft is None:
                    draft = self.drafts.make(name)
                if not draft.unsaved:
                    self.drafts.truncate(draft, 0)
                    self.drafts.write(draft, 0, content(row))
                    draft.saved_turn = draft.turn
                await self._table.delete(key, if_version=row.version)
                return draft
            except Conflict:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _move(self, row: Row, key: bytes) -> None:
        put = put_request(pb.Target(), key, replace=True)
        put.data = pack_columns(row.columns)
        delete = delete_request(pb.Target(), row.key, if_version=row.version)
        request = pb.TransactionRequest(
            base=self._target, operations=[_Operation(delete=delete), _Operation(put=put)]
        )
        await self._channel.call(COMMIT, request)

    def file(self, name: str) -> RowFile:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = RowFile(self, name)
        return file

    def _removed(self, name: str) -> None:
        if (file := self._files.pop(name, None)) is not None:
            file.is_removed = True

    def _renamed(self, name: str, new_name: str) -> None:
        self._removed(new_name)
        if (file := self._files.pop(name, None)) is not None:
            file.name = new_name
            self._files[new_name] = file

    # ----------------------------------------------------------------------------------- rows

    async def row(self, name: str) -> Row:
        """ENOENT."""
        key = key_of(name)
        row = None if key is None else await self._table.get(key)
        if row is None:
            raise missing()
        return row

    def shown_draft(self, name: str) -> Draft | None:
        """The draft that is the file's content: the only one, or what is newer than the row."""
        draft = self.drafts.find(name)
        return draft if draft is not None and (draft.unsaved or not names_row(name)) else None

    async def save(self, draft: Draft, name: str | None = None) -> None:
        """Put the content as the row that the draft, or `name`, stands for, if it is one. EINVAL if
        it is no row; then there is one line in the log, whatever the number of attempts."""
        async with draft.lock:
            place = name or draft.name
            key = None if place is None else key_of(place)
            if place is None or key is None or (name is None and not draft.unsaved):
                return
            if not draft.content and name is None:
                return  # nothing has been written yet
            turn = draft.turn
            try:
                parsed = _parse(draft.content)
                before = await self._table.get(key)
                columns = literals.restore(parsed, before.columns if before else {})
                await self._table.put(key, columns, replace=True)
            except ValueError as error:  # Invalid is one, too
                if draft.refused_turn != turn:
                    draft.refused_turn = turn
                    await self._tell(place, error)
                if isinstance(error, PlatformError):
                    raise
                raise OSError(errno.EINVAL, f"not a row: {error}") from error
            draft.saved_turn = turn

    async def _tell(self, name: str, error: ValueError) -> None:
        with contextlib.suppress(PlatformError):  # then it is told by the name that we know
            await self._info()
        logger.warning(
            "the row keeps its value, since what was written is no row. path=`%s/%s`, reason=`%s`",
            self._table.path,
            name.encode("utf-8", "backslashreplace").decode(),
            error,
        )


def _parse(content: bytearray) -> dict[str, Any]:
    parsed = literals.parse(content.decode())
    if not isinstance(parsed, dict):
        raise ValueError("it is no JSON object")
    return parsed
