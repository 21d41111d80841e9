"""Reading a database: pages of it, and the live database at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rocksdict import Rdict, RdictIter, ReadOptions, Snapshot

from ...base.errors import Unavailable
from ...keyspace import keys
from ..base import Pair, View
from .errors import error_of, errors

_MAP_BYTES = len(keys.pieces(0))
"""The prefix that all pieces of a file share."""


class Scanner:
    """Pages of one database.

    Of rocksdict's three ways to bound an iterator one works (0.3.29): `set_iterate_upper_bound`
    does, `set_iterate_lower_bound` does nothing, and the iterators of a `Snapshot` do not stand
    still. What does stand still is an iterator: from the moment it is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # rocksdict copies the options into each iterator: reusing them saves making them.
        self._options = ReadOptions()
        self._kept: tuple[bytes, RdictIter, ReadOptions] | None = None  # see `_iterator`

    def moved(self) -> None:
        """The database was written to, or is about to be closed."""
        self._kept = None

    def page(
        self, database: Rdict, start: bytes, end: bytes, reverse: bool, limit: int, size_bytes: int
    ) -> list[Pair]:
        """A page of the database as it is now."""
        rows = self._iterator(database, start, end)
        return self.page_of(rows, start, end, reverse, limit, size_bytes)

    def _iterator(self, database: Rdict, start: bytes, end: bytes) -> RdictIter:
        """An iterator of the database as it is now.

        A flush of a file's writes looks for each of them in the file's map, and making an iterator
        costs several times a look. So one for the whole map is kept until the next write.
        """
        place = start[:_MAP_BYTES]
        if start[:1] != keys.PIECE or end[:_MAP_BYTES] != place:
            # At the bound RocksDB stops, instead of walking over deleted keys beyond it.
            self._options.set_iterate_upper_bound(end)
            with errors(self._path):
                return database.iter(self._options)
        if self._kept is None or self._kept[0] != place:
            # Its bound lies in its options, so these are its own as long as it is kept.
            options = ReadOptions()
            options.set_iterate_upper_bound(keys.prefix_range(place)[1])
            with errors(self._path):
                self._kept = place, database.iter(options), options
        return self._kept[1]

    def page_of(
        self, rows: RdictIter, start: bytes, end: bytes, reverse: bool, limit: int, size_bytes: int
    ) -> list[Pair]:
        """A page of the database as it was when `rows` was made."""
        assert limit > 0, limit
        assert size_bytes > 0, size_bytes
        if start >= end:
            return []
        valid, read_key, read_value = rows.valid, rows.key, rows.value
        if reverse:
            step = rows.prev
            rows.seek_for_prev(end)
            if valid() and read_key() == end:
                step()
        else:
            step = rows.next
            rows.seek(start)
        page: list[Pair] = []
        size = 0
        while valid():
            key = read_key()
            if not start <= key < end:
                return page
            value = read_value()
            page.append((key, value))
            size += len(key) + len(value)
            if len(page) >= limit or size >= size_bytes:
                return page
            step()
        try:
            rows.status()  # an iterator ends at damage as at its end: ask which
        except Exception as error:
            raise error_of(error, self._path) from error
        return page


class RocksView(View):
    """The live database at one moment.

    It reads the database itself until the next commit; only then it needs something that stands
    still. So a view that no commit falls into costs nothing.
    """

    def __init__(
        self, database: Rdict, scanner: Scanner, path: Path, opened: dict[RocksView, None]
    ) -> None:
        """`opened` are the open views of the engine: this one joins them until it is closed."""
        self._database: Rdict | None = database
        self._pinned: tuple[Snapshot, RdictIter] | None = None
        self._scanner = scanner
        self._path = path
        self._opened = opened
        opened[self] = None

    def pin(self) -> None:
        """Stand still from here on: the engine is about to write."""
        if self._pinned is None and self._database is not None:
            with errors(self._path):
                self._pinned = self._database.snapshot(), self._database.iter()

    async def get(self, key: bytes) -> bytes | None:
        return self._get(self._live(), key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        database = self._live()
        if self._pinned is None:
            return read_many(database, keys, self._path)
        return [self._get(database, key) for key in keys]

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        database = self._live()
        if self._pinned is None:
            return self._scanner.page(database, start, end, reverse, limit, size_bytes)
        return self._scanner.page_of(self._pinned[1], start, end, reverse, limit, size_bytes)

    def close(self) -> None:
        self._database = self._pinned = None
        self._opened.pop(self, None)

    def _live(self) -> Rdict:
        if self._database is None:
            raise Unavailable("view is closed", path=self._path)
        return self._database

    def _get(self, database: Rdict, key: bytes) -> bytes | None:
        try:
            if self._pinned is None:
                return cast("bytes | None", database.get(key))
            return cast("bytes", self._pinned[0][key])
        except Exception as error:
            if str(error) == "key not found":  # a snapshot has no other way of saying so
                return None
            raise error_of(error, self._path) from error


def read_many(database: Rdict, keys: Sequence[bytes], path: Path) -> list[bytes | None]:
    if not keys:
        return []
    try:
        return cast("list[bytes | None]", database.get(list(keys)))
    except Exception as error:
        raise error_of(error, path) from error
