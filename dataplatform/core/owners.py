"""What POSIX and Linux let owners and others do with names and attributes, asked in a unit.

Each function raises DENIED with the errno that Linux gives (chmod(2), chown(2), utimensat(2),
unlink(2), rename(2), link(2)), unless the unit's principal may. An expression for `create`,
`delete` or `admin` takes the place of what the mode and the owner say (D10).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..base.errors import Denied
from ..keyspace.records import Entry, Inode, Kind
from .access.rules import rules_below
from .access.verbs import REACH, Verb
from .principals import NOBODY, OVERFLOW, Principal
from .units import Unit

if TYPE_CHECKING:
    from .namespace import Attributes

STICKY = 0o1000
SET_UID = 0o4000
SET_GID = 0o2000
GROUP_EXECUTE = 0o010

_READ_AND_WRITE = Verb.READ | Verb.WRITE
_DEVICES = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


def is_member(principal: Principal, gid: int) -> bool:
    return (
        principal.modes_checked or gid in principal.gids or (gid == principal.gid and gid != NOBODY)
    )


def owns(principal: Principal, inode: Inode) -> bool:
    """Nobody in particular owns nothing."""
    return principal.modes_checked or (principal.uid == inode.uid and inode.uid != NOBODY)


# ---------------------------------------------------------------- what is new


async def check_create(unit: Unit, parent: Inode, kind: int, *, is_junction: bool) -> None:
    """A new name in a directory whose names may be searched."""
    principal = unit.request.principal
    if principal.is_free:
        return
    await unit.allow(parent, Verb.CREATE)
    if is_junction:
        await unit.allow(parent, Verb.ADMIN, code=errno.EPERM)
    if kind in _DEVICES and not principal.is_trusted:  # mknod(2)
        raise _not_permitted(principal, "only an administrator may make a device")


def of_new(
    principal: Principal, parent: Inode, mode: int, wanted: Attributes
) -> tuple[int, int, int]:
    """(uid, gid, mode) of a new inode: administrators choose, others own what they make. A
    set-group-id directory gives its group on, as on Linux and BSD."""
    uid, gid = wanted.uid, wanted.gid
    if not principal.is_trusted:
        uid = principal.uid if principal.uid != NOBODY else OVERFLOW
        gid = principal.gid if principal.gid != NOBODY else OVERFLOW
    if parent.mode & SET_GID:
        gid = parent.gid
        if wanted.kind == Kind.DIRECTORY:
            mode |= SET_GID
        elif mode & GROUP_EXECUTE and not (principal.is_trusted or is_member(principal, gid)):
            mode &= ~SET_GID  # Linux, mode_strip_sgid
    return uid, gid, mode


def opened_by_maker(principal: Principal, inode: Inode) -> Verb:
    """For what a file is open when its maker opens it as it is made: for everything, whatever its
    mode (open(2), O_CREAT). Of a file that was there before: for what is asked each time."""
    is_fresh = inode.birth_ns == inode.ctime_ns
    return _READ_AND_WRITE if is_fresh and owns(principal, inode) else REACH


async def check_same_rules(unit: Unit, inode: Inode, parent: Inode) -> None:
    """A file lies under one set of rules, so a name under other ones is refused, as AFS and XFS
    projects do (EXDEV), unless the principal has `admin` of it, so could change the rules."""
    principal = unit.request.principal
    if principal.is_free:
        return
    guard, volume = unit.volume.guard, unit.volume
    here = await guard.rules_of(volume, inode, unit=unit)
    above = await guard.rules_of(volume, parent, unit=unit)
    if here == rules_below(volume.id, inode, above):
        return
    if not await guard.may(principal, volume, inode, Verb.ADMIN, unit=unit):
        raise Denied(
            "other access rules hold there: only who has `admin` of it may bring it there; copy it",
            path=await unit.path_of(inode.number),
            user=principal.name,
            errno=errno.EXDEV,
        )


# ---------------------------------------------------------------- names


async def check_delete(unit: Unit, directory: int, entry: Entry) -> None:
    """The name of something may be taken away: EACCES without write permission of the directory,
    EPERM in a sticky one for what others own (unlink(2), rmdir(2))."""
    principal = unit.request.principal
    if principal.is_free:
        return
    parent, victim = await unit.inode(directory), await unit.inode(entry.inode)
    guard, volume = unit.volume.guard, unit.volume
    above = await guard.rules_of(volume, parent, unit=unit)
    if Verb.DELETE.word in rules_below(volume.id, victim, above):
        # The rule that holds for this very name, whichever other names a file has.
        await guard.allow_below(principal, volume, victim, directory, Verb.DELETE, unit)
        return
    await unit.allow(parent, Verb.DELETE)
    is_owner = owns(principal, victim) or owns(principal, parent)
    if parent.mode & STICKY and not (is_owner or principal.is_trusted):
        raise _not_permitted(
            principal,
            "the directory is sticky: only the owner may take this name away",
            path=await unit.path_of(directory),
        )


async def check_rename(
    unit: Unit, old_directory: int, source: Entry, parent: Inode, target: Entry | None
) -> None:
    """rename(2): the old name goes, the new one comes, what is in the way goes."""
    if unit.request.principal.is_free:
        return
    await check_delete(unit, old_directory, source)
    if target is None:
        await unit.allow(parent, Verb.CREATE)
    else:
        await check_delete(unit, parent.number, target)


async def check_move(
    unit: Unit, old_directory: int, source: Entry, parent: Inode, exchanged: Entry | None
) -> None:
    """A directory that changes its parent is written to itself, as its `..` does."""
    if unit.request.principal.is_free or old_directory == parent.number:
        return
    moves = [(source, parent)]
    if exchanged is not None:
        moves.append((exchanged, await unit.inode(old_directory)))
    for entry, to in moves:
        inode = await unit.inode(entry.inode)
        if entry.kind == Kind.DIRECTORY:
            await unit.allow(inode, Verb.CREATE)
        await check_same_rules(unit, inode, to)


async def check_put_over(unit: Unit, directory: int, entry: Entry, old: Inode) -> bool:
    """A whole file is put in the place of another one: whether that one's owner and mode stay.

    An expression for `write` decides alone. Else whoever may write to it may put; and so may who
    may take the name away and make it anew, which gives them what they make (rename(2)).
    """
    principal = unit.request.principal
    if principal.is_free:
        return False
    if entry.kind == Kind.FILE:
        guard, volume = unit.volume.guard, unit.volume
        rules = await guard.rules_of(volume, old, unit=unit)
        if Verb.WRITE.word in rules:
            await unit.allow(old, Verb.WRITE)
            return not principal.is_trusted
        if await guard.may(principal, volume, old, Verb.WRITE, unit=unit):
            return not principal.is_trusted
    await check_delete(unit, directory, entry)
    await unit.allow(directory, Verb.CREATE)
    return False


async def check_fill(unit: Unit, inode: Inode) -> None:
    """Whoever makes a file may write it, whatever its mode (open(2)), but not against a rule."""
    principal = unit.request.principal
    if principal.is_free:
        return
    rules = await unit.volume.guard.rules_of(unit.volume, inode, unit=unit)
    if Verb.WRITE.word in rules:
        await unit.allow(inode, Verb.WRITE)


# ---------------------------------------------------------------- attributes


async def check_attributes(
    unit: Unit,
    inode: Inode,
    *,
    mode: int | None,
    uid: int | None,
    gid: int | None,
    now: bool,
    others: bool,
) -> None:
    """EPERM for what belongs to the owner; EACCES for setting the time to now without write
    permission. `others`: explicit times, settings. What has no name any more is there for whoever
    has it open (fchmod(2), futimens(2))."""
    principal = unit.request.principal
    if principal.is_free:
        return
    await unit.allow(inode, REACH, opened=True)
    if uid is not None and uid != inode.uid and not principal.is_trusted:
        raise _not_permitted(
            principal,
            "only an administrator may give things to others",
            path=await unit.path_of(inode.number),
        )
    nameless = not inode.links
    if mode is not None or uid is not None or gid is not None or others:
        await unit.allow(inode, Verb.ADMIN, opened=nameless, code=errno.EPERM)
    elif now and not owns(principal, inode):
        await unit.allow(inode, Verb.WRITE, opened=nameless)
    if gid is None or gid == inode.gid or principal.is_trusted or is_member(principal, gid):
        return
    raise _not_permitted(
        principal,
        "you are no member of this group",
        path=await unit.path_of(inode.number),
        gid=gid,
    )


def mode_for(principal: Principal, inode: Inode, mode: int) -> int:
    """What chmod(2) by somebody leaves of a mode: nobody makes a program run as somebody else, or
    with a group of which they are no member."""
    if principal.is_trusted:
        return mode
    if not is_member(principal, inode.gid):
        mode &= ~SET_GID
    if not owns(principal, inode):  # has `admin` by an expression
        mode &= ~SET_UID
    return mode


def set_ids(mode: int) -> int:
    """What chown(2), and a write, clear of a file's mode on Linux: set-user-id always, set-group-id
    if it means that, which it does with the group's execute bit only."""
    return SET_UID | SET_GID if mode & GROUP_EXECUTE else SET_UID


