"""Tables: put, get, scan. Opened by path once, addressed by inode from then on."""

from __future__ import annotations

import numbers
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import IO, Any

from ..api import platform_pb2 as pb
from ..api.methods import METHODS, Method
from ..base.errors import Exhausted, Invalid, NotFound
from ..base.gathering import Gatherer
from ..base.limits import KIB, MIB
from ..transport.connections import Data, Reply
from .connection import Channel, Pending
from .messages import build, whole_number
from .namespace import CREATE, NamespaceOperations, create_request
from .nodes import KINDS, durability, stat_of
from .paths import Path, checked, text
from .rows import key_bytes, pack_columns, pack_key, pack_row, unpack_page
from .values import Key, Row, TableInfo
from .window import Window

PUT = METHODS["Tables.Put"]
PUT_MANY = METHODS["Tables.PutMany"]
GET = METHODS["Tables.Get"]
DELETE = METHODS["Tables.Delete"]
INCREMENT = METHODS["Tables.Increment"]
SCAN = METHODS["Tables.Scan"]
INFO = METHODS["Tables.Info"]

PUT_BYTES = 1 * MIB
"""Of one request of `put_many`: many share one commit, and several are under way."""

PUT_ROWS = 10_000
PUTS_UNDER_WAY = 4
GET_BYTES = 256 * KIB
GET_KEYS = 2_000
"""Keys of one request of `get_many`: several are under way."""

GETS_UNDER_WAY = 4

Columns = Mapping[str, Any]
Rows = Mapping[Any, Columns] | Iterable[tuple[Key, Columns]]


# ------------------------------------------------------------- requests, also for transactions


def put_request(
    table: pb.Target,
    key: Key,
    *,
    if_version: int | None = None,
    replace: bool = False,
    durable: bool | None = None,
) -> pb.PutRequest:
    return build(
        pb.PutRequest,
        table=table,
        key=key_bytes(key),
        if_version=if_version,
        replace=replace,
        durability=durability(durable),
    )


def delete_request(
    table: pb.Target,
    key: Key,
    columns: Iterable[str] | None = None,
    *,
    if_version: int | None = None,
    durable: bool | None = None,
) -> pb.DeleteRequest:
    return build(
        pb.DeleteRequest,
        table=table,
        key=key_bytes(key),
        columns=column_names(columns),
        if_version=if_version,
        durability=durability(durable),
    )


def increment_request(
    table: pb.Target, key: Key, column: str, amount: float, *, durable: bool | None = None
) -> pb.IncrementRequest:
    request = pb.IncrementRequest(
        table=table,
        key=key_bytes(key),
        column=checked(column, "column"),
        durability=durability(durable),
    )
    if isinstance(amount, int):
        if not -(2**63) <= amount < 2**63:
            raise Invalid("an amount has at most 64 bits", amount=amount)
        request.integer = amount
    elif isinstance(amount, numbers.Real):
        request.real = float(amount)
    else:
        raise Invalid("an amount is a number", amount=amount, type=type(amount).__name__)
    return request


def column_names(columns: Iterable[str] | None) -> list[str]:
    if isinstance(columns, str):
        raise Invalid("columns are a list of names", columns=columns)
    return [] if columns is None else [checked(name, "column") for name in columns]


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key behind all that begin with `prefix`; None: there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def scan_request(
    table: pb.Target,
    prefix: Key | None = None,
    start: Key | None = None,
    end: Key | None = None,
    columns: Iterable[str] | None = None,
    where: str | None = None,
    limit: int | None = None,
    reverse: bool = False,
) -> pb.ScanRequest:
    first = b"" if start is None else key_bytes(start)
    last = None if end is None else key_bytes(end)
    if prefix is not None:
        begin = key_bytes(prefix)
        behind = prefix_end(begin)
        first = max(first, begin)
        if behind is not None:
            last = behind if last is None else min(last, behind)
    return build(
        pb.ScanRequest,
        table=table,
        start=first,
        end=last,
        columns=column_names(columns),
        where=checked(where or "", "filter"),
        limit=limit or 0,
        reverse=reverse,
    )


