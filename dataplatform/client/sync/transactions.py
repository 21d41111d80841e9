"""Transactions over files, tables and streams of one volume. Synchronous."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from ..paths import Path
from ..runtime import run
from ..transactions import Transaction as AsyncTransaction
from ..transactions import TransactionStream as TransactionStream
from ..transactions import TransactionTable as AsyncTransactionTable
from ..values import Key, Row
from .base import Operations

__all__ = ["Transaction", "TransactionOperations", "TransactionStream", "TransactionTable"]


class TransactionTable:
    """A table within a transaction."""

    def __init__(self, table: AsyncTransactionTable) -> None:
        self._aio = table

    def get(self, key: Key, columns: Iterable[str] | None = None) -> Row | None:
        """Read a row now, and make the transaction depend on it: if the row has changed when the
        transaction commits, nothing happens and Conflict is raised. Does not see what the
        transaction itself is about to do."""
        return run(self._aio.get(key, columns))

    def put(
        self,
        key: Key,
        columns: Mapping[str, Any],
        *,
        if_version: int | None = None,
        replace: bool = False,
    ) -> None:
        """Set columns of a row, as `Table.put`."""
        self._aio.put(key, columns, if_version=if_version, replace=replace)

    def delete(
        self, key: Key, columns: Iterable[str] | None = None, *, if_version: int | None = None
    ) -> None:
        """Delete a row or some of its columns, as `Table.delete`."""
        self._aio.delete(key, columns, if_version=if_version)

    def increment(self, key: Key, column: str, amount: float = 1) -> None:
        """Add to a number, as `Table.increment`."""
        self._aio.increment(key, column, amount)

    def expect(self, key: Key, version: int) -> None:
        """The row must have this version (0: must not exist) when the transaction commits."""
        self._aio.expect(key, version)


class Transaction:
    """Collects operations; they happen together, as one commit, when the `with` block ends without
    an exception, or not at all. Relative paths count from the transaction's path."""

    def __init__(self, transaction: AsyncTransaction) -> None:
        self._aio = transaction

    @property
    def commit_number(self) -> int | None:
        """The commit that it became; None before."""
        return self._aio.commit_number

    # --------------------------------------------------------------------------------- names

    def rename(
        self, source: Path, target: Path, *, no_replace: bool = False, exchange: bool = False
    ) -> None:
        """As `Client.rename`."""
        self._aio.rename(source, target, no_replace=no_replace, exchange=exchange)

    def remove(self, path: Path, *, missing_ok: bool = False) -> None:
        """As `Client.remove`."""
        self._aio.remove(path, missing_ok=missing_ok)

    def mkdir(
        self, path: Path, mode: int = 0o755, *, parents: bool = False, exist_ok: bool = False
    ) -> None:
        """As `Client.mkdir`."""
        self._aio.mkdir(path, mode, parents=parents, exist_ok=exist_ok)

    def write_file(
        self,
        path: Path,
        data: bytes | bytearray | memoryview | str,
        *,
        mode: int = 0o644,
        parents: bool = False,
        no_replace: bool = False,
    ) -> None:
        """As `Client.write_file`, for content of up to 8 MiB."""
        self._aio.write_file(path, data, mode=mode, parents=parents, no_replace=no_replace)

    def link(self, existing: Path, path: Path) -> None:
        """As `Client.link`."""
        self._aio.link(existing, path)

    def symlink(self, target: Path, path: Path) -> None:
        """As `Client.symlink`."""
        self._aio.symlink(target, path)

    def expect(self, path: Path, version: int) -> None:
        """What is at `path` must have this version (0: there must be nothing)."""
        self._aio.expect(path, version)

    # --------------------------------------------------------------------- tables and streams

    def table(self, path: Path) -> TransactionTable:
        """A table within this transaction."""
        return TransactionTable(self._aio.table(path))

    def stream(self, path: Path) -> TransactionStream:
        """A stream within this transaction, with `append(topic, value, key, …)` and
        `commit_offset(group, topic, partition, offset)`."""
        return self._aio.stream(path)

    # -------------------------------------------------------------------------------- ending

    def commit(self) -> int:
        """Do it all now; the commit number. Called by the end of the `with` block.

        Raises Conflict when a precondition fails, or what an operation met: then nothing happened.
        """
        return run(self._aio.commit())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()


class TransactionOperations(Operations):
    def transaction(self, path: Path = "/", *, durable: bool | None = None) -> Transaction:
        """A transaction in the volume that holds `path`: all or nothing, one commit.

        with dp.transaction("/projects/cars") as tx:
            tx.rename("incoming/a.jpg", "done/a.jpg")
            tx.table("vehicles").put("vin-1", {"last": "a.jpg"})
            tx.stream("events").append("done", value=b"a.jpg")
        """
        return Transaction(self._aio.transaction(path, durable=durable))
