"""Tables: ordered maps from a row key to named columns. Synchronous."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import chain
from typing import IO, Any

from ..paths import Path
from ..runtime import iterate, run
from ..tables import Table as AsyncTable
from ..values import Key, Row, TableInfo
from .base import Operations

Columns = Mapping[str, Any]


class Table:
    """A table. Column values are what MessagePack knows: None, bool, int (64 bits), float, str,
    bytes, list, dict, and datetime with a time zone. Rows are ordered by the bytes of their keys.

    Writes are durable before they return; `durable=False` returns once others see them, and the
    disk follows within a second.
    """

    def __init__(self, table: AsyncTable) -> None:
        self._aio = table

    @property
    def path(self) -> str:
        """The path it was opened by."""
        return self._aio.path

    def __repr__(self) -> str:
        return f"<dataplatform.Table {self.path!r}>"

    # ------------------------------------------------------------------------------- reading

    def get(self, key: Key, columns: Iterable[str] | None = None) -> Row | None:
        """The row, or None if there is none. `columns` names those wanted; None: all.

        Example: `row = t.get("vin-1"); row.columns["km"], row.version`
        """
        return run(self._aio.get(key, columns))

    def get_many(
        self, keys: Iterable[Key], columns: Iterable[str] | None = None
    ) -> list[Row | None]:
        """The rows of many keys, in the order of `keys`, with None for those that are missing."""
        return run(self._aio.get_many(keys, columns))

    def scan(
        self,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        columns: Iterable[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Row]:
        """Rows in the order of their keys, fetched in pages while they are used.

        `start` is included, `end` is not; `prefix` keeps keys that begin with it; `where` is a
        filter that the server applies (docs/tables.md, "Filters"). `reverse` begins at the end.

            for row in t.scan(prefix="vin-", where="km > 10", limit=100):
                print(row.key, row.columns)
        """
        pages = self._aio.scan_pages(prefix, start, end, columns, where, limit, reverse)
        return chain.from_iterable(iterate(pages))

    def scan_pages(
        self,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        columns: Iterable[str] | None = None,
        where: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[list[Row]]:
        """`scan`, a list of rows at a time: the fastest way through a large table."""
        return iterate(self._aio.scan_pages(prefix, start, end, columns, where, limit, reverse))

    def to_arrow(
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
        """The rows of a scan as a `pyarrow.Table`; the row keys are its column named `key`.

        Columns that some rows lack are null there. Needs pyarrow (`pip install
        'dataplatform[arrow]'`), else raises Invalid. Example: `t.to_arrow().to_pandas()`
        """
        return run(self._aio.to_arrow(prefix, start, end, columns, where, limit, reverse, key=key))

    def info(self) -> TableInfo:
        """Rows, bytes and settings."""
        return run(self._aio.info())

    # ------------------------------------------------------------------------------- writing

    def put(
        self,
        key: Key,
        columns: Columns,
        *,
        if_version: int | None = None,
        replace: bool = False,
        durable: bool | None = None,
    ) -> int:
        """Set columns of a row, others stay; with `replace` they are the whole row. The row's new
        version is returned.

        `if_version` makes it conditional: the row must have that version, or with 0 not exist,
        else Conflict is raised: read again and retry. Raises Invalid for a key or row over the
        limits (4 KiB, 4 MiB).

            row = t.get("vin-1")
            t.put("vin-1", {"km": row.columns["km"] + 1}, if_version=row.version)
        """
        return run(
            self._aio.put(key, columns, if_version=if_version, replace=replace, durable=durable)
        )

    def put_many(
        self,
        rows: Mapping[Any, Columns] | Iterable[tuple[Key, Columns]],
        *,
        replace: bool = False,
        durable: bool | None = None,
    ) -> int:
        """Put any number of rows, given as a dict or as pairs of key and columns; their number.

        They travel in requests of a few MiB, each of which is applied as a whole; an error leaves
        the earlier ones applied. Example: `t.put_many({"vin-1": {"km": 1}, "vin-2": {"km": 2}})`
        """
        return run(self._aio.put_many(rows, replace=replace, durable=durable))

    def delete(
        self,
        key: Key,
        columns: Iterable[str] | None = None,
        *,
        if_version: int | None = None,
        durable: bool | None = None,
    ) -> bool:
        """Delete a row, or only some `columns` of it. False if there was nothing to delete."""
        return run(self._aio.delete(key, columns, if_version=if_version, durable=durable))

    def increment(
        self, key: Key, column: str, amount: float = 1, *, durable: bool | None = None
    ) -> int | float:
        """Add to a number, which counts from 0 where there is none; its new value.

        Raises Invalid when the column holds something else. Example: `t.increment("a", "n", 5)`
        """
        return run(self._aio.increment(key, column, amount, durable=durable))

    def load(
        self,
        file: str | os.PathLike[str] | IO[Any],
        key: str,
        *,
        format: str | None = None,
        replace: bool = False,
        durable: bool | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Put every row of a local CSV, JSON Lines or Parquet file; the number of rows.

        `key` names the column (or columns, as "a,b", joined by "/") that becomes the row key and
        is not stored again. `format` is "csv", "jsonl" or "parquet", by default what the name ends
        in. `progress` is called with the rows put since its last call.

        A CSV value becomes, decided one by one: null if empty; a bool if `true` or `false`; an int
        if it is written as one without leading zeros; a float if it is written as one; else a str.
        Parquet needs pyarrow.
        """
        return run(
            self._aio.load(
                file, key, format=format, replace=replace, durable=durable, progress=progress
            )
        )


class TableOperations(Operations):
    def create_table(
        self,
        path: Path,
        *,
        ttl: timedelta | None = None,
        mode: int = 0o644,
        parents: bool = False,
        exist_ok: bool = False,
    ) -> Table:
        """Create a table. With `ttl`, a row disappears that long after it was last put.

        Raises Exists unless `exist_ok` (and what is there is a table), NotFound when the directory
        is missing and `parents` is not set. Example: `t = dp.create_table("/cars/vehicles")`
        """
        return Table(
            run(
                self._aio.create_table(path, ttl=ttl, mode=mode, parents=parents, exist_ok=exist_ok)
            )
        )

    def table(self, path: Path) -> Table:
        """Open a table. Raises NotFound, or Invalid when `path` is something else."""
        return Table(run(self._aio.table(path)))
