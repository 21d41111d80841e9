"""What a volume is, apart from where its bytes lie: for comparing two of them byte for byte.

A *picture* is every replicable pair of a volume at one commit, as a pin scans it, with the bytes of
extents in place of the extents. A mirror has the same picture as its source has at the same commit;
accounts of segments and compression are each one's own.

`Replica` is the simplest mirror there can be, a dict: what change rows tell must suffice for it.
"""

from __future__ import annotations

from dataplatform.core.replication.seam import (
    REFERRING,
    Pin,
    deltas,
    is_replicable,
    scan_ranges,
)
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ChangeRow,
    Entry,
    Extent,
    GroupOffset,
    Inode,
    Piece,
    StoredBatch,
)

Pairs = list[tuple[bytes, bytes]]
Picture = dict[bytes, bytes]


async def resolved(pin: Pin, pairs: Pairs) -> Pairs:
    """The pairs with the bytes that they refer to."""
    wanted: dict[Extent, None] = {}
    for key, value in pairs:
        extent = extent_of(key, value)
        if extent is not None:
            wanted[extent] = None
    found = dict(zip(wanted, await pin.extents(list(wanted)), strict=True))
    return [(key, _resolved(key, value, found)) for key, value in pairs]


def extent_of(key: bytes, value: bytes) -> Extent | None:
    """What the value refers to."""
    if key[:1] not in REFERRING:
        return None
    if key[:1] == keys.PIECE:
        return Piece.unpack(0, value).extent
    return StoredBatch.unpack(value).extent


def _resolved(key: bytes, value: bytes, found: dict[Extent, bytes | memoryview]) -> bytes:
    extent = extent_of(key, value)
    if extent is None:
        return value
    data = bytes(found[extent])
    if key[:1] == keys.PIECE:
        piece = Piece.unpack(keys.last_number_of(key), value)
        data = data[piece.skip : piece.skip + piece.length]
        return piece._replace(data=data, extent=None, skip=0).pack()
    return StoredBatch.unpack(value)._replace(data=data, extent=None).pack()


async def picture(pin: Pin, *, changes_from: int = 0) -> Picture:
    """Of the pin's commit. Change rows before `changes_from` are left out: they may be trimmed on
    one side and not yet on the other."""
    found: Picture = {}
    async for page in scan_ranges(pin):
        for key, value in await resolved(pin, page):
            if key[:1] != keys.CHANGE or keys.number_of(key) >= changes_from:
                found[key] = value
    return found


def difference(first: Picture, second: Picture) -> list[str]:
    """What is not the same, in words; empty if they are equal."""
    return [
        f"{told(key)}: {_value(key, first.get(key))} and {_value(key, second.get(key))}"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    ]


def assert_equal(first: Picture, second: Picture) -> None:
    found = difference(first, second)
    assert not found, f"{len(found)} differ:\n  " + "\n  ".join(found[:20])


async def assert_same(first: Pin, second: Pin) -> None:
    """Two volumes, each at its pin's commit."""
    oldest = max(first.described.oldest_change, second.described.oldest_change)
    assert first.commit == second.commit, f"commits {first.commit} and {second.commit}"
    ones, others = first.described.state, second.described.state
    for name in ("next_inode", "next_producer", "used_bytes", "entries"):
        assert getattr(ones, name) == getattr(others, name), name
    assert_equal(
        await picture(first, changes_from=oldest), await picture(second, changes_from=oldest)
    )


def told(key: bytes) -> str:
    """A key for a person."""
    letter, rest = key[:1].decode(), key[9:]
    return f"{letter} {keys.number_of(key)} {rest!r}" if len(key) >= 9 else repr(key)


_RECORDS = {
    keys.INODE: Inode,
    keys.ENTRY: Entry,
    keys.CHANGE: ChangeRow,
    keys.GROUP_OFFSET: GroupOffset,
}


def _value(key: bytes, value: bytes | None) -> str:
    if value is None:
        return "nothing"
    record = _RECORDS.get(key[:1])
    text = repr(record.unpack(value) if record is not None else value)  # type: ignore[attr-defined]
    return text if len(text) < 400 else f"{text[:400]}… ({len(value)} bytes)"


class Replica:
    """A mirror in a dict: `follow` brings it to the commit of a pin."""

    def __init__(self) -> None:
        self.commit = 0
        self.pairs: Picture = {}
        self.copies = 0  # complete ones
        self.shipped = 0  # pairs that were not change rows

    async def follow(self, pin: Pin) -> None:
        since = self.commit
        if pin.described.oldest_change > since + 1 or not self.pairs:
            self.pairs = await picture(pin)
            self.copies += 1
        else:
            async for page in deltas(pin, since):
                self.shipped += len(page)
                for key, value in page:
                    assert is_replicable(key)
                    if value is None:
                        self.pairs.pop(key, None)
                known = [(key, value) for key, value in page if value is not None]
                self.pairs.update(await resolved(pin, known))
            rows = (keys.change(since + 1), keys.change(pin.commit + 1))
            async for changes in scan_ranges(pin, [rows]):
                self.pairs.update(changes)
        self.commit = pin.commit

    async def assert_is(self, pin: Pin) -> None:
        """It is what the pin shows."""
        assert self.commit == pin.commit
        oldest = pin.described.oldest_change
        mine = {
            key: value
            for key, value in self.pairs.items()
            if key[:1] != keys.CHANGE or keys.number_of(key) >= oldest
        }
        assert_equal(mine, await picture(pin))
