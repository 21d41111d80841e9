"""Copies of a source that take a mirror's place: their storage, from its making to its placing.

The mirror's record names the storage (`copy`), and says whether it is taking the mirror's place
right now (`is_placing`): then that is ended before the volume is opened again. What is in it is the
subject of `copying`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...base.errors import NotFound, PlatformError, Stale
from ...engine.base import Storage
from ...keyspace import keys
from ...keyspace.records import CopyCursor, MirrorCursor, VolumeRecord, VolumeSettings
from .. import encryption
from ..volumes import Volume, open_volume
from . import copying
from .apply import check_quota, cursor_of, whole
from .incoming import Counts
from .origins import check_source
from .seam import Described, Pin
from .statuses import Known

if TYPE_CHECKING:
    from ..platform import Platform

CHECKPOINT = "mirror-copy"
"""Of the mirror, from which a catch-up aside is cloned."""


class Asides:
    """Of one server."""

    def __init__(self, platform: Platform, lock: Callable[[int], asyncio.Lock]) -> None:
        """`lock`: of a mirror, held while its settings change or its storage is replaced."""
        self._platform = platform
        self._lock = lock

    async def make(self, volume_id: int, known: Known, clone: int | None = None) -> None:
        """Make a copy aside, or go on with the one that there is, and put it in the mirror's place.
        With `clone`, one that is made now begins with what the mirror is, which is that commit."""
        source, platform = known.source, self._platform
        assert source is not None, "it was asked before"
        async with await source.pin() as pin:
            async with self._platform.using(volume_id) as volume:
                if not volume.settings.mirror:
                    return
                cursor = await cursor_of(volume)
                check_source(volume.settings.mirror, pin.described, cursor)
                check_quota(volume.settings, pin.described)
                settings = volume.settings
                segment = max(await volume.storage.segments.sizes(), default=0)
                number = await self._aside(volume, clone)
            storage = await platform.storages.open(number, create=True)
            try:
                aside = await self._open_aside(volume_id, storage, settings, pin.described)
                await aside.storage.segments.skip(segment + copying.SEGMENTS_APART)
                await self._fill(aside, known, pin, cursor)
            except Stale:
                await whole(close_storage(storage))
                await whole(self.drop(volume_id))
                raise
            except BaseException:
                await whole(close_storage(storage))
                raise
        await whole(self._put_in_place(aside, number))
        known.copy = known.cursor = None

    async def _aside(self, volume: Volume, clone: int | None) -> int:
        """The storage of the copy: the one that there is, or a new one. Where a clone would go on
        reading from what it is going to replace, all is copied."""
        platform = self._platform
        record = await platform.catalog.find(volume.id)
        if record is None:
            raise NotFound("no such volume", volume=volume.id)
        if record.copy in await platform.storages.volumes():
            return record.copy
        number = await platform.catalog.new_number()

        def change(record: VolumeRecord) -> None:
            record.copy = number

        await platform.catalog.change_record(volume.id, change)
        if clone is not None and not platform.storages.clones_refer:
            engine = volume.storage.engine
            await engine.delete_checkpoint(CHECKPOINT)
            await engine.checkpoint(CHECKPOINT)
            try:
                await platform.storages.clone(volume.id, CHECKPOINT, number)
            finally:
                await engine.delete_checkpoint(CHECKPOINT)
        return number

    async def _open_aside(
        self, volume_id: int, storage: Storage, settings: VolumeSettings, described: Described
    ) -> Volume:
        """The storage of a copy as a volume that nobody else knows."""
        platform = self._platform
        is_new = await storage.engine.get(keys.SETTINGS_KEY) is None
        if not is_new:
            settings = await encryption.stored_settings(storage)
        readable, keyring = await encryption.with_keys(
            storage, settings, platform.masters, platform.entropy
        )
        if is_new:
            await copying.begin(readable, settings, described)
        return await open_volume(
            volume_id, readable, platform.clock, platform.entropy, keyring=keyring
        )

    async def _fill(
        self, aside: Volume, known: Known, pin: Pin, cursor: MirrorCursor | None
    ) -> None:
        copied = await copying.find_cursor(aside.storage)
        reached = await cursor_of(aside)
        if copied is None and cursor is not None and reached == cursor:
            await copying.begin_clone(aside.storage, pin.described, cursor.commit)

        def progress(cursor: CopyCursor, counts: Counts) -> None:
            known.copy = replace(cursor)

        copy = copying.Copy(aside, pin, progress)
        try:
            await copy.run()
        finally:
            known.shipped(copy.counts, self._platform.clock.monotonic())

    async def _put_in_place(self, aside: Volume, number: int) -> None:
        """The copy is whole: from now on it is the mirror."""
        platform, volume_id = self._platform, aside.id
        async with self._lock(volume_id), platform.still(volume_id) as volume:
            try:
                is_mirror = bool(volume.settings.mirror)
                if is_mirror:
                    await copying.settle(aside, volume)
            finally:
                await close_storage(aside.storage)
            if not is_mirror:
                return  # promoted meanwhile, which drops the copy
            await volume.close()
            platform.unplaced.add(volume_id)  # unless all of the following is done
            await platform.catalog.change_record(volume_id, _placing(number))
            await platform.storages.replace(volume_id, number)
            platform.unplaced.discard(volume_id)
        await platform.catalog.change_record(volume_id, _placing(0))

    async def recover(self, record: VolumeRecord) -> None:
        """Before a volume is opened for the first time: end a replacement that was cut short."""
        if not record.is_placing:
            return
        async with self._lock(record.volume):
            now = await self._platform.catalog.find(record.volume)
            if now is None or not now.is_placing:
                return
            with contextlib.suppress(NotFound):  # it was done
                await self._platform.storages.replace(record.volume, record.copy)
            self._platform.unplaced.discard(record.volume)
            await self._platform.catalog.change_record(record.volume, _placing(0))

    async def drop(self, volume_id: int) -> None:
        record = await self._platform.catalog.find(volume_id)
        if record is not None and record.copy:
            await self._platform.storages.remove(record.copy)
            await self._platform.catalog.change_record(volume_id, _placing(0))


def _placing(number: int) -> Callable[[VolumeRecord], None]:
    """In a mirror's record: this copy is taking its place; 0: there is no copy any more."""

    def change(record: VolumeRecord) -> None:
        record.copy, record.is_placing = number, bool(number)

    return change


async def close_storage(storage: Storage) -> None:
    for part in (storage.segments, storage.engine):
        with contextlib.suppress(PlatformError):
            await part.close()
