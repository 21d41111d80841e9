"""The check finds every kind of damage, says it in words, finds nothing else, and repairs what can
be repaired without guessing. Damages are planted past the core, one at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgpack
import pytest

from dataplatform.base.errors import Corrupt, NotFound
from dataplatform.base.limits import KIB
from dataplatform.core import (
    compaction,
    filemap,
    files,
    namespace,
    orphans,
    retention,
    streams,
    tables,
)
from dataplatform.core.check import Finding, check_platform, check_volume
from dataplatform.core.check.picture import Picture
from dataplatform.core.replication.incoming import source_id
from dataplatform.core.snapshots import Snapshot
from dataplatform.core.units import SYSTEM, Unit
from dataplatform.engine.base import Pair, View, scan_all
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import (
    ROOT_INODE,
    ROOT_VOLUME,
    ChangeRow,
    ClusterRecord,
    Entry,
    Extent,
    GatherRecord,
    GroupOffset,
    Kind,
    MirrorCursor,
    Partition,
    Producer,
    Publication,
    Segment,
    SourceExtent,
    Statistics,
    StoredReply,
    Topic,
    VolumePhase,
    VolumeRecord,
    VolumeState,
    pack_row,
)
from tests.checking import assert_clean
from tests.model.platform_driver import Driver, Place
from tests.streaming import build_batch

from .check_world import LARGE, SESSION, World, noise

ENGINES = ["memory", "rocks"]
NOWHERE = 999  # an inode that does not exist
BAD = b"\xc1 neither MessagePack nor an entry"

Plant = Callable[[World], Awaitable[None]]


@asynccontextmanager
async def a_world(engine: str, path: Path) -> AsyncIterator[World]:
    world = World(Place(engine, path / "data"))
    await world.open()
    try:
        await world.build()
        yield world
    finally:
        await world.close()


@dataclass(frozen=True)
class Expected:
    """A finding: its path, a part of its text, and whether a repair is offered."""

    path: str
    text: str
    repairable: bool


def fixed(path: str, text: str) -> Expected:
    return Expected(path, text, True)


def kept(path: str, text: str) -> Expected:
    return Expected(path, text, False)


@dataclass(frozen=True)
class Damage:
    name: str
    plant: Plant
    expected: Sequence[Expected]
    reopen: bool = True  # so that no memory of before is left


DAMAGES: list[Damage] = []


def damage(*expected: Expected, name: str = "", reopen: bool = True) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        DAMAGES.append(Damage(name or plant.__name__, plant, expected, reopen))
        return plant

    return register


def unreadable(name: str, key: Callable[[World], bytes], *expected: Expected) -> None:
    """A stored record of which only noise is left."""

    async def plant(world: World) -> None:
        await world.get(key(world))
        await world.plant({key(world): BAD})

    DAMAGES.append(Damage(f"unreadable {name}", plant, expected))


# ---------------------------------------------------------------- rows and counters


@damage(kept("/", "a row of unknown meaning"), kept("/", "a row of unknown meaning"))
async def unknown_rows(world: World) -> None:
    await world.plant({b"?what": b"", keys.inode(3) + b"longer": b""})


@damage(
    kept("/", "the publication broken cannot be read"),
    kept("/", "the publication early was read to commit 1000000, and the last is"),
)
async def publications_that_cannot_be(world: World) -> None:
    here = bytes(16) + ROOT_VOLUME.to_bytes(8, "big")
    early = Publication(ROOT_VOLUME, ROOT_INODE, 5, "t", 10**6, home=here)
    asleep = replace(early, home=b"in another place")
    await world.plant(
        {
            keys.publication("broken"): BAD,
            keys.publication("early"): early.pack(),
            keys.publication("asleep"): asleep.pack(),
        }
    )


@damage(
    kept("/", "the gathering broken cannot be read"),
    kept("/", "the cursor of /east/s:t in the gathering ok cannot be read"),
)
async def gatherings_that_cannot_be(world: World) -> None:
    await world.plant(
        {
            keys.gather("broken"): BAD,
            keys.gather("ok"): GatherRecord(5, "t", [["east", "/s", "t"]]).pack(),
            keys.gather_cursor("ok", "/east/s:t"): BAD,
        }
    )


@damage(
    kept("/", "the record of the cluster east cannot be read"),
    kept("/", "the record of the cluster (slots) cannot be read"),
)
async def unreadable_clusters(world: World) -> None:
    await world.plant({keys.cluster("east"): BAD, keys.cluster(""): BAD})


@damage(
    kept("/", "the cluster north has a slot that is not its own"),
    kept("/", "the cluster west has a slot that is not its own"),
)
async def clusters_with_the_slots_of_others(world: World) -> None:
    await world.plant(
        {
            keys.cluster(""): ClusterRecord("", 1).pack(),
            keys.cluster("east"): ClusterRecord("dp://east", 1).pack(),
            keys.cluster("north"): ClusterRecord("dp://north", 1).pack(),
            keys.cluster("west"): ClusterRecord("dp://west", 2).pack(),
        }
    )


@damage(kept("/", "the volume's counters are missing"), reopen=False)
async def no_state(world: World) -> None:
    # Until the next commit, which writes them again: so nothing but the check may run.
    await world.plant({keys.STATE_KEY: None})


@damage(kept("/", "the volume's settings are missing"), reopen=False)
async def no_settings(world: World) -> None:
    await world.plant({keys.SETTINGS_KEY: None})


unreadable("state", lambda w: keys.STATE_KEY, kept("/", "the volume's counters cannot be read"))
DAMAGES[-1] = replace(DAMAGES[-1], reopen=False)
unreadable("settings", lambda w: keys.SETTINGS_KEY, kept("/", "the volume's settings cannot"))
DAMAGES[-1] = replace(DAMAGES[-1], reopen=False)


# ---------------------------------------------------------------- snapshots


async def take_snapshot(world: World) -> Snapshot:
    return await world.platform.snapshots.create(SYSTEM, world.volume, "first")


@damage(kept("/", "the record of snapshot first of volume 1 cannot be read"))
async def unreadable_snapshot(world: World) -> None:
    await take_snapshot(world)
    await world.plant({keys.snapshot(ROOT_VOLUME, "first"): BAD})


@damage(kept("/.snapshot/first", "and its record says 7"))
async def snapshot_of_another_commit(world: World) -> None:
    taken = await take_snapshot(world)
    changed = replace(taken.record, commit=7)
    await world.plant({keys.snapshot(ROOT_VOLUME, "first"): changed.pack()})


@damage(kept("/.snapshot/first", "checkpoint is gone"))
async def snapshot_without_checkpoint(world: World) -> None:
    taken = await take_snapshot(world)
    await world.volume.storage.engine.delete_checkpoint(taken.record.checkpoint)


@damage(kept("/.snapshot/first", "is missing, and the snapshot refers to it"))
async def snapshot_without_a_segment(world: World) -> None:
    segments, driver = world.volume.storage.segments, Driver(world.platform, b"t" * 16)
    await segments.seal()
    await driver.write_file("/victim", b"x" * LARGE)
    await take_snapshot(world)
    await driver.unlink("/victim")
    await segments.seal()
    await compaction.run_once(world.volume)
    number = (await compaction.kept_dead(world.volume))[0][0]
    await segments.delete(number)
    await world.plant({keys.dead_segment(number): None})


@damage(kept("(volume 999)", "which is missing"))
async def snapshot_of_no_volume(world: World) -> None:
    taken = await take_snapshot(world)
    gone = replace(taken.record, number=3)
    await world.plant({keys.snapshot(NOWHERE, "first"): gone.pack()})


@damage(
    fixed("/", "it cannot be read when segment 77 died"),
    fixed("/", "is marked as dead, and has an account"),
)
async def bad_marks_of_dead_segments(world: World) -> None:
    (key, _), *_ = await world.rows(keys.SEGMENT)
    alive = keys.dead_segment(keys.number_of(key))
    await world.plant({keys.dead_segment(77): BAD, alive: (5).to_bytes(8, "big")})


@damage(fixed("/", "the next inode number would be 5"))
async def inode_number_again(world: World) -> None:
    await world.edit_state(next_inode=5)


@damage(fixed("/", "the next producer id would be 1, and 1 is used"))
async def producer_again(world: World) -> None:
    await world.edit_state(next_producer=1)


@damage(fixed("/", "the volume counts 107 used bytes"))
async def usage(world: World) -> None:
    await world.edit_state(used_bytes=107)


@damage(fixed("/", "the volume counts 3 files, directories and other things"))
async def usage_entries(world: World) -> None:
    await world.edit_state(entries=3)


# ---------------------------------------------------------------- inodes

unreadable(
    "inode",
    lambda w: keys.inode(w.inodes["/docs/small"]),
    kept("/docs/hard", "its record cannot be read"),  # one of its names
)
unreadable(
    "inode of a directory",
    lambda w: keys.inode(w.inodes["/docs/deep"]),
    kept("/docs/deep", "its record cannot be read"),
)
unreadable(
    "inode of a table",
    lambda w: keys.inode(w.inodes["/table"]),
    kept("/table", "its record cannot be read"),
)
unreadable(
    "inode of a stream",
    lambda w: keys.inode(w.inodes["/stream"]),
    kept("/stream", "its record cannot be read"),
)


@damage(kept("/docs/pipe", "its record is that of another inode"))
async def swapped_inode(world: World) -> None:
    await world.edit("/docs/pipe")  # there it is
    other = await world.get(keys.inode(world.inodes["/docs/link"]))
    await world.plant({keys.inode(world.inodes["/docs/pipe"]): other})


@damage(kept("/docs/pipe", "its kind is unknown"))
async def unknown_kind(world: World) -> None:
    await world.edit("/docs/pipe", kind=77)


@damage(kept("/docs/pipe", "impossible numbers"))
async def impossible_numbers(world: World) -> None:
    await world.edit("/docs/pipe", size=-1)


@damage(kept("/docs/link", "the symbolic link has no target"))
async def no_target(world: World) -> None:
    await world.edit("/docs/link", symlink=b"")


@damage(kept("/docs/pipe", "it has the target of a symbolic link and is none"))
async def target_of_no_link(world: World) -> None:
    await world.edit("/docs/pipe", symlink=b"x")


@damage(kept("/docs/link", "the symbolic link's size"))
async def wrong_target_size(world: World) -> None:
    await world.edit("/docs/link", size=1)


@damage(kept("/docs/pipe", "its version 1000000 is newer than the last commit"))
async def too_new(world: World) -> None:
    await world.edit("/docs/pipe", version=1_000_000)


@damage(
    kept("/docs/pipe", "mounted on something that is no directory"), fixed("/docs/pipe", "volume")
)
async def volume_on_a_pipe(world: World) -> None:
    await world.edit("/docs/pipe", volume=0)
    await world.edit("/docs/pipe", volume=world.mounted)


@damage(fixed("/", "the root directory's record is missing"))
async def no_root(world: World) -> None:
    await world.plant({keys.inode(ROOT_INODE): None})


# ---------------------------------------------------------------- names


@damage(fixed("/docs/pipe", "its name says it is a file, and it is a fifo"))
async def wrong_kind(world: World) -> None:
    entry = Entry(world.inodes["/docs/pipe"], Kind.FILE)
    await world.plant({keys.entry(world.inodes["/docs"], b"pipe"): entry.pack()})


@damage(fixed("/mounted", "its name says volume 777 is mounted here"))
async def wrong_volume(world: World) -> None:
    entry = Entry(world.inodes["/mounted"], Kind.DIRECTORY, 777)
    await world.plant({keys.entry(ROOT_INODE, b"mounted"): entry.pack()})


unreadable(
    "entry",
    lambda w: keys.entry(w.inodes["/docs"], b"large"),
    fixed("/docs/large", "what the name points to cannot be read"),
)
unreadable(
    "entry of a directory",
    lambda w: keys.entry(w.inodes["/docs"], b"deep"),
    fixed("/docs/deep", "what the name points to cannot be read"),
)
unreadable(
    "entry of a hard link",
    lambda w: keys.entry(w.inodes["/docs"], b"hard"),
    fixed("/docs/hard", "what the name points to cannot be read"),
)


@damage(fixed("/docs/deep", f"points to inode {NOWHERE}, which does not exist: it is the name of"))
async def name_of_another(world: World) -> None:
    entry = Entry(NOWHERE, Kind.FILE)
    await world.plant({keys.entry(world.inodes["/docs"], b"deep"): entry.pack()})


@damage(fixed("/docs/hard", f"points to inode {NOWHERE}, which does not exist: it is the name of"))
async def further_name_of_another(world: World) -> None:
    entry = Entry(NOWHERE, Kind.DIRECTORY)
    await world.plant({keys.entry(world.inodes["/docs"], b"hard"): entry.pack()})


@damage(
    fixed("/docs/ghost", f"points to nothing: inode {NOWHERE}"), fixed("/docs", "counts are wrong")
)
async def name_of_nothing(world: World) -> None:
    docs = world.inodes["/docs"]
    await world.plant({keys.entry(docs, b"ghost"): Entry(NOWHERE, Kind.FILE).pack()})
    await world.edit_state(next_inode=NOWHERE + 1)


@damage(
    fixed("/docs", "it counts 10 entries and has 9"),
    fixed("/docs/pipe", "is in no directory"),
)
async def lost_name(world: World) -> None:
    await world.plant({keys.entry(world.inodes["/docs"], b"pipe"): None})


@damage(
    fixed("/docs", "it counts 10 entries and has 9"),
    fixed("/docs/deep", "is in no directory: a repair puts it into /lost+found/inode-"),
)
async def lost_directory_name(world: World) -> None:
    await world.plant({keys.entry(world.inodes["/docs"], b"deep"): None})


@damage(
    fixed("/docs/deep", "the directory's record is missing, its entries are there"),
    fixed("/", "files, directories and other things"),
)
async def lost_directory(world: World) -> None:
    await world.plant({keys.inode(world.inodes["/docs/deep"]): None})


@damage(
    fixed("(inode {docs/deep})", "the directory's record is missing, its entries are there"),
    fixed("/docs", "it counts 10 entries and has 9"),
    fixed("/", "files, directories and other things"),
)
async def lost_directory_and_name(world: World) -> None:
    await world.plant(
        {
            keys.inode(world.inodes["/docs/deep"]): None,
            keys.entry(world.inodes["/docs"], b"deep"): None,
        }
    )


@damage(
    fixed("/docs/small", "points to nothing"),
    fixed("/docs/hard", "points to nothing"),
    fixed("/docs/harder", "points to nothing"),
    fixed("(inode {docs/small})", "further names of the file are stored for something that does"),
    fixed("(inode {docs/small})", "extended attributes are stored for something that does not"),
    fixed("(inode {docs/small})", "bytes of the file are stored for something that does not exist"),
    fixed("/", "files, directories and other things"),
    fixed("/", "used bytes"),
)
async def lost_file(world: World) -> None:
    await world.plant({keys.inode(world.inodes["/docs/small"]): None})


@damage(
    fixed("(inode {a})", "is inside of itself"),
    fixed("/", "it counts 8 entries and has 7"),
    fixed("/", "files"),
)
async def circle(world: World) -> None:
    a, b = 900, 901
    world.inodes["/a"] = a
    base = await world.inode("/empty")
    await world.plant(
        {
            keys.inode(a): replace(base, number=a, parent=b, name=b"a", size=1, links=3).pack(),
            keys.inode(b): replace(base, number=b, parent=a, name=b"b", size=1, links=3).pack(),
            keys.entry(b, b"a"): Entry(a, Kind.DIRECTORY).pack(),
            keys.entry(a, b"b"): Entry(b, Kind.DIRECTORY).pack(),
        }
    )
    root = await world.inode("/")
    await world.edit("/", size=root.size + 1)
    await world.edit_state(next_inode=902)


@damage(fixed("/empty/again", "it is a second name of /docs/deep"), fixed("/empty", "1"))
async def second_name_of_a_directory(world: World) -> None:
    entry = Entry(world.inodes["/docs/deep"], Kind.DIRECTORY)
    await world.plant({keys.entry(world.inodes["/empty"], b"again"): entry.pack()})


@damage(fixed("/empty/again", "it is a second name of /table"), fixed("/empty", "1"))
async def second_name_of_a_table(world: World) -> None:
    entry = Entry(world.inodes["/table"], Kind.TABLE)
    await world.plant({keys.entry(world.inodes["/empty"], b"again"): entry.pack()})


@damage(fixed("/empty/top", "it is a second name of the root directory"), fixed("/empty", "1"))
async def second_name_of_the_root(world: World) -> None:
    entry = Entry(ROOT_INODE, Kind.DIRECTORY)
    await world.plant({keys.entry(world.inodes["/empty"], b"top"): entry.pack()})


@damage(fixed("/docs/hard", "the file does not know of this name: it is /docs/small"))
async def lost_link(world: World) -> None:
    docs, small = world.inodes["/docs"], world.inodes["/docs/small"]
    await world.plant({keys.link(small, docs, b"hard"): None})


@damage(fixed("/docs/other", "there is no such name"))
async def link_to_no_name(world: World) -> None:
    docs, small = world.inodes["/docs"], world.inodes["/docs/small"]
    await world.plant({keys.link(small, docs, b"other"): b""})


@damage(fixed("/docs/small", "recorded twice as a name"))
async def link_of_the_first_name(world: World) -> None:
    docs, small = world.inodes["/docs"], world.inodes["/docs/small"]
    await world.plant({keys.link(small, docs, b"small"): b""})


@damage(fixed("/docs/pipe", "its record says that it is called /docs/tube"))
async def wrong_first_name(world: World) -> None:
    await world.edit("/docs/pipe", name=b"tube")


@damage(fixed("/docs/deep", "its record says that it is called /empty/deep"))
async def wrong_parent(world: World) -> None:
    await world.edit("/docs/deep", parent=world.inodes["/empty"])


@damage(
    fixed("/docs/harder", "its record says that it is called /docs/small"),
    fixed("/docs", "it counts 10 entries and has 9"),
    fixed("/docs/small", "it counts 3 names and has 2"),
)
async def lost_first_name(world: World) -> None:
    await world.plant({keys.entry(world.inodes["/docs"], b"small"): None})


@damage(fixed("/docs/large", "it counts 7 names and has 1"))
async def wrong_links(world: World) -> None:
    await world.edit("/docs/large", links=7)


@damage(fixed("/docs/large", "it counts 0 names and has 1"))
async def no_links(world: World) -> None:
    await world.edit("/docs/large", links=0)


@damage(fixed("/docs", "it counts 3 entries and has 10"))
async def wrong_directory_size(world: World) -> None:
    await world.edit("/docs", size=3)


@damage(fixed("/docs", "its links are 9 and should be 3"))
async def wrong_directory_links(world: World) -> None:
    await world.edit("/docs", links=9)


@damage(kept("/docs/a\\xff", "this cannot be a name"), fixed("/docs", "counts are wrong"))
async def impossible_name(world: World) -> None:
    docs, small = world.inodes["/docs"], world.inodes["/docs/small"]
    inode = await world.inode("/docs/small")
    await world.plant(
        {
            keys.entry(docs, b"a\xff"): Entry(small, Kind.FILE).pack(),
            keys.link(small, docs, b"a\xff"): b"",
        }
    )
    await world.edit("/docs/small", links=inode.links + 1)


@damage(kept("/docs/pipe", "it is no directory, and there is a name in it"))
async def entry_in_a_pipe(world: World) -> None:
    pipe, small = world.inodes["/docs/pipe"], world.inodes["/docs/small"]
    await world.plant(
        {
            keys.entry(pipe, b"in"): Entry(small, Kind.FILE).pack(),
            keys.link(small, pipe, b"in"): b"",
        }
    )
    await world.edit("/docs/small", links=4)


# ---------------------------------------------------------------- removed things


@damage(fixed("(inode {removed})", "a removed file is not marked for the sweep: it was removed"))
async def unmarked_orphan(world: World) -> None:
    await world.plant({keys.orphan(world.inodes["/removed"]): None})


@damage(fixed("/docs/large", "it is marked as removed, and has a name"))
async def marked_file(world: World) -> None:
    await world.plant({keys.orphan(world.inodes["/docs/large"]): bytes(8)})


@damage(fixed(f"(inode {NOWHERE})", "it is marked as removed, and does not exist"))
async def marked_nothing(world: World) -> None:
    await world.plant({keys.orphan(NOWHERE): bytes(8)})


@damage(
    fixed("(inode {empty})", "a removed directory still holds something"),
)
async def removed_directory_with_content(world: World) -> None:
    # As if `rmdir` had not looked: the directory went, what is in it did not.
    await world.create("/empty/in")
    root = await world.inode("/")
    state = VolumeState.unpack(await world.get(keys.STATE_KEY))
    await world.edit("/empty", links=0)
    await world.plant(
        {
            keys.entry(ROOT_INODE, b"empty"): None,
            keys.orphan(world.inodes["/empty"]): bytes(8),
        }
    )
    await world.edit("/", links=root.links - 1, size=root.size - 1)
    await world.edit_state(entries=state.entries - 1)


# ---------------------------------------------------------------- files


@damage(fixed(f"(inode {NOWHERE})", "extended attributes are stored for something that does not"))
async def attribute_of_nothing(world: World) -> None:
    await world.plant({keys.xattr(NOWHERE, b"user.a"): b""})


@damage(
    kept("/docs/small", "an extended attribute cannot have this name"),
    kept("/docs/small", "is too large"),
)
async def impossible_attributes(world: World) -> None:
    small = world.inodes["/docs/small"]
    await world.plant({keys.xattr(small, b"n" * 256): b"", keys.xattr(small, b"v"): bytes(70_000)})


@damage(fixed(f"(inode {NOWHERE})", "bytes of the file are stored for something that does not"))
async def bytes_of_nothing(world: World) -> None:
    await world.plant({keys.piece(NOWHERE, n): b"\x00x" for n in range(1200)})


@damage(
    fixed("(inode {docs/packed})", "bytes of the file are stored for something that does not"),
    fixed("/docs/packed", "points to nothing"),
    fixed("/", "files, directories and other things"),
    fixed("/", "used bytes"),
)
async def bulk_bytes_of_nothing(world: World) -> None:
    await world.plant({keys.inode(world.inodes["/docs/packed"]): None})


@damage(
    kept("/docs/pipe", "it is no file, and has bytes"),
    kept("/docs/pipe", "beyond its end"),
    fixed("/docs/pipe", "it counts 0 stored bytes and has 1"),
    fixed("/", "used bytes"),
)
async def bytes_of_a_pipe(world: World) -> None:
    await world.plant({keys.piece(world.inodes["/docs/pipe"], 0): b"\x00x"})


@damage(
    kept("/docs/large", "are stored twice: they overlap others"),
    fixed("/docs/large", "bytes"),
    fixed("/", "used bytes"),
)
async def overlap(world: World) -> None:
    await world.plant({keys.piece(world.inodes["/docs/large"], 10): b"\x00xyz"})


@damage(kept("/docs/small", "its bytes from 0 to 5 lie beyond its end at 3"))
async def beyond_the_end(world: World) -> None:
    await world.edit("/docs/small", size=3)


@damage(kept("/docs/small", "a piece without bytes is stored at 100"))
async def empty_piece(world: World) -> None:
    await world.plant({keys.piece(world.inodes["/docs/small"], 100): b"\x00"})


@damage(fixed("/docs/large", "it counts 3 stored bytes and has 307200"))
async def wrong_used_bytes(world: World) -> None:
    await world.edit("/docs/large", used_bytes=3)


@damage(fixed("/docs/pipe", "it counts 3 stored bytes and has 0"))
async def wrong_used_bytes_of_a_pipe(world: World) -> None:
    await world.edit("/docs/pipe", used_bytes=3)


@damage(kept("/docs/small", "where its bytes from 0 on are stored cannot be read"))
async def unreadable_piece(world: World) -> None:
    await world.plant({keys.piece(world.inodes["/docs/small"], 0): b"\x07?"})


@damage(kept("/docs/large", "more than what is stored of them"))
async def longer_than_its_extent(world: World) -> None:
    key, piece = (await world.pieces("/docs/large"))[2]  # what is left behind an overwritten part
    assert piece.skip
    await world.plant({key: piece._replace(skip=piece.skip + 1).pack()})


@damage(kept("/docs/packed", "lost: they lie beyond the end of segment 1"))
async def outside_of_its_segment(world: World) -> None:
    key, piece = await world.bulk_piece("/docs/packed")
    assert piece.extent is not None
    extent = piece.extent._replace(offset=1 << 40)
    await world.plant({key: piece._replace(extent=extent).pack()})


@damage(kept("/docs/packed", "are stored in an unknown form"))
async def unknown_form(world: World) -> None:
    key, piece = await world.bulk_piece("/docs/packed")
    assert piece.extent is not None
    await world.plant({key: piece._replace(extent=piece.extent._replace(flags=0x80)).pack()})


@damage(kept("/docs/large", "are stored with two different lengths"))
async def two_lengths(world: World) -> None:
    key, piece = (await world.pieces("/docs/large"))[-1]
    assert piece.extent is not None
    extent = piece.extent._replace(length=piece.extent.length + 1)
    await world.plant({key: piece._replace(extent=extent).pack()})


@damage(kept("/docs/packed", "do not match their checksum"))
async def flipped_bit(world: World) -> None:
    _, piece = await world.bulk_piece("/docs/packed")
    assert piece.extent is not None
    await world.flip(1, piece.extent.offset + 5)


@damage(
    kept("/docs/large", "do not match their checksum"),
    kept("/docs/copy", "do not match their checksum"),
)
async def flipped_bit_of_a_copy(world: World) -> None:
    _, piece = (await world.pieces("/docs/large"))[-1]
    assert piece.extent is not None
    await world.flip(1, piece.extent.offset)


# ---------------------------------------------------------------- tables


def row_key(world: World, key: bytes = b"k1") -> bytes:
    return keys.row(world.inodes["/table"], key)


def damaged_row(name: str, text: str, value: Callable[[bytes], bytes]) -> None:
    """The row becomes another one, of the same length unless counts are expected to be wrong."""

    async def plant(world: World) -> None:
        old = await world.get(row_key(world))
        new = value(old)
        await world.plant({row_key(world): new.ljust(len(old), b"\xc0")[: len(old)]})

    DAMAGES.append(Damage(f"row {name}", plant, [kept("/table", f"row `k1` {text}")]))


damaged_row("noise", "is damaged: it does not begin as a row", lambda old: BAD * 2)
damaged_row("mangled", "is damaged", lambda old: old[:-1] + b"\xc1")
damaged_row("no map", "is damaged", lambda old: old[:19] + b"\xd9" + bytes([len(old) - 21]))
damaged_row(
    "unhashable",
    "is damaged",
    lambda old: old[:19] + b"\x81\x90\xd9" + bytes([len(old) - 23]),
)
damaged_row("bad column", "is damaged", lambda old: old.replace(b"name", b"na\x00e"))
damaged_row("too new", "has version", lambda old: old[:2] + (10**9).to_bytes(8, "big") + old[10:])


@damage(
    kept("/table", "row `k1` is cut off"), fixed("/table", "it counts 5 rows"), fixed("/", "used")
)
async def cut_off_row(world: World) -> None:
    await world.plant({row_key(world): (await world.get(row_key(world)))[:19]})


@damage(
    kept("/table", "has too long a key"), fixed("/table", "it counts 5 rows"), fixed("/", "used")
)
async def too_long_key(world: World) -> None:
    await world.plant({row_key(world, b"k" * 5000): await world.get(row_key(world))})


@damage(fixed("/table", "it counts 5 rows"), fixed("/", "used bytes"))
async def lost_row(world: World) -> None:
    await world.plant({row_key(world): None})


@damage(fixed("/table", "it counts 77 rows with 1 bytes, and has 5 with"))
async def wrong_row_count(world: World) -> None:
    await world.plant({keys.statistics(world.inodes["/table"]): Statistics(77, 1).pack()})


@damage(fixed("/blank", "it counts 1 rows with 1 bytes, and has 0 with 0"))
async def wrong_count_of_no_rows(world: World) -> None:
    await world.plant({keys.statistics(world.inodes["/blank"]): Statistics(1, 1).pack()})


@damage(fixed("/table", "it counts 0 rows"))
async def lost_counts(world: World) -> None:
    await world.plant({keys.statistics(world.inodes["/table"]): None})


unreadable(
    "counts of a table",
    lambda w: keys.statistics(w.inodes["/table"]),
    fixed("/table", "its counts cannot be read"),
)
unreadable(
    "counts of a stream",
    lambda w: keys.statistics(w.inodes["/stream"]),
    fixed("/stream", "its counts cannot be read"),
)


@damage(kept("/table", "newer than the last commit"))
async def too_new_counts(world: World) -> None:
    key = keys.statistics(world.inodes["/table"])
    counts = Statistics.unpack(await world.get(key))
    await world.plant({key: replace(counts, version=10**6).pack()})


@damage(kept("/docs/pipe", "it counts rows or records, and is no table"))
async def counts_of_a_pipe(world: World) -> None:
    await world.plant({keys.statistics(world.inodes["/docs/pipe"]): Statistics().pack()})


@damage(
    fixed(f"(inode {NOWHERE})", "counts of the table or stream are stored for something"),
    fixed(f"(inode {NOWHERE})", "rows of the table are stored for something that does not exist"),
)
async def rows_of_nothing(world: World) -> None:
    row = await world.get(row_key(world))
    await world.plant(
        {keys.row(NOWHERE, b"k"): row, keys.statistics(NOWHERE): Statistics(1, 1).pack()}
    )


@damage(kept("/docs/pipe", "it is no table, and has rows"), fixed("/", "used bytes"))
async def rows_of_a_pipe(world: World) -> None:
    await world.plant(
        {keys.row(world.inodes["/docs/pipe"], b"k"): pack_row(1, 0, msgpack.packb({}))}
    )


# ---------------------------------------------------------------- streams

CARS_0 = "/stream:cars/0"


@damage(kept("/stream", "there is data of a topic without a name"))
async def lost_topic(world: World) -> None:
    await world.plant({keys.topic(world.inodes["/stream"], b"cars"): None})


unreadable(
    "topic",
    lambda w: keys.topic(w.inodes["/stream"], b"cars"),
    kept("/stream:cars", "the topic's record cannot be read"),
)
unreadable("partition", World.partition_key, kept(CARS_0, "the partition's record cannot be read"))


@damage(kept("/stream:c!rs", "this cannot be the name of a topic"))
async def impossible_topic(world: World) -> None:
    stream = world.inodes["/stream"]
    await world.plant({keys.topic(stream, b"c!rs"): Topic(50, 1).pack()})
    await world.plant({keys.partition(stream, 50, 0): Partition().pack()})
    inode = await world.inode("/stream")
    await world.edit("/stream", settings={**inode.settings, "next_topic": 51})


@damage(kept("/stream:twin", "the topic has the number of another one, cars"))
async def twin_topic(world: World) -> None:
    value = await world.get(keys.topic(world.inodes["/stream"], b"cars"))
    await world.plant({keys.topic(world.inodes["/stream"], b"twin"): value})


@damage(kept("/stream:cars", "the topic has 20000 partitions"), reopen=False)
async def too_many_partitions(world: World) -> None:
    stream = world.inodes["/stream"]
    rows: dict[bytes, bytes | None] = {
        keys.partition(stream, world.topics["cars"], n): Partition().pack()
        for n in range(2, 10_000)
    }
    rows[keys.topic(stream, b"cars")] = Topic(world.topics["cars"], 20_000).pack()
    await world.plant(rows)


@damage(fixed("/stream", "the next topic would get a number that is used already: 2"))
async def topic_number_again(world: World) -> None:
    inode = await world.inode("/stream")
    await world.edit("/stream", settings={**inode.settings, "next_topic": 1})


@damage(kept("/stream:cars/1", "the partition's record is missing"))
async def lost_partition(world: World) -> None:
    await world.plant({world.partition_key(1): None})


@damage(kept("/stream:cars/7", "the topic has no such partition"))
async def partition_too_many(world: World) -> None:
    await world.plant({world.partition_key(7): Partition().pack()})


@damage(
    kept(CARS_0, "records from offset 2 to 3 are missing"),
    fixed(CARS_0, "bytes and has"),
    fixed("/stream", "it counts 9 records"),
    fixed("/", "used bytes"),
)
async def lost_batch(world: World) -> None:
    await world.plant({(await world.batches())[1][0]: None})


@damage(
    kept(CARS_0, "records from offset 0 to 2 are missing"),
    fixed(CARS_0, "bytes and has"),
    fixed("/stream", "it counts 9 records"),
    fixed("/", "used bytes"),
)
async def lost_first_batch(world: World) -> None:
    await world.plant({(await world.batches())[0][0]: None})


@damage(
    kept(CARS_0, "records from offset 4 to 7 are missing"),
    kept(CARS_0, "its latest time is not that of its last batch"),
    fixed(CARS_0, "bytes and has"),
    fixed("/stream", "it counts 9 records"),
    fixed("/", "used bytes"),
    name="lost last batch",
)
async def lost_last_batch(world: World) -> None:
    key = world.partition_key()
    await world.plant({key: replace(await world.partition(), max_timestamp_ms=6000).pack()})
    await world.plant({(await world.batches())[-1][0]: None})


@damage(kept(CARS_0, "it has records up to 7 beyond its end at 4"))
async def beyond_its_end(world: World) -> None:
    row = replace(await world.partition(), next_offset=4)
    await world.plant({world.partition_key(): row.pack()})


@damage(kept(CARS_0, "records from offset 0 to 1 are there twice"))
async def start_too_high(world: World) -> None:
    row = replace(await world.partition(), start_offset=1)
    await world.plant({world.partition_key(): row.pack()})


@damage(fixed(CARS_0, "it counts 1 bytes and has"))
async def wrong_partition_size(world: World) -> None:
    row = replace(await world.partition(), size_bytes=1)
    await world.plant({world.partition_key(): row.pack()})


@damage(fixed("/stream", "it counts 1 records with 1 bytes, and has 9 with"))
async def wrong_record_count(world: World) -> None:
    await world.plant({keys.statistics(world.inodes["/stream"]): Statistics(1, 1).pack()})


@damage(
    kept(CARS_0, "the batch at offset 2 has an earlier latest time"),
    kept(CARS_0, "the batch at offset 2 has records that are later than its latest time"),
)
async def time_runs_backwards(world: World) -> None:
    key, batch = (await world.batches())[1]
    await world.plant({key: batch._replace(max_timestamp_ms=5).pack()})


@damage(kept(CARS_0, "the batch at offset 0 is damaged"))
async def flipped_inline_batch(world: World) -> None:
    key, _ = (await world.batches())[0]
    value = bytearray(await world.get(key))
    value[-3] ^= 1
    await world.plant({key: bytes(value)})


@damage(kept(CARS_0, "the batch at offset 0 has"))
async def wrong_batch_length(world: World) -> None:
    key, batch = (await world.batches())[0]
    assert batch.data is not None
    await world.plant({key: batch._replace(data=batch.data[:-1]).pack()})


@damage(kept(CARS_0, "the batch at offset 3 is damaged: stored bytes do not match"))
async def flipped_bulk_batch(world: World) -> None:
    _, batch = next((k, b) for k, b in await world.batches() if b.extent is not None)
    assert batch.extent is not None
    await world.flip(batch.extent.segment, batch.extent.offset + 90)


@damage(kept(CARS_0, "the batch at offset 3 is not readable: its bytes are lost"))
async def bulk_batch_outside(world: World) -> None:
    key, batch = next((k, b) for k, b in await world.batches() if b.extent is not None)
    assert batch.extent is not None
    extent = batch.extent._replace(offset=1 << 40)
    await world.plant({key: batch._replace(extent=extent).pack()})


@damage(kept(CARS_0, "the batch at offset 2 cannot be read"))
async def unreadable_batch(world: World) -> None:
    await world.plant({(await world.batches())[1][0]: b"\x00short"})


@damage(
    fixed(f"(inode {NOWHERE})", "topics of the stream are stored"),
    fixed(f"(inode {NOWHERE})", "partitions of the stream are stored"),
    fixed(f"(inode {NOWHERE})", "record batches of the stream are stored"),
    fixed(f"(inode {NOWHERE})", "producers of the stream are stored"),
    fixed(f"(inode {NOWHERE})", "committed offsets of the stream are stored"),
    fixed("/", "the account of segment 1 counts"),
    fixed(f"(inode {NOWHERE}):t/0", "segment 1 does not list"),
)
async def stream_rows_of_nothing(world: World) -> None:
    _, bulk = next((k, b) for k, b in await world.batches() if b.extent is not None)
    await world.plant(
        {
            keys.topic(NOWHERE, b"t"): Topic(1, 1).pack(),
            keys.partition(NOWHERE, 1, 0): Partition().pack(),
            keys.batch(NOWHERE, 1, 0, 0): bulk.pack(),
            keys.producer(NOWHERE, 1, 0, 1): Producer(0, []).pack(),
            keys.group_offset(NOWHERE, b"g", 1, 0): GroupOffset(0).pack(),
        }
    )


@damage(kept("/docs/pipe", "it is no stream, and has topics"))
async def topics_of_a_pipe(world: World) -> None:
    await world.plant({keys.topic(world.inodes["/docs/pipe"], b"t"): Topic(1, 1).pack()})


def producer(name: str, text: str, value: Producer | bytes) -> None:
    async def plant(world: World) -> None:
        stream, topic = world.inodes["/stream"], world.topics["cars"]
        key = keys.producer(stream, topic, 0, world.producer)
        await world.get(key)
        await world.plant({key: value if isinstance(value, bytes) else value.pack()})

    about = f"what is remembered of producer 1 {text}"
    DAMAGES.append(Damage(f"producer {name}", plant, [kept(CARS_0, about)]))


producer("noise", "cannot be read", BAD)
producer("wrong types", "cannot be read", Producer(0, [[1, 2, 3]]))
producer("empty", "is more or less than it can be", Producer(0, []))
producer("negative", "has impossible sequences", Producer(0, [[-1, 0, 0, 0]]))
producer("gap", "has a gap in its sequences", Producer(0, [[0, 0, 0, 0], [2, 2, 2, 0]]))
producer("ahead", "goes up to offset 101, beyond the end at 7", Producer(0, [[0, 0, 100, 0]]))


@damage(kept(CARS_0, "group `readers` has an impossible committed offset: -5"))
async def impossible_offset(world: World) -> None:
    stream, topic = world.inodes["/stream"], world.topics["cars"]
    await world.plant({keys.group_offset(stream, b"readers", topic, 0): GroupOffset(-5).pack()})


@damage(kept("/stream:cars/9", "group `readers` has an offset in it, and it does not exist"))
async def offset_of_no_partition(world: World) -> None:
    stream, topic = world.inodes["/stream"], world.topics["cars"]
    await world.plant({keys.group_offset(stream, b"readers", topic, 9): GroupOffset(0).pack()})


@damage(kept("/stream", "there is data of a topic without a name: number 77"))
async def offset_of_no_topic(world: World) -> None:
    stream = world.inodes["/stream"]
    await world.plant({keys.group_offset(stream, b"readers", 77, 0): GroupOffset(0).pack()})


@damage(kept(CARS_0, "the committed offset of group `readers` cannot be read"))
async def unreadable_offset(world: World) -> None:
    stream, topic = world.inodes["/stream"], world.topics["cars"]
    await world.plant({keys.group_offset(stream, b"readers", topic, 0): BAD})


# ---------------------------------------------------------------- segments


@damage(fixed("/", "the account of segment 1 counts 5 bytes in use, and there are"))
async def wrong_account(world: World) -> None:
    await world.plant({keys.segment(1): Segment(10**6, 5).pack()})


@damage(fixed("/", "the account of segment 1 is missing"))
async def lost_account(world: World) -> None:
    await world.plant({keys.segment(1): None})


unreadable("account", lambda w: keys.segment(1), fixed("/", "the account of segment 1 cannot be"))


@damage(fixed("/", "segment 77 is missing, and nothing refers to it"))
async def account_of_nothing(world: World) -> None:
    await world.plant({keys.segment(77): Segment(10, 0).pack()})


@damage(fixed("/docs/packed", "segment 1 does not list that its byte 0 refers to it"))
async def unlisted(world: World) -> None:
    key, _ = await world.bulk_piece("/docs/packed")
    await world.plant({keys.reference(1, key): None})


@damage(
    fixed("/docs/small", "segment 1 lists that its byte 0 refers to it, and it does not"),
    fixed("/docs/large", "segment 88 lists that its byte 0 refers to it, and it does not"),
    fixed("/", "segment 1 lists that the unknown row"),
)
async def wrongly_listed(world: World) -> None:
    large, small = world.inodes["/docs/large"], world.inodes["/docs/small"]
    await world.plant(
        {
            keys.reference(1, keys.piece(small, 0)): b"",
            keys.reference(88, keys.piece(large, 0)): b"",
            keys.reference(1, b"??"): b"",
        }
    )


@damage(
    kept("/only", "its bytes from 0 to 131072 are lost: segment 2 is missing"),
    kept("/", "segment 2 is missing, and 1 places refer to it"),
)
async def lost_segment(world: World) -> None:
    await world.volume.storage.segments.seal()
    await world.create("/only")
    await world.write("/only", 0, noise(128 * KIB))
    await world.volume.sync()
    await world.close()
    await world.lose_segment(2)
    await world.open()


# ---------------------------------------------------------------- the change log, replies, volumes


@damage(kept("/", "commits 7 to 8 are missing in the change log"))
async def gap_in_the_log(world: World) -> None:
    await world.plant({keys.change(7): None, keys.change(8): None})


@damage(kept("/", "is missing in the change log"))
async def lost_last_change(world: World) -> None:
    await world.plant({keys.change(world.state.commit): None})


@damage(kept("/", "the change log has commit 100000"))
async def change_of_the_future(world: World) -> None:
    await world.plant({keys.change(100_000): ChangeRow(0, "ana", [], []).pack()})


@damage(kept("/", "the change log has commit 1, which was trimmed"))
async def change_of_the_past(world: World) -> None:
    await world.edit_state(oldest_change=2)


unreadable(
    "change", lambda w: keys.change(9), kept("/", "the change log cannot be read at commit 9")
)


@damage(kept("/", "the change log cannot be read at commit 9"))
async def strange_change(world: World) -> None:
    await world.plant({keys.change(9): ChangeRow(0, "ana", [["too", "short"]], []).pack()})


@damage(kept("/", "the stored reply of a client's slot 3 cannot be read"))
async def unreadable_reply(world: World) -> None:
    await world.plant({keys.reply(b"z" * 16, 3): BAD})


@damage(kept("/", "a stored reply has slot 5000"))
async def reply_of_no_slot(world: World) -> None:
    await world.plant({keys.reply(b"z" * 16, 5000): StoredReply(1, 0).pack()})


@damage(kept("/mounted", "is mounted here, and is not in the list of volumes"), reopen=False)
async def unlisted_volume(world: World) -> None:
    await world.plant({keys.volume(world.mounted): None})


@damage(kept("(volume {mounted_id})", "the volume is not mounted anywhere"), reopen=False)
async def unmounted_volume(world: World) -> None:
    key = keys.volume(world.mounted)
    record = VolumeRecord.unpack(await world.get(key))
    await world.plant({key: replace(record, junction=ROOT_INODE).pack()})


@damage(
    kept("(volume 500)", "the volume cannot be checked"),
    kept("(volume 500)", "the volume mounted as v has no data at all"),
    reopen=False,
)
async def volume_without_data(world: World) -> None:
    record = VolumeRecord(500, VolumePhase.READY, 1, ROOT_INODE, b"v", 499)
    await world.edit_state(next_inode=501)
    await world.plant({keys.volume(500): record.pack()})


@damage(kept("/mounted", "a record of volume 3 stands outside of the root volume"), reopen=False)
async def record_elsewhere(world: World) -> None:
    volume = await world.platform.acquire(world.mounted)
    engine = volume.storage.engine
    record = VolumeRecord(3, VolumePhase.READY, 1, 1, b"v")
    await engine.durable(await engine.commit({keys.volume(3): record.pack()}))
    world.platform.release(volume)


# ---------------------------------------------------------------- mirrors


async def _plant_in_mirror(world: World, rows: dict[bytes, bytes | None]) -> None:
    """In the volume at /mounted, which is said to be a mirror."""
    volume = await world.platform.acquire(world.mounted)
    mirror = {"path": "/v", "store": b"s", "volume": 7}
    settings = replace(volume.settings, mirror=mirror)
    engine = volume.storage.engine
    cursor = MirrorCursor(settings.history, volume.state.commit)
    batch = {keys.SETTINGS_KEY: settings.pack(), keys.MIRROR_CURSOR_KEY: cursor.pack(), **rows}
    await engine.durable(await engine.commit(batch))
    world.platform.release(volume)


@damage(kept("/mounted", "it cannot be read which commit of its source the mirror is"))
async def unreadable_cursor(world: World) -> None:
    await _plant_in_mirror(world, {keys.MIRROR_CURSOR_KEY: BAD})


@damage(kept("/mounted", "is said to be 1000 of its source"))
async def a_mirror_of_another_commit(world: World) -> None:
    volume = await world.platform.acquire(world.mounted)
    cursor = MirrorCursor(volume.settings.history, 1000)
    world.platform.release(volume)
    await _plant_in_mirror(world, {keys.MIRROR_CURSOR_KEY: cursor.pack()})


@damage(kept("/mounted", "of another line of commits"))
async def a_mirror_of_another_line(world: World) -> None:
    volume = await world.platform.acquire(world.mounted)
    cursor = MirrorCursor(b"another", volume.state.commit)
    world.platform.release(volume)
    await _plant_in_mirror(world, {keys.MIRROR_CURSOR_KEY: cursor.pack()})


@damage(
    fixed("/mounted", "the volume is said to be a copy under way"),
    fixed("/mounted", "belongs to nothing that there is"),
    fixed("/mounted", "cannot be read"),
    kept("/mounted", "a row of unknown meaning"),
)
async def what_a_mirror_should_not_have(world: World) -> None:
    volume = await world.platform.acquire(world.mounted)
    whose = source_id(b"s", 7, volume.settings.history)
    world.platform.release(volume)
    source = SourceExtent(Extent(1, 0, 10, 10, 0), whose)
    await _plant_in_mirror(
        world,
        {
            keys.MIRROR_COPY_KEY: b"",
            keys.MIRROR + b"what": b"",
            keys.mirrored(keys.piece(NOWHERE, 0)): source.pack(),
            keys.mirrored(keys.piece(NOWHERE, 1)): BAD,
        },
    )


@damage(
    kept("/", "the volume is said to be a mirror's commit, and is no mirror"),
)
async def a_cursor_of_no_mirror(world: World) -> None:
    await world.plant({keys.MIRROR_CURSOR_KEY: MirrorCursor(b"", 1).pack()})


# ---------------------------------------------------------------- every damage


def match(world: World, expected: Expected, finding: Finding) -> bool:
    path = expected.path
    for name, number in world.inodes.items():
        path = path.replace(f"{{{name[1:]}}}", str(number))
    path = path.replace("{mounted_id}", str(world.mounted))
    return (
        path == finding.path
        and expected.text in finding.problem
        and expected.repairable == finding.repairable
    )


def assert_found(world: World, expected: Sequence[Expected], findings: Sequence[Finding]) -> None:
    left = list(findings)
    for one in expected:
        found = next((f for f in left if match(world, one, f)), None)
        listed = "\n".join(map(str, findings))
        assert found is not None, f"not found: {one}\nbut:\n{listed}"
        left.remove(found)
    assert not left, "found too much:\n" + "\n".join(map(str, left))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.name.replace(" ", "_"))
@pytest.mark.allow_warnings(
    "cannot be repaired",
    "(cluster|gathering) cannot be read",
    "publication in",
    "snapshot.s record",
)
async def test_damage(damage: Damage, engine: str, tmp_path: Path) -> None:
    async with a_world(engine, tmp_path) as world:
        await damage.plant(world)
        if damage.reopen:
            await world.reopen()
        report = await check_platform(world.platform)
        assert_found(world, damage.expected, report.findings)
        repairable = [e for e in damage.expected if e.repairable]
        if not repairable:
            return
        report = await check_platform(world.platform, repair=True)
        assert_found(world, damage.expected, report.findings)
        assert all(f.repaired == f.repairable for f in report.findings), report.findings
        report = await check_platform(world.platform)
        assert_found(world, [e for e in damage.expected if not e.repairable], report.findings)


# ---------------------------------------------------------------- repairs keep what there is


async def test_what_was_lost_is_found_again(tmp_path: Path) -> None:
    """Things without a name, and what they hold, are in /lost+found."""
    async with a_world("memory", tmp_path) as world:
        docs = world.inodes["/docs"]
        await world.plant({keys.inode(docs): None, keys.entry(ROOT_INODE, b"docs"): None})
        await world.plant({keys.entry(ROOT_INODE, b"stream"): None})
        await world.reopen()
        report = await check_platform(world.platform, repair=True)
        assert all(f.repaired for f in report.findings)
        await assert_clean(world.platform)
        for path, old in (
            (f"/lost+found/inode-{docs}/deep/er/file", "/docs/deep/er/file"),
            (f"/lost+found/inode-{world.inodes['/stream']}", "/stream"),
        ):
            node = await world.platform.locate(path)
            assert node.inode.number == world.inodes[old]
            world.platform.release(node.volume)


async def test_a_repair_is_in_the_change_log(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        await world.edit("/docs/large", links=7)
        await check_volume(world.volume, repair=True)
        row = ChangeRow.unpack(await world.get(keys.change(world.state.commit)))
        ((verb, path, _, facts),) = row.events
        assert (verb, path) == ("repaired", "/docs/large")
        assert "it counts 7 names" in facts["problem"]


async def test_what_is_stored_wrongly_is_right_in_memory(tmp_path: Path) -> None:
    """Counts that a disk changed under a running server: those in memory are the right ones."""
    async with a_world("memory", tmp_path) as world:
        table, stream = world.inodes["/table"], world.inodes["/stream"]
        assert {table, stream} <= world.volume.statistics.keys()
        await world.plant(
            {keys.statistics(table): Statistics(77, 7).pack(), keys.statistics(stream): BAD}
        )
        await world.edit_state(used_bytes=1, entries=2)
        report = await check_volume(world.volume, repair=True)
        assert [f.path for f in report.findings] == ["/table", "/stream", "/", "/"]
        assert all(f.repaired for f in report.findings)
        await assert_clean(world.volume)
        await world.reopen()
        await assert_clean(world.volume)


async def test_what_is_wrong_in_memory_is_found(tmp_path: Path) -> None:
    """The next commit would store it."""
    async with a_world("memory", tmp_path) as world:
        world.volume.state.entries += 1
        world.volume.statistics[world.inodes["/table"]].count += 1
        report = await check_volume(world.volume, repair=True)
        assert [f.path for f in report.findings] == ["/table", "/"]
        await assert_clean(world.volume)


async def test_two_repairs_at_a_time_do_not_add_twice(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        await world.edit("/docs/large", used_bytes=3)
        await asyncio.gather(*(check_volume(world.volume, repair=True) for _ in range(3)))
        await assert_clean(world.platform)


@pytest.mark.allow_warnings("cannot be repaired")
async def test_a_repair_that_fails_is_not_marked(tmp_path: Path) -> None:
    """/lost+found cannot be made where a file is called so."""
    async with a_world("memory", tmp_path) as world:
        await world.create("/lost+found")
        await world.plant({keys.entry(world.inodes["/docs"], b"pipe"): None})
        report = await check_volume(world.volume, repair=True)
        assert {f.path: f.repaired for f in report.findings} == {
            "/docs": True,
            "/docs/pipe": False,
        }


# ---------------------------------------------------------------- half swept, and under load


@pytest.mark.parametrize("engine", ENGINES)
async def test_sweeps_under_way_are_no_damage(engine: str, tmp_path: Path) -> None:
    """Removed files, tables, streams and topics are swept in steps: clean after each of them."""
    async with a_world(engine, tmp_path) as world:
        await world.write("/docs/large", 0, noise(LARGE, 2))
        for path in ("/table", "/stream", "/docs/large", "/docs/small"):
            await world.remove(path)
            await assert_clean(world.volume)
        removed = [world.inodes[p] for p in ("/table", "/stream", "/docs/large", "/removed")]
        world.volume.opens.clear()
        for number in removed:
            done = False
            while not done:

                async def work(unit: Unit, number: int = number) -> bool:
                    return await sweep_one(unit, number)

                done = await world.volume.run(SYSTEM, work, durable=False)
                await assert_clean(world.volume)
        assert await orphans.run_once(world.volume) == 0


async def sweep_one(unit: Unit, number: int) -> bool:
    """One step of a sweep that takes single rows: True when the orphan is gone."""
    inode = await unit.find_inode(number)
    if inode is None:
        return True
    if inode.kind == Kind.FILE:
        done = await filemap.remove_some(unit, number, 1)
    elif inode.kind == Kind.TABLE:
        page = await unit.scan(*keys.prefix_range(keys.rows(number)), limit=1)
        for key, _ in page:
            unit.delete(key)
        done = not page
    else:
        done = await retention.remove_stream_data(unit, number, 1)
    if done:
        await orphans._sweep_some(unit, number)
    return done


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_deleted_topic_is_swept_in_steps(engine: str, tmp_path: Path) -> None:
    async with a_world(engine, tmp_path) as world:
        stream = world.inodes["/stream"]

        async def delete(unit: Unit) -> None:
            await streams.delete_topic(unit, stream, "cars")

        await world.volume.run(SYSTEM, delete, durable=False)
        done = False
        while not done:
            await assert_clean(world.volume)
            done = await world.volume.run(
                SYSTEM, lambda unit: retention.sweep_dropped(unit, stream, 1), durable=False
            )
        report = await assert_clean(world.volume)
        assert "batches" not in report.counts


class Load:
    """Writers of everything, and the background tasks, until told to stop."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.stopping = False
        self.rounds = 0
        self.files: list[str] = []

    async def run(self) -> None:
        while not self.stopping:
            self.rounds += 1
            await self.rng.choice((self.write, self.write, self.remove, self.rows, self.records))()
            await self.rng.choice((self.tidy, self.nothing))()
            await asyncio.sleep(0)

    async def write(self) -> None:
        world = self.world
        path = f"/empty/f{self.rng.randrange(40)}"
        if path not in self.files:
            await world.create(path)
            self.files.append(path)
        size = self.rng.choice((10, 5_000, 70_000, 200_000))
        data = noise(size, self.rng.randrange(1000))
        offset = self.rng.randrange(300_000)
        await files.write(
            world.volume, SYSTEM, world.inodes[path], offset, data, durable=self.rng.random() < 0.3
        )
        if self.rng.random() < 0.2:
            await files.truncate(
                world.volume, SYSTEM, world.inodes[path], self.rng.randrange(200_000), durable=False
            )

    async def remove(self) -> None:
        if self.files:
            path = self.files.pop(self.rng.randrange(len(self.files)))
            await self.world.remove(path, is_open=self.rng.random() < 0.5)

    async def rows(self) -> None:
        table = self.world.inodes["/table"]
        key = b"r%d" % self.rng.randrange(50)
        columns = msgpack.packb({"n": self.rng.randrange(10**9)})
        if self.rng.random() < 0.3:
            await self.world.volume.run(
                SYSTEM, lambda unit: tables.delete(unit, table, key), durable=False
            )
        else:
            await self.world.volume.run(
                SYSTEM, lambda unit: tables.put(unit, table, key, columns), durable=False
            )

    async def records(self) -> None:
        value = noise(self.rng.choice((10, 50_000)), self.rng.randrange(1000))
        await self.world.append("/stream", "cars", self.rng.randrange(2), build_batch([value]))

    async def tidy(self) -> None:
        volume = self.world.volume
        task = self.rng.randrange(5)
        if task == 0:
            volume.opens.clear()
            await orphans.run_once(volume)
        elif task == 1:
            await compaction.run_once(volume)
        elif task == 2:
            await retention.run_once(volume)
        elif task == 3:
            await volume.storage.segments.seal()
        else:
            await volume.writeback.run_once()

    async def nothing(self) -> None:
        pass


