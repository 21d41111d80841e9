"""Directories and what stands in them: create, link, remove, rename, attributes.

Every function works on a unit and is one POSIX call's meaning (POSIX.1-2017, System Interfaces);
errors carry that call's errno. Names are checked here, so no door can bring in a bad one.

Who may do it is asked here, too, of the unit (`Unit.allow`), in the order in which Linux asks: a
name is looked up, which needs search permission; what the call is about is there or not; then the
right to change the directory; then what the things are. Further rules of owners are in `owners`.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import (
    Conflict,
    Corrupt,
    Exhausted,
    Exists,
    Invalid,
    NotFound,
    Unavailable,
)
from ..base.limits import (
    LINK_COUNT_MAX,
    PATH_BYTES_MAX,
    XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)
from ..engine.base import Pair
from ..keyspace import keys
from ..keyspace.records import ROOT_INODE, Entry, Inode, Kind
from . import filemap, globalnames, owners, quota_directories
from .access.verbs import REACH, Verb
from .audit import protection
from .paths import check_new_name
from .units import Unit

DISPOSE_PIECES_MAX = 16
"""A file of at most this many pieces goes with its last name; a larger one is swept later."""

LEVELS_MAX = 100_000
"""Directories above one another before they must be a circle, which only damage makes."""

_KINDS = frozenset(Kind)
_REMEMBERED = frozenset((Kind.DIRECTORY, Kind.TABLE, Kind.STREAM))
"""Kinds whose paths a volume remembers (`volumes.Paths`)."""

_DEVICES = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


@dataclass(slots=True)
class Attributes:
    """What a new inode starts with."""

    kind: int
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    symlink: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    volume: int = 0  # a junction to this volume
    number: int = 0  # of the inode, taken before; 0: the next one


# ---------------------------------------------------------------- looking


async def find_entry(unit: Unit, directory: int, name: bytes) -> Entry | None:
    value = await unit.get(keys.entry(directory, name))
    return Entry.unpack(value) if value is not None else None


async def look_up(unit: Unit, directory: int, name: bytes) -> Entry | None:
    """As `find_entry`, for whom the unit acts for. DENIED."""
    value = await unit.get(keys.entry(directory, name))
    found = Entry.unpack(value) if value is not None else None
    if not unit.request.principal.is_free:
        target = (found.volume or unit.volume.id, found.inode) if found is not None else None
        if found is not None and found.volume:
            target = (found.volume, ROOT_INODE)
        await unit.search(directory, target)
    return found


async def entry(unit: Unit, directory: int, name: bytes) -> Entry:
    found = await look_up(unit, directory, name)
    if found is None:
        await directory_of(unit, directory)  # says so if it is none, or gone
        raise NotFound("no such file or directory", path=await _path(unit, directory, name))
    return found


async def directory_of(unit: Unit, number: int) -> Inode:
    """The inode of a directory that still has a name."""
    inode = await unit.find_inode(number)
    if inode is None or inode.links == 0:
        raise NotFound("the directory is gone", inode=number)
    if inode.kind != Kind.DIRECTORY:
        raise Invalid("not a directory", path=await unit.path_of(number), errno=errno.ENOTDIR)
    return inode


async def _path(unit: Unit, directory: int, name: bytes) -> str:
    base = await unit.path_of(directory)
    return f"{base.rstrip('/')}/{name.decode('utf-8', 'replace')}"


# ---------------------------------------------------------------- creating


async def create(
    unit: Unit, directory: int, name: str, new: Attributes, *, exist_ok: bool = False
) -> int:
    """A new inode under a new name; its number. EXISTS, unless `exist_ok` and of the same kind."""
    encoded = check_new_name(name)
    found = await look_up(unit, directory, encoded)
    if found is not None:
        if exist_ok and found.kind == new.kind:
            return found.inode
        raise Exists(
            "the name exists already",
            path=await _path(unit, directory, encoded),
            kind=Kind(found.kind).word,
        )
    inode, _ = await add(unit, directory, encoded, new)
    return inode.number


async def add(unit: Unit, directory: int, name: bytes, new: Attributes) -> tuple[Inode, str]:
    """A new inode under a name that is known to be free, and its path."""
    protection.check_name(unit, directory, name)
    globalnames.check_name(unit, directory, name)
    parent = await directory_of(unit, directory)
    if not unit.request.principal.is_free:
        await owners.check_create(unit, parent, new.kind, is_junction=bool(new.volume))
    return await add_unasked(unit, parent, name, new)


async def add_unasked(unit: Unit, parent: Inode, name: bytes, new: Attributes) -> tuple[Inode, str]:
    """As `add`, for whom may do it as was found before."""
    directory = parent.number
    inode = _new_inode(unit, parent, name, new)
    if new.volume:
        unit.move_rules()
    unit.put(keys.entry(directory, name), Entry(inode.number, inode.kind, inode.volume).pack())
    unit.save(inode)
    _grow(unit, parent, 1, 1 if inode.is_directory else 0)
    unit.used(0, 1, directory)
    path = await _path(unit, directory, name)
    unit.event("created", path, inode.kind)
    return inode, path


def _new_inode(unit: Unit, parent: Inode, name: bytes, new: Attributes) -> Inode:
    if new.kind not in _KINDS:
        raise Invalid("unknown kind of node", kind=new.kind)
    symlink = new.symlink.encode("utf-8", "surrogateescape")
    if (new.kind == Kind.SYMLINK) != bool(symlink) or b"\x00" in symlink:
        raise Invalid(
            "a symbolic link has a target without NUL, nothing else has one",
            target=new.symlink,
            errno=errno.ENOENT if new.kind == Kind.SYMLINK and not symlink else None,
        )
    if len(symlink) >= PATH_BYTES_MAX:
        raise Invalid(
            "the target of a symbolic link is too long",
            bytes_max=PATH_BYTES_MAX - 1,
            errno=errno.ENAMETOOLONG,
        )
    if new.rdev and new.kind not in _DEVICES:
        raise Invalid("only devices have a device number", kind=Kind(new.kind).word)
    is_directory = new.kind == Kind.DIRECTORY
    mode = new.mode & 0o7777
    uid, gid, mode = owners.of_new(unit.request.principal, parent, mode, new)
    return Inode(
        number=new.number or unit.new_inode_number(),
        kind=new.kind,
        mode=0o777 if new.kind == Kind.SYMLINK else mode,
        uid=uid,
        gid=gid,
        links=2 if is_directory else 1,
        size=len(symlink),
        atime_ns=unit.now_ns,
        mtime_ns=unit.now_ns,
        ctime_ns=unit.now_ns,
        birth_ns=unit.now_ns,
        rdev=new.rdev,
        parent=parent.number,
        name=name,
        symlink=symlink,
        volume=new.volume,
        settings=new.settings,
    )


def _grow(unit: Unit, directory: Inode, entries: int, subdirectories: int) -> None:
    directory.size += entries
    directory.links += subdirectories
    directory.mtime_ns = directory.ctime_ns = unit.now_ns
    unit.save(directory)


async def make_parents(unit: Unit, directory: int, names: tuple[str, ...], new: Attributes) -> int:
    """Directories along `names`, those missing made; the number of the last. UNAVAILABLE if a
    volume was mounted on the way since the names were looked for."""
    for name in names:
        found = await find_entry(unit, directory, name.encode("utf-8", "surrogateescape"))
        if found is not None and found.volume:
            raise Unavailable("a volume was mounted here just now: try again", name=name)
        directory = await create(
            unit,
            directory,
            name,
            Attributes(Kind.DIRECTORY, 0o755, new.uid, new.gid),
            exist_ok=True,
        )
    return directory


async def link(unit: Unit, number: int, directory: int, name: str) -> int:
    """Another name for a file (link(2)); EPERM for directories, tables and streams."""
    encoded = check_new_name(name)
    protection.check_name(unit, directory, encoded)
    globalnames.check_name(unit, directory, encoded)
    inode = await unit.inode(number)
    await unit.allow(inode, REACH)
    if await look_up(unit, directory, encoded) is not None:
        raise Exists("the name exists already", path=await _path(unit, directory, encoded))
    parent = await directory_of(unit, directory)
    await unit.allow(parent, Verb.CREATE)
    if inode.kind in (Kind.DIRECTORY, Kind.TABLE, Kind.STREAM):
        raise Invalid(
            f"a {Kind(inode.kind).word} has exactly one name",
            path=await unit.path_of(number),
            errno=errno.EPERM,
        )
    if inode.links == 0:
        raise NotFound("the file has no name any more", inode=number)
    if inode.links >= LINK_COUNT_MAX:
        raise Exhausted("too many links", links_max=LINK_COUNT_MAX, errno=errno.EMLINK)
    await owners.check_same_rules(unit, inode, parent)
    existing = await unit.path_of(number)
    unit.put(keys.entry(directory, encoded), Entry(number, inode.kind).pack())
    unit.put(keys.link(number, directory, encoded), b"")
    inode.links += 1
    inode.ctime_ns = unit.now_ns
    unit.save(inode)
    _grow(unit, parent, 1, 0)
    path = await _path(unit, directory, encoded)
    unit.event("linked", path, inode.kind, existing=existing)
    return number


# ---------------------------------------------------------------- removing


async def remove(
    unit: Unit,
    directory: int,
    name: bytes,
    *,
    directories: bool = True,
    others: bool = True,
    missing_ok: bool = False,
    keep_open: bool = False,
) -> int:
    """Take a name away (unlink(2), rmdir(2)). What has no name left is disposed of.

    A directory must be empty; a table or stream goes with all that it holds. With `keep_open` the
    caller has it open: if this was its last name, the inode's number, which is to be opened when
    the unit commits; else 0.
    """
    found = await look_up(unit, directory, name)
    if found is None:
        if missing_ok:
            return 0
        found = await entry(unit, directory, name)  # says what is missing
    if not unit.request.principal.is_free:
        await owners.check_delete(unit, directory, found)
    path = await _path(unit, directory, name)
    if found.volume:
        raise Invalid(
            "a volume is mounted here: use `dp volume remove`", path=path, errno=errno.EBUSY
        )
    is_directory = found.kind == Kind.DIRECTORY
    if is_directory and not directories:
        raise Invalid("is a directory", path=path, errno=errno.EISDIR)
    if not is_directory and not others:
        raise Invalid("not a directory", path=path, errno=errno.ENOTDIR)
    if is_directory:
        await _check_empty(unit, found.inode, path)
    return await take_away(unit, directory, name, found, path, keep_open=keep_open)


async def take_away(
    unit: Unit,
    directory: int,
    name: bytes,
    found: Entry,
    path: str = "",
    *,
    keep_open: bool = False,
) -> int:
    """As `remove`, of what may be removed as was found before; its path, if that was, too."""
    path = path or await _path(unit, directory, name)
    kept = await _drop_name(unit, directory, name, found, keep_open=keep_open)
    unit.event("removed", path, found.kind)
    return kept


async def remove_junction(unit: Unit, directory: int, name: bytes) -> None:
    """Take away the name where a volume was mounted, for whom may do it as was found before."""
    found = await find_entry(unit, directory, name) or await entry(unit, directory, name)
    if not found.volume:
        raise Invalid("no volume is mounted here", path=await _path(unit, directory, name))
    path = await _path(unit, directory, name)
    await _drop_name(unit, directory, name, found)
    unit.event("volume removed", path, found.kind)


async def _check_empty(unit: Unit, number: int, path: str) -> None:
    start, end = keys.prefix_range(keys.entries(number))
    if await unit.scan(start, end, limit=1):
        raise Invalid("the directory is not empty", path=path, errno=errno.ENOTEMPTY)


async def _drop_name(
    unit: Unit, directory: int, name: bytes, found: Entry, *, keep_open: bool = False
) -> int:
    """Delete the entry, and the inode if that was its last name: then, with `keep_open`, its
    number; else 0."""
    is_directory = found.kind == Kind.DIRECTORY
    unit.lost_name = found.inode
    if unit.charges and found.kind in _REMEMBERED:
        await unit.volume.quotas.resolve(unit)
    if is_directory:
        unit.volume.quotas.remove(unit, found.inode)
        unit.on_commit(unit.volume.guard.directory_gone)
    unit.delete(keys.entry(directory, name))
    _grow(unit, await unit.inode(directory), -1, -1 if is_directory else 0)
    inode = await unit.inode(found.inode)
    protection.check_inode(unit, inode)
    if is_directory:
        inode.links = 0
    else:
        inode.links -= 1
        if inode.links:
            await _forget_link(unit, inode, directory, name)
    inode.ctime_ns = unit.now_ns
    unit.save(inode)
    if inode.links == 0:
        await _dispose(unit, inode, keep_open=keep_open)
    if found.kind in (Kind.DIRECTORY, Kind.TABLE, Kind.STREAM):
        _forget_paths(unit)
    return inode.number if keep_open and inode.links == 0 else 0


def _forget_paths(unit: Unit) -> None:
    unit.renames = True
    unit.volume.paths.clear()
    paths = unit.volume.paths
    unit.on_commit(lambda _: paths.clear())


async def _forget_link(unit: Unit, inode: Inode, directory: int, name: bytes) -> None:
    """One of several names of a file goes: if it was the first, another takes its place."""
    if (inode.parent, inode.name) != (directory, name):
        unit.delete(keys.link(inode.number, directory, name))
        return
    start, end = keys.prefix_range(keys.links(inode.number))
    others = await unit.scan(start, end, limit=1)
    if not others:
        raise NotFound("a further link is not recorded: run dp check", inode=inode.number)
    key: bytes = others[0][0]
    inode.parent, inode.name = int.from_bytes(key[9:17], "big"), key[17:]
    quotas = unit.volume.quotas
    if quotas.directories:  # it counts there now, whether there is room or not
        places = (directory, inode.parent)
        await quotas.relocate(unit, places, inode.used_bytes, 1, (inode.number,), forced=True)
    unit.delete(key)


async def _dispose(unit: Unit, inode: Inode, *, keep_open: bool) -> None:
    """An inode lost its last name: its usage ends now, its bytes go now or in the sweep."""
    await _uncount(unit, inode)
    unit.unlinked.append(inode.number)
    swept = keep_open or inode.kind in (Kind.TABLE, Kind.STREAM)
    if not swept and not _is_held(unit, inode):
        unit.volume.lane.going.add(inode.number)  # nobody begins to hold it from here on
        if await _remove_small(unit, inode):
            return
    unit.put(keys.orphan(inode.number), unit.now_ns.to_bytes(8, "big"))


def _is_held(unit: Unit, inode: Inode) -> bool:
    """Whether somebody has the inode open, or may have: a file of which others keep a copy, until
    they have acknowledged that it lost its name; one that was there before a restart."""
    volume = unit.volume
    if inode.number in volume.opens:
        return True
    if inode.kind != Kind.FILE:
        return False
    promises = volume.promises
    return volume.may_be_missed(inode.number) or (
        bool(promises) and promises.is_kept(volume.id, inode.number, unit.request.caller)
    )


async def _uncount(unit: Unit, inode: Inode) -> None:
    statistics = (
        await unit.statistics(inode.number) if inode.kind in (Kind.TABLE, Kind.STREAM) else None
    )
    size_bytes = statistics.size_bytes if statistics else inode.used_bytes
    unit.used(-size_bytes, -1, inode.parent)


async def _remove_small(unit: Unit, inode: Inode) -> bool:
    """Remove a small inode with everything it has; False if it is not small."""
    number = inode.number
    if inode.kind == Kind.FILE and inode.used_bytes:
        start, end = keys.prefix_range(keys.pieces(number))
        page: list[Pair] = await unit.scan(start, end, limit=DISPOSE_PIECES_MAX + 1)
        if len(page) > DISPOSE_PIECES_MAX:
            return False
        await filemap.remove(unit, page)
    await remove_xattrs(unit, number)
    unit.forget(number)
    return True


async def remove_xattrs(unit: Unit, number: int) -> None:
    start, end = keys.prefix_range(keys.xattrs(number))
    while page := await unit.scan(start, end):
        for key, _ in page:
            unit.delete(key)


# ---------------------------------------------------------------- renaming


async def rename(
    unit: Unit,
    old_directory: int,
    old_name: bytes,
    new_directory: int,
    new_name: str,
    *,
    no_replace: bool = False,
    exchange: bool = False,
    keep_open: bool = False,
) -> int:
    """rename(2) with RENAME_NOREPLACE and RENAME_EXCHANGE (Linux renameat2). What is replaced is
    removed: see `remove` for `keep_open` and the result."""
    if no_replace and exchange:
        raise Invalid("no-replace and exchange exclude each other")
    target_name = check_new_name(new_name)
    protection.check_name(unit, new_directory, target_name)
    globalnames.check_name(unit, new_directory, target_name)
    source = await entry(unit, old_directory, old_name)
    old_path = await _path(unit, old_directory, old_name)
    new_path = await _path(unit, new_directory, target_name)
    parent = await directory_of(unit, new_directory)
    target = await look_up(unit, new_directory, target_name)
    if target is None and exchange:
        raise NotFound("nothing to exchange with", path=new_path)
    if target is not None and no_replace:
        raise Exists("the name exists already", path=new_path)
    if (old_directory, old_name) == (new_directory, target_name):
        return 0
    if target is not None and target.inode == source.inode:
        return 0  # two names of one file: POSIX says to do nothing
    if await _is_within(unit, new_directory, source):
        raise Invalid("a directory cannot be moved into itself", path=old_path)
    if target is not None and await _is_within(unit, old_directory, target):
        raise Invalid(
            "the directory in the way holds what is renamed",
            path=new_path,
            errno=errno.EINVAL if exchange else errno.ENOTEMPTY,
        )
    is_asked = not unit.request.principal.is_free
    if is_asked:
        await owners.check_rename(unit, old_directory, source, parent, target)
    if target is not None and not exchange:
        _check_kinds(source, target, new_path)
    if is_asked:
        await owners.check_move(unit, old_directory, source, parent, target if exchange else None)
    if unit.volume.quotas.directories:
        places = (old_directory, new_directory)
        await quota_directories.move(unit, source, old_name, places)
        if exchange and target is not None:
            await quota_directories.move(unit, target, target_name, places[::-1])
    kept = 0
    if exchange:
        assert target is not None
        await _exchange(
            unit, (old_directory, old_name, source), (new_directory, target_name, target)
        )
    else:
        if target is not None:
            kept = await _replace(
                unit, new_directory, target_name, target, new_path, keep_open=keep_open
            )
        await _move(unit, source, old_directory, old_name, new_directory, target_name)
    if _REMEMBERED & {source.kind, target.kind if target is not None else source.kind}:
        _forget_paths(unit)
    unit.renamed = source.inode
    verb = "exchanged" if exchange else "renamed"
    unit.event(verb, new_path, source.kind, **{"from": old_path, "to": new_path})
    return kept


async def _is_within(unit: Unit, directory: int, entry: Entry) -> bool:
    """Whether the directory is what the entry names, or lies below it."""
    if entry.kind != Kind.DIRECTORY:
        return False
    current = directory
    for _ in range(LEVELS_MAX):
        if not current or current == entry.inode:
            return current == entry.inode
        current = (await unit.inode(current)).parent
    raise Corrupt("the directories above run in a circle: run dp check", inode=directory)


async def _replace(
    unit: Unit,
    directory: int,
    name: bytes,
    target: Entry,
    path: str,
    *,
    keep_open: bool,
) -> int:
    """Make room for what may take the target's place."""
    if target.kind == Kind.DIRECTORY:
        await _check_empty(unit, target.inode, path)
    return await _drop_name(unit, directory, name, target, keep_open=keep_open)


