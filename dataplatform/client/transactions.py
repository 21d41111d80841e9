"""Transactions: operations collected here, done together by the server, as one commit.

Nothing is sent until `commit`, except the reads of `TransactionTable.get`: each remembers the row's
version as a precondition, so what was decided on it still holds when the transaction commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Exhausted, Invalid, NotFound
from ..base.limits import UNIT_BYTES_MAX
from .base import Operations
from .connection import Channel
from .files import Buffer, content, write_file_request
from .messages import build
from .namespace import create_request, link_request, remove_request, rename_request, symlink_request
from .nodes import durability
from .paths import Path, join, target, text
from .rows import key_bytes, pack_columns, unpack_page
from .streams import count_partitions
from .tables import GET, column_names, delete_request, increment_request, put_request
from .values import Key, Row

COMMIT = METHODS["Transactions.Commit"]

Bytes = bytes | bytearray | memoryview | str
Headers = Mapping[str, bytes | None]
_Operation = pb.TransactionRequest.Operation
_Expect = pb.TransactionRequest.Expect


class TransactionTable:
    """A table within a transaction. See `dataplatform.TransactionTable`."""

    def __init__(self, transaction: Transaction, path: str) -> None:
        self._transaction = transaction
        self._path = path

    @property
    def _target(self) -> pb.Target:
        return pb.Target(path=self._path)

    async def get(self, key: Key, columns: Iterable[str] | None = None) -> Row | None:
        self._transaction.check_open()
        request = build(
            pb.GetRequest,
            table=self._transaction.absolute(self._path),
            keys=(key_bytes(key),),
            columns=column_names(columns),
        )
        _, page = await self._transaction.channel.call(GET, request)
        rows = unpack_page(page)
        self.expect(key, rows[0].version if rows else 0)
        return rows[0] if rows else None

    def put(
        self,
        key: Key,
        columns: Mapping[str, Any],
        *,
        if_version: int | None = None,
        replace: bool = False,
    ) -> None:
        request = put_request(self._target, key, if_version=if_version, replace=replace)
        request.data = pack_columns(columns)
        self._transaction.add(_Operation(put=request))

    def delete(
        self, key: Key, columns: Iterable[str] | None = None, *, if_version: int | None = None
    ) -> None:
        request = delete_request(self._target, key, columns, if_version=if_version)
        self._transaction.add(_Operation(delete=request))

    def increment(self, key: Key, column: str, amount: float = 1) -> None:
        request = increment_request(self._target, key, column, amount)
        self._transaction.add(_Operation(increment=request))

    def expect(self, key: Key, version: int) -> None:
        expect = build(_Expect, target=self._target, key=key_bytes(key), version=version, row=True)
        self._transaction.add_expect(expect)


class TransactionStream:
    """A stream within a transaction."""

    def __init__(self, transaction: Transaction, path: str) -> None:
        self._transaction = transaction
        self._path = path

    def append(
        self,
        topic: str,
        value: Bytes | None,
        key: Bytes | None = None,
        headers: Headers | None = None,
        timestamp: int | datetime | None = None,
        partition: int | None = None,
    ) -> None:
        """Append a record: to the key's partition as `Stream.append`. Those without a key go to one
        partition of their topic, another one in each transaction, unless told otherwise."""
        from .records import as_bytes, as_headers, as_timestamp, encode_one

        now_ms = self._transaction.channel.runtime.now_ms()
        stored_key = as_bytes(key)
        batch = encode_one(
            as_timestamp(timestamp, now_ms), stored_key, as_bytes(value), as_headers(headers)
        )
        request = build(pb.AppendRequest, stream=pb.Target(path=self._path), data=bytes(batch))
        request.parts.append(
            build(pb.AppendRequest.Part, topic=topic, partition=partition or 0, length=len(batch))
        )
        operation = _Operation(append=request)
        self._transaction.add(operation)
        if partition is None:
            self._transaction.place_later(operation, stored_key)

    def commit_offset(
        self, group: str, topic: str, partition: int, offset: int, metadata: str = ""
    ) -> None:
        """Set the offset that `group` reads next in a partition."""
        request = build(pb.CommitOffsetsRequest, stream=pb.Target(path=self._path), group=group)
        request.parts.append(
            build(
                pb.CommitOffsetsRequest.Part,
                topic=topic,
                partition=partition,
                offset=offset,
                metadata=metadata,
            )
        )
        self._transaction.add(_Operation(commit_offsets=request))


class Transaction:
    """Collects operations. See `dataplatform.Transaction`."""

    def __init__(self, channel: Channel, base: str, durable: bool | None) -> None:
        self.channel = channel
        self.commit_number: int | None = None
        self._base = base
        self._durable = durable
        self._expects: list[pb.TransactionRequest.Expect] = []
        self._operations: list[pb.TransactionRequest.Operation] = []
        self._unplaced: list[tuple[pb.TransactionRequest.Operation, bytes | None]] = []
        self._is_done = False

    # ----------------------------------------------------------------------------- collecting

    def add(self, operation: pb.TransactionRequest.Operation) -> None:
        self.check_open()
        self._operations.append(operation)

    def place_later(self, append: pb.TransactionRequest.Operation, key: bytes | None) -> None:
        """Find the partition before the commit: it takes the server to know how many there are."""
        self._unplaced.append((append, key))

    async def _place(self) -> None:
        from ..base.partitioner import partition_of

        counts: dict[tuple[str, str], int] = {}
        luck = self.channel.runtime.random()
        for operation, key in self._unplaced:
            part = operation.append.parts[0]
            place = operation.append.stream.path, part.topic
            if place not in counts:
                counts[place] = await self._count(*place, is_needed=key is not None)
            count = counts[place]
            part.partition = int(luck * count) % count if key is None else partition_of(key, count)

    async def _count(self, stream: str, topic: str, *, is_needed: bool) -> int:
        """The partitions of a topic. A stream that this transaction renames is not where it will
        be: only records with a key need to know more than its first partition."""
        try:
            return await count_partitions(self.channel, self.absolute(stream), topic)
        except NotFound:
            if is_needed:
                raise
            return 1

    def add_expect(self, expect: pb.TransactionRequest.Expect) -> None:
        self.check_open()
        if expect not in self._expects:
            self._expects.append(expect)

    def check_open(self) -> None:
        if self._is_done:
            raise Invalid("the transaction has ended", base=self._base)

    def absolute(self, path: str) -> pb.Target:
        """Where a path of this transaction is, for what is read at once."""
        return pb.Target(path=path if path.startswith("/") else join(self._base, path))

    def rename(
        self, source: Path, target: Path, *, no_replace: bool = False, exchange: bool = False
    ) -> None:
        request = rename_request(source, target, no_replace=no_replace, exchange=exchange)
        self.add(_Operation(rename=request))

    def remove(self, path: Path, *, missing_ok: bool = False) -> None:
        self.add(_Operation(remove=remove_request(path, missing_ok=missing_ok)))

    def mkdir(
        self, path: Path, mode: int = 0o755, *, parents: bool = False, exist_ok: bool = False
    ) -> None:
        request = create_request(path, pb.DIRECTORY, mode, parents=parents, exist_ok=exist_ok)
        self.add(_Operation(create=request))

    def write_file(
        self,
        path: Path,
        data: Buffer | str,
        *,
        mode: int = 0o644,
        parents: bool = False,
        no_replace: bool = False,
    ) -> None:
        request = write_file_request(path, mode=mode, parents=parents, no_replace=no_replace)
        request.data = bytes(content(data))
        self.add(_Operation(write_file=request))

    def link(self, existing: Path, path: Path) -> None:
        self.add(_Operation(link=link_request(existing, path)))

    def symlink(self, target: Path, path: Path) -> None:
        self.add(_Operation(create=symlink_request(target, path)))

    def expect(self, path: Path, version: int) -> None:
        self.add_expect(build(_Expect, target=target(path), version=version))

    def table(self, path: Path) -> TransactionTable:
        return TransactionTable(self, text(path))

    def stream(self, path: Path) -> TransactionStream:
        return TransactionStream(self, text(path))

    # -------------------------------------------------------------------------------- ending

    async def commit(self) -> int:
        self.check_open()
        self._is_done = True
        await self._place()
        # Preconditions come first: they mean what was there before the transaction.
        request = build(
            pb.TransactionRequest,
            base=pb.Target(path=self._base),
            operations=[*(_Operation(expect=e) for e in self._expects), *self._operations],
            durability=durability(self._durable),
        )
        size = request.ByteSize()
        if size > UNIT_BYTES_MAX // 2:
            raise Exhausted(
                "the transaction is too large", bytes=size, bytes_max=UNIT_BYTES_MAX // 2
            )
        reply, _ = await self.channel.call(COMMIT, request)
        commit: int = reply.commit
        self.commit_number = commit
        return commit

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.commit()
        self._is_done = True


class TransactionOperations(Operations):
    def transaction(self, path: Path = "/", *, durable: bool | None = None) -> Transaction:
        """Use it in `async with`. See `dataplatform.Client.transaction`."""
        return Transaction(self._channel, text(path), durable)
