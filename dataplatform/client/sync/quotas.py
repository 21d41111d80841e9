"""Quotas of directories: set, looked at, removed. Synchronous."""

from __future__ import annotations

from ..paths import Path
from ..runtime import run
from ..values import Quota
from .base import Operations


class QuotaOperations(Operations):
    def set_quota(
        self,
        path: Path,
        *,
        quota_bytes: int | None = None,
        quota_entries: int | None = None,
        advisory_bytes: int | None = None,
        advisory_entries: int | None = None,
    ) -> Quota:
        """Limit what the directory may hold below it. None leaves a limit as it is, 0 removes it.

        Beyond `quota_bytes` and `quota_entries` writes raise Exhausted (errno EDQUOT); above
        `advisory_bytes` and `advisory_entries` one is only told. The first time, what the directory
        holds is counted: some seconds for a million things, while everybody goes on. Only for
        administrators (else Denied). Raises NotFound, Invalid (no directory, or a volume's root).
        Example: `dp.set_quota("/home/ana", quota_bytes=10 << 30)`
        """
        return run(
            self._aio.set_quota(
                path,
                quota_bytes=quota_bytes,
                quota_entries=quota_entries,
                advisory_bytes=advisory_bytes,
                advisory_entries=advisory_entries,
            )
        )

    def quota(self, path: Path) -> Quota:
        """The quota of a directory, or of a volume by its root. Raises NotFound if it has none."""
        return run(self._aio.quota(path))

    def quotas(self, path: Path = "/") -> list[Quota]:
        """The quotas of directories at and below `path`, in its volume."""
        return run(self._aio.quotas(path))

    def quotas_over(self) -> list[Quota]:
        """Volumes and directories above an advisory limit, of the volumes in use."""
        return run(self._aio.quotas_over())

    def remove_quota(self, path: Path) -> None:
        """Remove the quota of a directory. Raises NotFound if it has none."""
        run(self._aio.remove_quota(path))