def _check_kinds(source: Entry, target: Entry, path: str) -> None:
    """The target's rules of rename(2)."""
    if target.volume:
        raise Invalid("a volume is mounted here", path=path, errno=errno.EBUSY)
    if target.kind == Kind.DIRECTORY:
        if source.kind != Kind.DIRECTORY:
            raise Invalid("is a directory", path=path, errno=errno.EISDIR)
    elif source.kind == Kind.DIRECTORY:
        raise Invalid("not a directory", path=path, errno=errno.ENOTDIR)
    elif target.kind != source.kind and {target.kind, source.kind} & {Kind.TABLE, Kind.STREAM}:
        raise Invalid(
            f"a {Kind(source.kind).word} cannot replace a {Kind(target.kind).word}", path=path
        )


async def _move(
    unit: Unit, moved: Entry, old_directory: int, old_name: bytes, directory: int, name: bytes
) -> None:
    unit.delete(keys.entry(old_directory, old_name))
    unit.put(keys.entry(directory, name), moved.pack())
    subdirectories = 1 if moved.kind == Kind.DIRECTORY else 0
    _grow(unit, await unit.inode(old_directory), -1, -subdirectories)
    _grow(unit, await unit.inode(directory), 1, subdirectories)
    await _rename_link(unit, moved.inode, (old_directory, old_name), (directory, name))


