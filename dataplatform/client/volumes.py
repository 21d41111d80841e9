"""Volumes: made, listed, changed, removed."""

from __future__ import annotations

from datetime import timedelta

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from .base import Operations
from .messages import build
from .paths import Path, target
from .tables import milliseconds
from .values import VolumeInfo

CREATE = METHODS["Volumes.Create"]
LIST = METHODS["Volumes.List"]
INFO = METHODS["Volumes.Info"]
SET = METHODS["Volumes.Set"]
REMOVE = METHODS["Volumes.Remove"]
ROTATE_KEY = METHODS["Volumes.RotateKey"]
LOCK = METHODS["Volumes.Lock"]
UNLOCK = METHODS["Volumes.Unlock"]


def volume_of(volume: pb.VolumeInfo) -> VolumeInfo:
    return VolumeInfo(
        path=volume.path,
        volume=volume.volume,
        commit=volume.commit,
        used_bytes=volume.used_bytes,
        entries=volume.entries,
        quota_bytes=volume.settings.quota_bytes or None,
        compression=volume.settings.compression or "lz4",
        iops=volume.settings.iops or None,
        bandwidth=volume.settings.bandwidth or None,
        created_ns=volume.created_ns,
        open=volume.open,
        state=volume.state,
        quota_entries=volume.settings.quota_entries or None,
        advisory_bytes=volume.settings.advisory_bytes or None,
        advisory_entries=volume.settings.advisory_entries or None,
        audit=volume.settings.audit or "off",
        audit_ttl=timedelta(milliseconds=volume.settings.audit_ttl_ms) or None,
        audit_topic=volume.audit_topic or None,
        changes_keep=timedelta(milliseconds=volume.settings.changes_ttl_ms),
        changes_rows=volume.settings.changes_rows,
        encryption=volume.encryption.cipher,
        key=volume.encryption.key,
        master=volume.encryption.master,
        rotating=volume.encryption.rotating,
        snapshots=volume.snapshots,
        mirror=volume.mirror,
    )


class VolumeOperations(Operations):
    async def create_volume(
        self,
        path: Path,
        *,
        quota_bytes: int | None = None,
        compression: str | None = None,
        quota_entries: int | None = None,
        advisory_bytes: int | None = None,
        advisory_entries: int | None = None,
        iops: int | None = None,
        bandwidth: int | None = None,
        audit: str | None = None,
        audit_ttl: timedelta | None = None,
        changes_keep: timedelta | None = None,
        changes_rows: int | None = None,
        encrypt: bool = False,
    ) -> VolumeInfo:
        request = build(
            pb.VolumeRequest,
            target=target(path),
            settings=build(
                pb.VolumeSettings,
                quota_bytes=quota_bytes,
                compression=compression,
                quota_entries=quota_entries,
                advisory_bytes=advisory_bytes,
                advisory_entries=advisory_entries,
                iops=iops,
                bandwidth=bandwidth,
                audit=audit,
                audit_ttl_ms=None if audit_ttl is None else _ttl_ms(audit_ttl),
                changes_ttl_ms=None if changes_keep is None else _ttl_ms(changes_keep),
                changes_rows=changes_rows,
                encrypt=encrypt or None,
            ),
        )
        return volume_of((await self._channel.call(CREATE, request))[0])

    async def volumes(self) -> list[VolumeInfo]:
        reply, _ = await self._channel.call(LIST, pb.Empty())
        return [volume_of(volume) for volume in reply.volumes]

    async def volume_info(self, path: Path) -> VolumeInfo:
        request = build(pb.VolumeRequest, target=target(path))
        return volume_of((await self._channel.call(INFO, request))[0])

    async def set_volume(
        self,
        path: Path,
        *,
        quota_bytes: int | None = None,
        compression: str | None = None,
        quota_entries: int | None = None,
        advisory_bytes: int | None = None,
        advisory_entries: int | None = None,
        iops: int | None = None,
        bandwidth: int | None = None,
        audit: str | None = None,
        audit_ttl: timedelta | None = None,
        changes_keep: timedelta | None = None,
        changes_rows: int | None = None,
    ) -> VolumeInfo:
        request = build(
            pb.VolumeRequest,
            target=target(path),
            settings=build(
                pb.VolumeSettings,
                quota_bytes=quota_bytes,
                compression=compression,
                quota_entries=quota_entries,
                advisory_bytes=advisory_bytes,
                advisory_entries=advisory_entries,
                iops=iops,
                bandwidth=bandwidth,
                audit=audit,
                audit_ttl_ms=None if audit_ttl is None else _ttl_ms(audit_ttl),
                changes_ttl_ms=None if changes_keep is None else _ttl_ms(changes_keep),
                changes_rows=changes_rows,
            ),
        )
        return volume_of((await self._channel.call(SET, request))[0])

    async def rotate_volume_key(self, path: Path) -> VolumeInfo:
        request = build(pb.VolumeRequest, target=target(path))
        return volume_of((await self._channel.call(ROTATE_KEY, request))[0])

    async def lock_volume(self, path: Path) -> VolumeInfo:
        request = build(pb.VolumeRequest, target=target(path))
        return volume_of((await self._channel.call(LOCK, request))[0])

    async def unlock_volume(self, path: Path) -> VolumeInfo:
        request = build(pb.VolumeRequest, target=target(path))
        return volume_of((await self._channel.call(UNLOCK, request))[0])

    async def remove_volume(self, path: Path, *, recursive: bool = False) -> None:
        request = build(pb.VolumeRequest, target=target(path), recursive=recursive)
        await self._channel.call(REMOVE, request)


def _ttl_ms(ttl: timedelta) -> int:
    return milliseconds(ttl) if ttl else 0