@pytest.mark.parametrize("engine", ENGINES)
async def test_no_false_alarm_under_load(engine: str, tmp_path: Path, seed: int) -> None:
    async with a_world(engine, tmp_path) as world:
        inode = await world.inode("/stream")
        settings = {**inode.settings, "bytes_max": 200_000}

        async def limit(unit: Unit) -> None:
            await namespace.set_attributes(unit, inode.number, settings=settings)

        await world.volume.run(SYSTEM, limit, durable=False)
        world.volume.settings.compression = "lz4"
        # Writers with request ids would need a slot each: one writes, the others keep house.
        load = Load(world, random.Random(seed))
        task = asyncio.create_task(load.run())
        try:
            for _ in range(25):
                await assert_clean(world.volume)
                before = load.rounds
                while load.rounds < before + 10:
                    await asyncio.sleep(0)
                    assert not task.done()
        finally:
            load.stopping = True
            await task
        await assert_clean(world.platform)


@pytest.mark.parametrize("engine", ENGINES)
async def test_repairs_under_load(engine: str, tmp_path: Path, seed: int) -> None:
    """Wrong counts of what is being changed all the time are put right all the same."""
    async with a_world(engine, tmp_path) as world:
        await world.close()
        await world.open()
        directory = await world.inode("/empty")
        await world.edit("/empty", size=directory.size + 40)
        table, stream = world.inodes["/table"], world.inodes["/stream"]
        for number in (table, stream):
            counts = Statistics.unpack(await world.get(keys.statistics(number)))
            counts.count += 1000
            counts.size_bytes += 10**6
            await world.plant({keys.statistics(number): counts.pack()})
        account = Segment.unpack(await world.get(keys.segment(1)))
        account.live_bytes += 10**6
        await world.plant({keys.segment(1): account.pack()})
        world.volume.state.used_bytes += 10**6
        world.volume.state.entries += 100
        await world.edit_state(
            used_bytes=world.volume.state.used_bytes, entries=world.volume.state.entries
        )
        load = Load(world, random.Random(seed))
        task = asyncio.create_task(load.run())
        try:
            report = await check_volume(world.volume, repair=True)
            assert not task.done()
        finally:
            load.stopping = True
            await task
        assert len(report.findings) >= 5
        assert all(f.repaired for f in report.findings), report.findings
        await assert_clean(world.platform)