async def _come_under_rules(unit: Unit, old: int, new: int) -> None:
    """A directory comes from one directory into another: so do the rules for all below it."""
    guard, volume = unit.volume.guard, unit.volume
    left = await guard.rules_of(volume, old, unit=unit)
    if left != await guard.rules_of(volume, new, unit=unit):
        unit.change_rules()


async def _exchange(
    unit: Unit, first: tuple[int, bytes, Entry], second: tuple[int, bytes, Entry]
) -> None:
    (a_directory, a_name, a), (b_directory, b_name, b) = first, second
    unit.put(keys.entry(a_directory, a_name), b.pack())
    unit.put(keys.entry(b_directory, b_name), a.pack())
    delta = (b.kind == Kind.DIRECTORY) - (a.kind == Kind.DIRECTORY)
    _grow(unit, await unit.inode(a_directory), 0, delta)
    _grow(unit, await unit.inode(b_directory), 0, -delta)
    await _rename_link(unit, a.inode, (a_directory, a_name), (b_directory, b_name))
    await _rename_link(unit, b.inode, (b_directory, b_name), (a_directory, a_name))


async def swap(
    unit: Unit, old_directory: int, old_name: bytes, directory: int, name: bytes
) -> Inode:
    """What has the first name gets the second, and what has that one, if anything, the first;
    whatever they are, whoever asks, and without an event. The inode that moved."""
    moved = await find_entry(unit, old_directory, old_name)
    if moved is None:
        raise NotFound("no such file or directory", path=await _path(unit, directory, name))
    there = await find_entry(unit, directory, name)
    if unit.volume.quotas.directories:
        places = (old_directory, directory)
        await quota_directories.move(unit, moved, old_name, places)
        if there is not None:
            await quota_directories.move(unit, there, name, places[::-1])
    if there is None:
        await _move(unit, moved, old_directory, old_name, directory, name)
    else:
        await _exchange(unit, (old_directory, old_name, moved), (directory, name, there))
    _forget_paths(unit)
    unit.renamed = moved.inode
    unit.change_rules()
    return await unit.inode(moved.inode)


