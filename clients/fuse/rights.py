"""Whom a request is for, and what they may.

The server decides (docs/decisions/0010). A mount whose principal may speak for others names the
program's user in every change, and leaves modes to the kernel: it has the attributes, and they are
exact. What an expression decides the kernel knows nothing of: its modes are widened for these verbs
(`Node.governed`), and whoever opens it is asked about here. A mount of anybody else has one
principal for all that programs do, and the server judges that: here everything is widened and asked
about.

A verdict is kept for VERDICT_S at most, and not beyond a change that the server tells of.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import stat
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from dataplatform.api import platform_pb2 as pb

from .calls import ACCESS, CALLER
from .operations.callers import Caller

if TYPE_CHECKING:
    from .calls import Calls
    from .nodes import Node

VERDICT_S = 0.5
"""Half of the second within which a right that is withdrawn has to be gone."""

VERDICTS_MAX = 10_000

T = TypeVar("T")

READ, WRITE, EXECUTE, LIST = 1, 2, 4, 8
CREATE, DELETE, ADMIN = 16, 32, 64
PRODUCE, CONSUME, TOPICS = 128, 256, 512
ALL = 1023
"""Verbs as bits: those of `core/access/verbs.py`, which the mount cannot import."""

_READING = READ | LIST | CONSUME
_CHANGING = CREATE | DELETE
_SHARING_W = _CHANGING | WRITE
_WRITING = WRITE | CREATE | DELETE | PRODUCE | TOPICS


class Rights:
    """Of one mount."""

    def __init__(self, calls: Calls, *, speaks: bool, uid: int, local_uid: int) -> None:
        """`speaks`: for others. If not, what belongs to the principal's `uid` is shown as the
        property of who mounted it (`local_uid`): the kernel lets owners change modes and times."""
        self._calls = calls
        self.speaks = speaks
        self._uid = uid
        self._local_uid = local_uid
        self._ours = frozenset((0, local_uid)) if speaks else frozenset()
        """Whose requests are the mount's own: root's, and those of who mounted it."""
        self.turn = 0  # moves when nothing is sure any more of what is governed
        self._verdicts: dict[tuple[int, int, Caller], tuple[bool, float]] = {}
        self._groups: dict[int, tuple[tuple[int, ...], float]] = {}  # by thread

    # ---- what the kernel sees

    def take(self, node: Node, governed: int) -> None:
        """The server said which verbs of the node it decides by expressions."""
        node.governed_turn = self.turn
        if self.speaks:
            node.governed = governed
            return
        node.governed = ALL
        if node.uid == self._uid:
            node.uid = self._local_uid

    def stored_uid(self, uid: int) -> int:
        return self._uid if uid == self._local_uid and not self.speaks else uid

    # ---- for whom

    def name(self, target: pb.Target, caller: Caller, *governed: int) -> None:
        """Say whom the request is for, where expressions decide these verbs of what it is about.
        Groups are looked for where an expression may ask."""
        if not self.speaks or caller.uid in self._ours:
            return
        target.caller.uid = caller.uid
        target.caller.gids.append(caller.gid)
        target.caller.modes_checked = all(map(_has_kernel_checked, governed))
        if any(governed):
            target.caller.gids.extend(self._groups_of(caller))

    def _groups_of(self, caller: Caller) -> tuple[int, ...]:
        """The supplementary groups of the thread that asks, at most VERDICT_S old."""
        now_s = time.monotonic()
        known = self._groups.get(caller.pid)
        if known is not None and known[1] > now_s:
            return known[0]
        if len(self._groups) >= VERDICTS_MAX:
            self._groups.clear()
        found = _read_groups(caller.pid)
        self._groups[caller.pid] = found, now_s + VERDICT_S
        return found

    async def on_behalf(self, caller: Caller, work: Coroutine[Any, Any, T]) -> T:
        """Requests of a view: the caller's, modes included, for the kernel knows no columns."""
        if not self.speaks or caller.uid in self._ours:
            return await work
        for_whom = pb.Caller(uid=caller.uid, gids=[caller.gid, *self._groups_of(caller)])
        context = contextvars.copy_context()
        context.run(CALLER.set, for_whom)
        return await asyncio.get_running_loop().create_task(work, context=context)

    # ---- what they may

    def is_passage_asked(self, directory: Node) -> bool:
        """Whether passing through it is to be asked about at every step: by programs of several
        users, which the kernel cannot tell apart there."""
        return self.speaks and bool(directory.governed & EXECUTE)

    async def ask(self, node: Node, verbs: int, caller: Caller) -> None:
        """EACCES unless the caller may do what an expression decides among these verbs; about all
        others the kernel was asked."""
        asked = node.asked & verbs
        if asked:
            await self.check(node, asked, caller)

    async def check(self, node: Node, verb: int, caller: Caller) -> None:
        """EACCES unless the caller may do all of that."""
        if caller.uid in self._ours:
            return
        who = caller._replace(key=0)
        key = node.number, verb, who
        now_s = time.monotonic()
        known = self._verdicts.get(key)
        if known is None or known[1] < now_s:
            mark = self._calls.mark()
            request = pb.AccessRequest(
                target=pb.Target(volume=node.volume, inode=node.inode), verbs=verb
            )
            self.name(request.target, caller, ALL)
            if node.is_snapshot and request.target.HasField("caller"):
                request.target.caller.modes_checked = False  # not those of today
            reply = await self._calls.call(ACCESS, request)
            known = reply.allowed == verb, now_s + VERDICT_S
            if not self._calls.told_since(node.key, mark):
                if len(self._verdicts) >= VERDICTS_MAX:
                    self._verdicts.clear()
                self._verdicts[key] = known
        if not known[0]:
            raise OSError(errno.EACCES, "not allowed")

    def forget(self) -> None:
        """Rules may be others: nothing is believed any more."""
        self.turn += 1
        self._verdicts.clear()


def _has_kernel_checked(governed: int) -> bool:
    """Whether what no expression decides was checked by the kernel. Verbs of a directory share its
    w: where that is widened for one of them, the server has to look at the mode for the others."""
    return not governed & _CHANGING or governed & _SHARING_W == _SHARING_W


def widened(mode: int, governed: int, *, is_directory: bool, is_view: bool = False) -> int:
    """The mode that the kernel is shown, which lets pass whatever the server decides: only for
    verbs that are asked of such a thing, since a file inherits `create` and `list`, too. Of what
    is in a view the server is asked everything, modes included.

    A file is never shown as executable that is not so for anybody: its mode says what it is.
    """
    reading = _READING if is_view else LIST if is_directory else READ
    writing = _WRITING if is_view else _CHANGING if is_directory else WRITE
    if governed & reading:
        mode |= 0o444
    if governed & writing:
        mode |= 0o222
    if governed & EXECUTE and (is_directory or mode & 0o111):
        mode |= 0o111
    if governed & DELETE:
        mode &= ~stat.S_ISVTX
    return mode


def _read_groups(thread: int) -> tuple[int, ...]:
    """proc_pid_status(5). None of a thread in another pid namespace, or of one that has ended."""
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Groups:"):
                    return tuple(int(word) for word in line.split()[1:])
    except (OSError, ValueError):
        pass
    return ()