async def test_others_have_their_turn_and_progress_is_told(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        rows: dict[bytes, bytes | None] = {keys.change(n): None for n in range(1, 3)}
        await world.plant(rows)
        await world.edit_state(oldest_change=3)
        await world.reopen()
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        told: list[tuple[str, int]] = []
        await check_platform(world.platform, progress=lambda s, n: told.append((s, n)))
        task.cancel()
        assert turns > 30
        assert [n for _, n in told] == sorted(n for _, n in told)
        stages = {stage for stage, _ in told}
        assert {"/: names", "/: rows of tables", "/mounted: files and directories"} <= stages


async def test_paths_begin_with_the_mount(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        volume = await world.platform.acquire(world.mounted)
        inode = await volume.find_inode(ROOT_INODE)
        assert inode is not None
        inode.size = 7
        engine = volume.storage.engine
        await engine.commit({keys.inode(ROOT_INODE): inode.pack(), keys.xattr(9, b"a"): b""})
        world.platform.release(volume)
        for report in (
            await check_platform(world.platform),
            await check_platform(world.platform, world.mounted),
        ):
            assert [f.path for f in report.findings] == ["/mounted", "/mounted/(inode 9)"]
        assert not (await check_platform(world.platform, ROOT_VOLUME)).findings


async def test_an_unknown_volume(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        with pytest.raises(NotFound):
            await check_platform(world.platform, 12345)


# ---------------------------------------------------------------- what the engine cannot read


class DamagedView(View):
    """Some rows cannot be read."""

    def __init__(self, view: View, damaged: set[bytes]) -> None:
        self._view = view
        self._damaged = damaged

    async def get(self, key: bytes) -> bytes | None:
        if key in self._damaged:
            raise Corrupt("database is damaged")
        return await self._view.get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [await self.get(key) for key in keys]

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int = 1000,
        size_bytes: int = 1 << 20,
    ) -> list[Pair]:
        page = await self._view.scan(
            start, end, reverse=reverse, limit=limit, size_bytes=size_bytes
        )
        if any(key in self._damaged for key, _ in page):
            raise Corrupt("database is damaged")
        return page

    def close(self) -> None:
        self._view.close()


UNREADABLE: list[tuple[str, Callable[[World], bytes], str]] = [
    ("state", lambda w: keys.STATE_KEY, "/"),
    ("inode", lambda w: keys.inode(w.inodes["/docs/large"]), "(inode {docs/large})"),
    ("directory", lambda w: keys.inode(w.inodes["/docs/deep"]), "(inode {docs/deep})"),
    ("root", lambda w: keys.inode(ROOT_INODE), "/"),
    ("table", lambda w: keys.inode(w.inodes["/table"]), "(inode {table})"),
    ("stream", lambda w: keys.inode(w.inodes["/stream"]), "(inode {stream})"),
    ("entry", lambda w: keys.entry(w.inodes["/docs"], b"large"), "/docs"),
    (
        "link",
        lambda w: keys.link(w.inodes["/docs/small"], w.inodes["/docs"], b"hard"),
        "/docs/small",
    ),
    ("xattr", lambda w: keys.xattr(w.inodes["/docs/small"], b"user.colour"), "/docs/small"),
    ("piece", lambda w: keys.piece(w.inodes["/docs/packed"], 0), "/docs/packed"),
    ("orphan", lambda w: keys.orphan(w.inodes["/removed"]), "/"),
    ("counts", lambda w: keys.statistics(w.inodes["/table"]), "/table"),
    ("row", lambda w: keys.row(w.inodes["/table"], b"k3"), "/table"),
    ("topic", lambda w: keys.topic(w.inodes["/stream"], b"cars"), "/stream"),
    ("partition", World.partition_key, "/stream"),
    ("batch", lambda w: keys.batch(w.inodes["/stream"], w.topics["cars"], 0, 2), "/stream"),
    ("producer", lambda w: keys.producer(w.inodes["/stream"], 1, 0, 1), "/stream"),
    ("offset", lambda w: keys.group_offset(w.inodes["/stream"], b"readers", 1, 0), "/stream"),
    ("account", lambda w: keys.segment(1), "/"),
    ("reference", lambda w: keys.reference(1, keys.piece(w.inodes["/docs/packed"], 0)), "/"),
    ("change", lambda w: keys.change(9), "/"),
    ("reply", lambda w: keys.reply(SESSION, 0), "/"),
    ("volume record", lambda w: keys.volume(w.mounted), "/"),
]


@pytest.mark.parametrize("case", UNREADABLE, ids=lambda case: case[0])
async def test_an_unreadable_row_is_one_finding(
    case: tuple[str, Callable[[World], bytes], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it is, and nothing that only follows from it; nothing is "repaired"."""
    _, key_of, path = case
    async with a_world("memory", tmp_path) as world:
        key = key_of(world)
        await world.get(key)
        view = await world.volume.storage.engine.view()

        async def damaged() -> View:
            return DamagedView(view, {key})

        monkeypatch.setattr(world.volume.storage.engine, "view", damaged)
        report = await check_volume(world.volume)
        assert_found(world, [kept(path, "cannot be read: database is damaged")], report.findings)


async def test_the_end_of_a_damage_is_found(tmp_path: Path) -> None:
    """What stands before and behind unreadable rows is read."""
    async with a_world("memory", tmp_path) as world:
        directory = world.inodes["/empty"]
        names = [b"%04d" % n for n in range(2000)]
        await world.plant({keys.entry(directory, name): b"x" * 17 for name in names})
        view = await world.volume.storage.engine.view()
        bad = {keys.entry(directory, name) for name in names[700:900]}
        told: list[bytes] = []

        async def on_unreadable(first: bytes, last: bytes, error: Corrupt) -> None:
            told.append(last)

        picture = Picture(DamagedView(view, bad), on_unreadable)
        found = [
            keys.name_of(key)
            async for page in picture.pages(*keys.prefix_range(keys.entries(directory)))
            for key, _ in page
        ]
        assert found == names[:700] + names[900:]
        assert [key.rstrip(b"\x00") for key in told] == [keys.entry(directory, names[899])]
        assert picture.is_unreadable(keys.entry(directory, names[800]))
        assert not picture.is_unreadable(keys.entry(directory, names[900]))
        view.close()


# ---------------------------------------------------------------- any noise


async def test_no_damage_makes_the_check_fail(tmp_path: Path, seed: int) -> None:
    """Noise in any rows: the check ends, and says what it found in words."""
    rng = random.Random(seed)
    for _ in range(60):
        async with a_world("memory", tmp_path) as world:
            rows = await everything(world)
            for key, _ in rng.sample(rows, 3):
                await world.plant({key: mangled(rng, rows, key)})
            report = await check_volume(world.volume)
            assert all(f.path and f.problem for f in report.findings)


async def everything(world: World) -> list[Pair]:
    engine = world.volume.storage.engine
    return [pair async for pair in scan_all(engine, b"N", b"\xff")] + [
        pair async for pair in scan_all(engine, b"", b"M")
    ]


def mangled(rng: random.Random, rows: list[Pair], key: bytes) -> bytes | None:
    """What could stand there instead."""
    value = dict(rows)[key]
    changed = bytearray(value or b"?")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    alike = rng.choice([v for k, v in rows if k[:1] == key[:1]])
    cut = value[: rng.randrange(len(value) + 1)]
    return rng.choice((None, bytes(changed), cut, rng.randbytes(rng.randrange(40)), alike))


# ---------------------------------------------------------------- what else holds segments


async def test_no_segment_goes_while_one_is_looked_at(tmp_path: Path) -> None:
    async with a_world("memory", tmp_path) as world:
        await world.remove("/docs/packed", is_open=False)
        await world.volume.storage.segments.seal()
        engine = world.volume.storage.engine
        references = await engine.scan(*keys.prefix_range(keys.references(1)))
        dead = {keys.segment(1): Segment(10, 0).pack()}
        await world.plant({**dead, **dict.fromkeys(key for key, _ in references)})
        with world.volume.holds.pin():
            assert await compaction.delete_dead(world.volume) == 0
        assert await compaction.delete_dead(world.volume) == 1


async def test_a_lost_account_does_not_cost_the_segment(tmp_path: Path) -> None:
    """On opening, segments that nothing names are dropped: the account alone is not enough."""
    async with a_world("memory", tmp_path) as world:
        await world.plant({keys.segment(1): None})
        await world.reopen()
        assert 1 in await world.volume.storage.segments.sizes()