async def drop(unit: Unit, directory: int, name: bytes) -> None:
    """Take a name away, whatever it is of, for whom may do it as was found before; no event."""
    found = await find_entry(unit, directory, name)
    if found is not None:
        await _drop_name(unit, directory, name, found)


async def _rename_link(
    unit: Unit, number: int, old: tuple[int, bytes], new: tuple[int, bytes]
) -> None:
    """The inode's record of its own name follows."""
    inode = await unit.inode(number)
    protection.check_inode(unit, inode)
    if inode.is_directory and old[0] != new[0]:
        await _come_under_rules(unit, old[0], new[0])
        unit.move_rules()
    if (inode.parent, inode.name) == old:
        inode.parent, inode.name = new
    else:
        unit.delete(keys.link(number, *old))
        unit.put(keys.link(number, *new), b"")
    inode.ctime_ns = unit.now_ns
    unit.save(inode)


# ---------------------------------------------------------------- attributes


async def set_attributes(
    unit: Unit,
    number: int,
    *,
    mode: int | None = None,
    uid: int | None = None,
    gid: int | None = None,
    atime_ns: int | None = None,
    mtime_ns: int | None = None,
    now: bool = False,
    settings: dict[str, Any] | None = None,
) -> None:
    """chmod(2), chown(2), utimensat(2), and the settings of tables and streams. With `now`, both
    times are the present one, which whoever may write may set."""
    inode = await unit.inode(number)
    protection.check_inode(unit, inode)
    if now:
        atime_ns = mtime_ns = unit.now_ns
    if not unit.request.principal.is_free:
        has_more = settings or (not now and (atime_ns, mtime_ns) != (None, None))
        await owners.check_attributes(
            unit, inode, mode=mode, uid=uid, gid=gid, now=now, others=bool(has_more)
        )
        if mode is not None:
            mode = owners.mode_for(unit.request.principal, inode, mode)
    facts: dict[str, Any] = {}
    if inode.is_directory and (mode, uid, gid) != (None, None, None):
        unit.move_rules()
    if mode is not None:
        inode.mode = mode & 0o7777
        facts["mode"] = f"{inode.mode:04o}"
    if uid is not None or gid is not None:
        inode.uid = inode.uid if uid is None else uid
        inode.gid = inode.gid if gid is None else gid
        if inode.kind not in (Kind.DIRECTORY, Kind.TABLE, Kind.STREAM) and mode is None:
            inode.mode &= ~owners.set_ids(inode.mode)
        facts["owner"] = f"{inode.uid}:{inode.gid}"
    if atime_ns is not None:
        inode.atime_ns = atime_ns
    if mtime_ns is not None:
        inode.mtime_ns = mtime_ns
    if settings:
        if inode.kind not in (Kind.TABLE, Kind.STREAM):
            raise Invalid("only tables and streams have settings", kind=Kind(inode.kind).word)
        inode.settings = {**inode.settings, **settings}
        facts["settings"] = settings
    inode.ctime_ns = unit.now_ns
    unit.save(inode)
    unit.event("attributes set", await unit.path_of(number), inode.kind, **facts)


