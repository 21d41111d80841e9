"""Keeping what is remembered exact: what the server tells, and what is done about it (D11).

One long poll is always with the server. What it tells is dropped here and in the kernel, and then
acknowledged; whoever made the change waits for that, so nobody sees an old answer after he was told
that the change is done. When the server cannot be reached, or has not answered for most of the
lease, everything is dropped: the server no longer waits for us.

Invariants: attributes and names are dropped before the acknowledgement, in the kernel too (by
having all names looked up again, if one cannot be dropped soon); a file's pages are dropped before
it can be opened with them. A file that is open here is promised, or held at the server: its last
name does not go unheard. What we wrote to a file is durable before a change of it by somebody else
is acknowledged: it is not sent again over what is newer when the server was restarted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import PlatformError, Unavailable
from dataplatform.client import syncing

from . import access
from .calls import WATCH
from .nodes import ROOT_NUMBER

if TYPE_CHECKING:
    from .door.notices import Notices
    from .mount import Mount
    from .nodes import Key, Node

logger = logging.getLogger(__name__)

WAIT_S = 2.0
"""Of one poll: a quiet server is heard from this often."""

SILENCE_S = 10.0
"""How much longer than that a server far away may be silent before its connection is given up. One
on this machine is only busy: another connection would not help."""

PAUSE_S = 0.1

LEASE_PART = 0.6
"""Of the lease: then nothing is believed any more. The server counts from a later moment."""

SETTLE_S = 0.005
"""How long an acknowledgement waits for names to be dropped one by one."""

REPORT_EVERY_S = 2.0
UNSYNCED_AGE_S = 2.0


class Watcher:
    """Runs until it is cancelled."""

    def __init__(self, mount: Mount, notices: Notices, *, resumes: bool = False) -> None:
        """`resumes`: a process before this one watched, and what it was promised is still in the
        kernel's caches."""
        self._mount = mount
        self._notices = notices
        self._calls = mount.calls
        self._acknowledged = 0
        self._must_begin = not resumes
        self._losses = 0  # how often
        self._lease_s = 0.0
        self._heard_s = 0.0  # when the last poll that was answered was sent
        self._reported_s = 0.0
        self._is_blind = not resumes  # nothing is believed, and nothing that is answered is kept
        notices.pages_begun = self._pages_begun
        notices.pages_done = self._pages_done
        self._calls.channel.on_lost = self.lose_all

    async def begin(self) -> None:
        """The first poll: from its answer on, the server tells. Waits for the server."""
        while not self._calls.is_told:
            try:
                await self._poll(0)
            except Unavailable:
                self.lose_all()
                await asyncio.sleep(PAUSE_S)

    async def run(self) -> None:
        beside = [
            asyncio.create_task(work)
            for work in (self._watch_lease(), self._sync_now_and_then(), self._tidy_up())
        ]
        try:
            while True:
                try:
                    await self._poll(WAIT_S)
                except Unavailable:
                    self.lose_all()
                    await asyncio.sleep(PAUSE_S)
                except PlatformError as error:
                    logger.warning("the server does not let us watch. reason=`%s`", error)
                    self.lose_all()
                    await asyncio.sleep(1.0)
                except Exception:
                    logger.exception("what the server told was not understood")
                    self.lose_all()
                    await asyncio.sleep(1.0)
        finally:
            for task in beside:
                task.cancel()

    async def _poll(self, wait_s: float) -> None:
        begins, losses = self._must_begin, self._losses
        if begins:
            await self._prepare()
        request = pb.WatchRequest(
            begin=begins,
            acknowledged=self._acknowledged,
            wait_ms=round(wait_s * 1000),
        )
        now_s = time.monotonic()
        if now_s - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now_s
            self._count()
            request.report.CopyFrom(self._mount.stats.report())
        channel = self._calls.channel
        silent_s = wait_s + SILENCE_S
        cut = asyncio.get_running_loop().call_later(silent_s, self._silent)
        before = channel.runtime.holder().connection
        try:
            reply, _ = await channel.call(WATCH, request, patience_s=0 if before else None)
        finally:
            cut.cancel()
        self._heard_s = now_s
        self._lease_s = reply.lease_ms / 1000
        if reply.everything:
            self.lose_all()
            return
        if self._losses != losses:
            return  # everything was lost meanwhile: begin anew
        if begins or not self._calls.is_told:
            self._calls.watch_began()
        self._is_blind = self._must_begin = False
        if reply.broken:
            await self._take_in(reply)
        self._acknowledged = reply.sequence

    def _silent(self) -> None:
        if not self._calls.channel.address.is_unix:
            logger.warning("the server is silent: its connection is given up")
            self._calls.channel.cut()

    async def _prepare(self) -> None:
        """Before the server forgets what it promised: what depends on being told."""
        for node in self._mount.nodes:
            if node.opens and not node.held and node.kind == pb.FILE:
                await self._hold(node)
        if self._calls.channel.unsynced.size_bytes:
            await _quietly(syncing.sync(self._calls.channel))

    # ---- what is told

    async def _take_in(self, reply: pb.WatchReply) -> None:
        mount, notices = self._mount, self._notices
        names = is_owner = False
        await self._sync_ours([(b.volume, b.inode) for b in reply.broken if b.data])
        for broken in reply.broken:
            key = broken.volume, broken.inode
            self._calls.told(key)
            number = mount.nodes.number_of(key)
            node = mount.nodes.find(number)
            if node is None and mount.is_successor and not broken.kept:
                node = mount.nodes.get(number)  # it may have been opened before we came
            if node is not None:
                if not broken.kept and mount.may_be_open(node):
                    await self._hold(node)
                if broken.kept:
                    mount.nodes.doubt(node, [name.encode() for name in broken.names])
                else:
                    mount.nodes.distrust(node)
                    if broken.unlinked and node.is_directory:
                        node.links = 0  # whoever has it open sees it as it was, but for this
            notices.attributes_changed(number)
            if broken.entries or not broken.kept:
                # Pages are kept under a promise only, whatever it was that ended it.
                notices.pages_changed(number)
            for name in broken.names:
                names = True
                notices.name_changed(number, name.encode())
            is_owner = is_owner or not (broken.data or broken.entries)
        if is_owner:
            # The kernel checks owner and mode of what it has, and looks anew only with a name.
            notices.epoch()
        if names and not await notices.settled(SETTLE_S):
            if notices.has_epoch:
                notices.epoch()
            else:
                await notices.settled(self._lease_s / 4)

    async def _sync_ours(self, changed: list[Key]) -> None:
        """Others wrote to these files: what we wrote before is with the server for good."""
        unsynced = self._calls.channel.unsynced
        if changed and unsynced.size_bytes:
            for key in unsynced.files().intersection(changed):
                await _quietly(syncing.sync(self._calls.channel, key))

    async def _hold(self, node: Node) -> None:
        try:
            await self._mount.hold(node)
        except PlatformError as error:
            if node.opens:
                logger.warning("an open file is gone. reason=`%s`", error)

    # ---- when nothing is told any more

    def lose_all(self) -> None:
        """Believe nothing: neither here nor in the kernel."""
        self._losses += 1
        self._must_begin = True
        if self._is_blind:
            return
        self._is_blind = True
        mount, notices = self._mount, self._notices
        self._calls.watch_ended()
        mount.rights.forget()
        mount.stats.reconnects += 1
        for node in mount.nodes:
            if node.view is not None and node.number != ROOT_NUMBER:
                continue
            was_promised = node.promised
            if not notices.has_epoch and node.entries:
                for name in node.entries:
                    notices.name_changed(node.number, name)
            mount.nodes.distrust(node)
            if was_promised:
                notices.attributes_changed(node.number)
                if node.opens:
                    notices.pages_changed(node.number)
        notices.epoch()

    async def _watch_lease(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            limit_s = self._lease_s * LEASE_PART
            if limit_s and time.monotonic() - self._heard_s > limit_s:
                self.lose_all()

    # ---- beside it

    def _pages_begun(self, number: int) -> None:
        node = self._mount.nodes.find(number)
        if node is not None:
            node.invalidating += 1

    def _pages_done(self, number: int) -> None:
        node = self._mount.nodes.find(number)
        if node is not None and node.invalidating:
            node.invalidating -= 1

    def _count(self) -> None:
        mount = self._mount
        mount.stats.dirty_bytes = mount.budget.used_bytes
        mount.stats.unsynced_bytes = self._calls.channel.unsynced.size_bytes
        mount.stats.open_files = len(mount.handles.files)

    async def _sync_now_and_then(self) -> None:
        """What a client keeps until it is durable is let go of soon after the writes: then a server
        that dies has less to be told again."""
        unsynced = self._calls.channel.unsynced
        mark = 0
        while True:
            await asyncio.sleep(UNSYNCED_AGE_S)
            oldest = unsynced.oldest
            if oldest is not None and oldest <= mark:
                await _quietly(syncing.sync(self._calls.channel))
            mark = unsynced.mark()

    async def _tidy_up(self) -> None:
        while True:
            await asyncio.sleep(access.EVERY_S)
            await self._mount.access.run_once()
            if self._mount.near is not None:
                self._mount.near.let_go()


async def _quietly(work: Any) -> None:
    try:
        await work
    except PlatformError as error:
        logger.debug("not synced yet. reason=`%s`", error)