class Table:
    """An open table. What the methods mean is said at `dataplatform.Table`."""

    def __init__(self, channel: Channel, path: str, node: pb.Node) -> None:
        self.path = path
        self._channel = channel
        self._target = pb.Target(volume=node.volume, inode=node.inode)
        # Tasks of a loop share requests; a blocking caller is alone.
        self._gets: Gatherer[bytes, Row | None] | None = None
        self._puts: Gatherer[tuple[bytes, bytes], int] | None = None
        if not channel.runtime.blocking:
            self._gets = Gatherer(self._get, self._get_together)
            self._puts = Gatherer(self._put, self._put_together, subject=itemgetter(0))

    def __repr__(self) -> str:
        return f"<dataplatform.aio.Table {self.path!r}>"

    async def _call(self, method: Method, message: Any, data: Data = b"") -> Reply:
        try:
            return await self._channel.call(method, message, data)
        except NotFound as error:
            raise self._gone(error) from error

    def _gone(self, error: NotFound) -> NotFound:
        return NotFound(error.message, **{**error.facts, "path": self.path})

    # ------------------------------------------------------------------------------- reading

    async def get(self, key: Key, columns: Iterable[str] | None = None) -> Row | None:
        if columns is None and self._gets is not None:
            return await self._gets.call(key_bytes(key))
        return await self._get(key_bytes(key), columns)

    async def _get(self, key: bytes, columns: Iterable[str] | None = None) -> Row | None:
        request = pb.GetRequest(table=self._target, keys=(key,), columns=column_names(columns))
        _, page = await self._call(GET, request)
        rows = unpack_page(page)
        return rows[0] if rows else None

    async def _get_together(self, keys: Sequence[bytes]) -> list[Row | None]:
        _, page = await self._call(GET, pb.GetRequest(table=self._target, keys=keys))
        # The page has those that are there, in the order of the keys, one for each time asked.
        found = deque(unpack_page(page))
        return [
            found.popleft() if found and key_bytes(found[0].key) == key else None for key in keys
        ]

    async def get_many(
        self, keys: Iterable[Key], columns: Iterable[str] | None = None
    ) -> list[Row | None]:
        names = column_names(columns)
        wanted = [key_bytes(key) for key in keys]
        found: dict[bytes, Row] = {}
        under_way: deque[tuple[list[bytes], Pending]] = deque()
        for part in _parts(wanted):
            if len(under_way) >= GETS_UNDER_WAY:
                found.update(await self._got(*under_way.popleft(), names))
            request = build(pb.GetRequest, table=self._target, keys=part, columns=names)
            under_way.append((part, await self._channel.start(GET, request)))
        while under_way:
            found.update(await self._got(*under_way.popleft(), names))
        return [found.get(key) for key in wanted]

    async def _got(
        self, keys: list[bytes], reply: Awaitable[Reply], columns: list[str]
    ) -> dict[bytes, Row]:
        """The rows of a Get. If they are more than a reply holds, half of the keys at a time."""
        try:
            _, page = await reply
        except NotFound as error:
            raise self._gone(error) from error
        except Exhausted:
            if len(keys) == 1:
                raise
            found: dict[bytes, Row] = {}
            middle = len(keys) // 2
            for half in keys[:middle], keys[middle:]:
                request = build(pb.GetRequest, table=self._target, keys=half, columns=columns)
                found.update(await self._got(half, self._channel.call(GET, request), columns))
            return found
        return {key_bytes(row.key): row for row in unpack_page(page)}

    async def scan(
        self,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        columns: Iterable[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[Row]:
        async for page in self.scan_pages(prefix, start, end, columns, where, limit, reverse):
            for row in page:
                yield row

    async def scan_pages(
        self,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        columns: Iterable[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncIterator[list[Row]]:
        if limit is not None and whole_number("limit", limit) == 0:
            return
        request = scan_request(self._target, prefix, start, end, columns, where, limit, reverse)
        pending: Pending | None = await self._channel.start(SCAN, request)
        left = limit
        try:
            while pending is not None:
                reply: pb.RowsReply
                try:
                    reply, page = await pending
                except NotFound as error:
                    raise self._gone(error) from error
                pending = None
                # With a limit the next page's depends on this page's rows; without, it need not
                # wait for them to be unpacked.
                if left is None and not reply.end:
                    pending = await self._next_page(request, reply, None)
                rows = unpack_page(page)
                if left is not None:
                    left -= len(rows)
                    if left > 0 and not reply.end:
                        pending = await self._next_page(request, reply, left)
                if rows:
                    yield rows
        finally:
            if pending is not None:
                pending.abandon()

    async def _next_page(
        self, request: pb.ScanRequest, reply: pb.RowsReply, limit: int | None
    ) -> Pending:
        if request.reverse:
            request.end = reply.next
        else:
            request.start = reply.next
        request.limit = limit or 0
        return await self._channel.start(SCAN, request)

    async def to_arrow(
        self,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        columns: Iterable[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        *,
        key: str = "key",
    ) -> Any:
        from .arrow import arrow_table

        names = None if columns is None else column_names(columns)
        pages = self.scan_pages(prefix, start, end, names, where, limit, reverse)
        return await arrow_table(pages, key, names)

    async def info(self) -> TableInfo:
        reply: pb.TableInfoReply
        reply, _ = await self._call(INFO, build(pb.StatRequest, target=self._target))
        ttl_ms = reply.options.ttl_ms
        return TableInfo(
            path=reply.path or self.path,
            rows=reply.rows,
            size_bytes=reply.size_bytes,
            ttl=timedelta(milliseconds=ttl_ms) if ttl_ms else None,
            stat=stat_of(reply.node),
        )

    # ------------------------------------------------------------------------------- writing

    async def put(
        self,
        key: Key,
        columns: Columns,
        *,
        if_version: int | None = None,
        replace: bool = False,
        durable: bool | None = None,
    ) -> int:
        if if_version is None and not replace and durable is None and self._puts is not None:
            return await self._puts.call((key_bytes(key), pack_columns(columns)))
        request = put_request(
            self._target, key, if_version=if_version, replace=replace, durable=durable
        )
        reply, _ = await self._call(PUT, request, pack_columns(columns))
        version: int = reply.version
        return version

    async def _put(self, row: tuple[bytes, bytes]) -> int:
        key, packed = row
        reply, _ = await self._call(PUT, pb.PutRequest(table=self._target, key=key), packed)
        version: int = reply.version
        return version

    async def _put_together(self, rows: Sequence[tuple[bytes, bytes]]) -> list[int]:
        request = pb.PutManyRequest(table=self._target, separate=True)
        data = b"".join([part for key, packed in rows for part in (pack_key(key), packed)])
        if len(data) > PUT_BYTES:
            raise Exhausted("too much for one request: put each alone")
        reply, _ = await self._call(PUT_MANY, request, data)
        return [reply.version] * len(rows)

    async def put_many(
        self, rows: Rows, *, replace: bool = False, durable: bool | None = None
    ) -> int:
        writer = RowWriter(self._channel, self._target, replace=replace, durable=durable)
        pairs = rows.items() if isinstance(rows, Mapping) else rows
        try:
            for key, columns in pairs:
                if writer.add(key, columns):
                    await writer.send()
            await writer.finish()
        except NotFound as error:
            raise self._gone(error) from error
        return writer.rows

    async def delete(
        self,
        key: Key,
        columns: Iterable[str] | None = None,
        *,
        if_version: int | None = None,
        durable: bool | None = None,
    ) -> bool:
        request = delete_request(self._target, key, columns, if_version=if_version, durable=durable)
        reply, _ = await self._call(DELETE, request)
        existed: bool = reply.existed
        return existed

    async def increment(
        self, key: Key, column: str, amount: float = 1, *, durable: bool | None = None
    ) -> int | float:
        request = increment_request(self._target, key, column, amount, durable=durable)
        reply: pb.IncrementReply
        reply, _ = await self._call(INCREMENT, request)
        return reply.real if reply.WhichOneof("value") == "real" else reply.integer

    async def load(
        self,
        file: str | os.PathLike[str] | IO[Any],
        key: str,
        *,
        format: str | None = None,
        replace: bool = False,
        durable: bool | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        from .loads import read_rows

        writer = RowWriter(self._channel, self._target, replace=replace, durable=durable)
        reported = 0
        try:
            for name, columns in read_rows(file, key, format):
                if writer.add(name, columns):
                    await writer.send()
                    if progress is not None:
                        progress(writer.rows - reported)
                        reported = writer.rows
            await writer.finish()
        except NotFound as error:
            raise self._gone(error) from error
        if progress is not None and writer.rows > reported:
            progress(writer.rows - reported)
        return writer.rows


class RowWriter:
    """Gathers rows into requests of `PUT_BYTES`, several of them under way."""

    def __init__(
        self, channel: Channel, table: pb.Target, *, replace: bool, durable: bool | None
    ) -> None:
        self.rows = 0
        self._window = Window(channel, PUTS_UNDER_WAY)
        self._table = table
        self._replace = replace
        self._durable = durable
        self._packed: list[bytes] = []
        self._bytes = 0

    def add(self, key: Key, columns: Columns) -> bool:
        """Gather a row; whether it is time to `send`."""
        packed = pack_row(key, columns)
        self._packed.append(packed)
        self._bytes += len(packed)
        self.rows += 1
        return self._bytes >= PUT_BYTES or len(self._packed) >= PUT_ROWS

    async def send(self) -> None:
        packed, self._packed, self._bytes = self._packed, [], 0
        if packed:
            request = build(
                pb.PutManyRequest,
                table=self._table,
                replace=self._replace,
                durability=durability(self._durable),
            )
            await self._window.start(PUT_MANY, request, b"".join(packed))

    async def finish(self) -> None:
        await self.send()
        await self._window.drain()


def _parts(keys: list[bytes]) -> Iterable[list[bytes]]:
    """The keys in requests of bounded size."""
    part: list[bytes] = []
    size = 0
    for key in keys:
        part.append(key)
        size += len(key)
        if len(part) >= GET_KEYS or size >= GET_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


class TableOperations(NamespaceOperations):
    async def create_table(
        self,
        path: Path,
        *,
        ttl: timedelta | None = None,
        mode: int = 0o644,
        parents: bool = False,
        exist_ok: bool = False,
    ) -> Table:
        request = create_request(path, pb.TABLE, mode, parents=parents, exist_ok=exist_ok)
        request.table.ttl_ms = milliseconds(ttl)
        node, _ = await self._channel.call(CREATE, request)
        return Table(self._channel, text(path), node)

    async def table(self, path: Path) -> Table:
        node = await self._node(path)
        if node.kind != pb.TABLE:
            raise Invalid("not a table", path=text(path), kind=KINDS.get(node.kind))
        return Table(self._channel, text(path), node)


def milliseconds(ttl: timedelta | None) -> int:
    """A time to live as the wire has it: 0 for ever."""
    if ttl is None:
        return 0
    if not isinstance(ttl, timedelta):
        raise Invalid("a time to live is a timedelta", ttl=ttl, type=type(ttl).__name__)
    ttl_ms = ttl // timedelta(milliseconds=1)
    if ttl_ms <= 0:
        raise Invalid("a time to live is at least a millisecond", ttl=ttl)
    return ttl_ms