async def accessed(unit: Unit, number: int, atime_ns: int) -> None:
    """It was read at this time. Neither its version nor its other times move, and whoever keeps it
    in a cache is not told: a time of access is worth less than that."""
    unit.told_before = True  # caches are not told, a mirror is
    inode = await unit.inode(number)
    if not unit.request.principal.is_free:
        verb = Verb.LIST if inode.is_directory else Verb.READ
        await unit.allow(inode, verb, opened=True)
        atime_ns = min(atime_ns, unit.now_ns)
    inode.atime_ns = max(inode.atime_ns, atime_ns)
    unit.touch(inode)


async def set_xattr(
    unit: Unit, number: int, name: str, value: bytes, *, create_only: bool, replace_only: bool
) -> None:
    """setxattr(2)."""
    encoded = _check_xattr_name(name)
    await owners.check_xattr(unit, await unit.inode(number), name)
    if len(value) > XATTR_VALUE_BYTES_MAX:
        raise Exhausted(
            "an extended attribute is too large", bytes_max=XATTR_VALUE_BYTES_MAX, errno=errno.E2BIG
        )
    key = keys.xattr(number, encoded)
    exists = await unit.get(key) is not None
    if exists and create_only:
        raise Exists("the attribute exists already", name=name)
    if not exists and replace_only:
        raise NotFound("no such attribute", name=name, errno=errno.ENODATA)
    unit.put(key, value)
    await _touch(unit, number, "attribute set", name)