def loses_set_ids(principal: Principal, inode: Inode) -> bool:
    """Whether a write by somebody changes a file's mode."""
    return bool(inode.mode & (SET_UID | SET_GID)) and not principal.is_trusted


def written(principal: Principal, inode: Inode) -> None:
    """Somebody else than an administrator wrote to a file: set-id bits go (Linux,
    file_remove_privs)."""
    if loses_set_ids(principal, inode):
        inode.mode &= ~set_ids(inode.mode)


async def check_xattr(unit: Unit, inode: Inode, name: str) -> None:
    """setxattr(2): `user.` attributes are written by who may write, all others (`trusted.`,
    `security.`, `system.`) by administrators (xattr(7)). What has no name any more is there for
    whoever has it open (fsetxattr(2))."""
    principal = unit.request.principal
    if principal.is_free:
        return
    nameless = not inode.links
    if not is_for_users(name) and not principal.is_trusted:
        await unit.allow(inode, REACH, opened=nameless)
        raise _not_permitted(
            principal,
            "only an administrator may set this attribute",
            path=await unit.path_of(inode.number),
            name=name,
        )
    await unit.allow(inode, Verb.WRITE, opened=nameless)
    if inode.is_directory and inode.mode & STICKY:
        await unit.allow(inode, Verb.ADMIN, code=errno.EPERM)


def is_for_users(name: str) -> bool:
    return not name.startswith(("trusted.", "security.", "system."))


def _not_permitted(principal: Principal, message: str, **facts: object) -> Denied:
    return Denied(message, **facts, user=principal.name, errno=errno.EPERM)
