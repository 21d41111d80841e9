"""Volumes: subtrees with a commit line, quota and settings of their own. Synchronous."""

from __future__ import annotations

from datetime import timedelta

from ..paths import Path
from ..runtime import run
from ..values import VolumeInfo
from .base import Operations


class VolumeOperations(Operations):
    def create_volume(
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
        """Create a volume, mounted at `path`, whose parent directory must exist.

        `quota_bytes`, `quota_entries`: what goes beyond raises Exhausted (None: no quota); above
        `advisory_bytes` and `advisory_entries` one is only told. `compression` of its files: "lz4"
        or "none". `iops`, `bandwidth`: requests and bytes per second, beyond which requests wait
        (0: no limit). `audit`: what the stream /.audit is told, "off", "changes" (and denials) or
        "all" (reads, too); `audit_ttl`: how long that is kept, a day or longer (0: for ever).
        `changes_keep`, `changes_rows`: how far `changes` goes back (0: a week, a million commits).
        `encrypt`: with a key of its own, which a master key of the server's wraps. Raises Exists,
        NotFound.
        """
        return run(
            self._aio.create_volume(
                path,
                quota_bytes=quota_bytes,
                compression=compression,
                quota_entries=quota_entries,
                advisory_bytes=advisory_bytes,
                advisory_entries=advisory_entries,
                iops=iops,
                bandwidth=bandwidth,
                audit=audit,
                audit_ttl=audit_ttl,
                changes_keep=changes_keep,
                changes_rows=changes_rows,
                encrypt=encrypt,
            )
        )

    def volumes(self) -> list[VolumeInfo]:
        """Every volume, the root volume first."""
        return run(self._aio.volumes())

    def volume_info(self, path: Path) -> VolumeInfo:
        """The volume that holds `path`."""
        return run(self._aio.volume_info(path))

    def set_volume(
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
        """Change settings; None leaves one as it is. 0 removes a limit."""
        return run(
            self._aio.set_volume(
                path,
                quota_bytes=quota_bytes,
                compression=compression,
                quota_entries=quota_entries,
                advisory_bytes=advisory_bytes,
                advisory_entries=advisory_entries,
                iops=iops,
                bandwidth=bandwidth,
                audit=audit,
                audit_ttl=audit_ttl,
                changes_keep=changes_keep,
                changes_rows=changes_rows,
            )
        )

    def rotate_volume_key(self, path: Path) -> VolumeInfo:
        """Give an encrypted volume a new key; what is stored is encrypted anew in the background:
        see `VolumeInfo.rotating`. Raises Conflict while the last rotation is not done."""
        return run(self._aio.rotate_volume_key(path))

    def lock_volume(self, path: Path) -> VolumeInfo:
        """Close an encrypted volume: nobody can read it until `unlock_volume`."""
        return run(self._aio.lock_volume(path))

    def unlock_volume(self, path: Path) -> VolumeInfo:
        """Let a locked volume be opened again."""
        return run(self._aio.unlock_volume(path))

    def remove_volume(self, path: Path, *, recursive: bool = False) -> None:
        """Remove the volume at `path`. Unless `recursive`, it must be empty (else Invalid)."""
        run(self._aio.remove_volume(path, recursive=recursive))