async def remove_xattr(unit: Unit, number: int, name: str) -> None:
    key = keys.xattr(number, _check_xattr_name(name))
    await owners.check_xattr(unit, await unit.inode(number), name)
    if await unit.get(key) is None:
        raise NotFound("no such attribute", name=name, errno=errno.ENODATA)
    unit.delete(key)
    await _touch(unit, number, "attribute removed", name)


async def _touch(unit: Unit, number: int, verb: str, name: str) -> None:
    inode = await unit.inode(number)
    protection.check_inode(unit, inode)
    inode.ctime_ns = unit.now_ns
    unit.save(inode)
    unit.event(verb, await unit.path_of(number), inode.kind, name=name)


def _check_xattr_name(name: str) -> bytes:
    encoded = name.encode("utf-8", "surrogateescape")
    if not encoded or len(encoded) > XATTR_NAME_BYTES_MAX or b"\x00" in encoded:
        raise Invalid(
            "an attribute's name has 1 to 255 bytes and no NUL", name=name, errno=errno.ERANGE
        )
    return encoded


async def expect_version(unit: Unit, number: int | None, version: int, path: str) -> None:
    """A transaction's precondition on a node: this version, or 0 for not being there."""
    inode = await unit.find_inode(number) if number else None
    if inode is not None:
        await unit.allow(inode, REACH)
    found = inode.version if inode is not None else 0
    if found != version:
        raise Conflict("a node has changed", path=path, version=found, expected=version)
