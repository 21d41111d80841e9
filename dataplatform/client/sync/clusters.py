"""Other clusters, whose paths are `/NAME/…` here. Synchronous."""

from __future__ import annotations

from ..runtime import run
from ..values import ClusterInfo
from .base import Operations


class ClusterOperations(Operations):
    """For administrators; Denied for others."""

    def add_cluster(
        self,
        name: str,
        address: str,
        *,
        token: str | None = None,
        ca: str | None = None,
        access: str | None = None,
        insecure: bool = False,
        unchecked: bool = False,
    ) -> ClusterInfo:
        """Know another cluster: from now on `/NAME/path` is `/path` there.

        `name` is its own name, which its server was started with: the server at `address`
        (`dp://`, `dps://`) is asked, and another name is Invalid. `token` is one that it gave; if
        that may speak for others, everybody is there who he is here, by name; otherwise everybody
        whom `access` (an expression; by default administrators only) lets use the cluster is the
        token's user. `ca` is the PEM text of the authority that its certificate must be signed by.

        `insecure`: the token may cross a network without TLS. `unchecked`: add it although it
        cannot be reached. Raises Exists, Invalid, Unavailable, Denied.
        """
        added = self._aio.add_cluster(
            name,
            address,
            token=token,
            ca=ca,
            access=access,
            insecure=insecure,
            unchecked=unchecked,
        )
        return run(added)

    def set_cluster(
        self,
        name: str,
        *,
        address: str | None = None,
        token: str | None = None,
        ca: str | None = None,
        access: str | None = None,
        insecure: bool = False,
        unchecked: bool = False,
    ) -> ClusterInfo:
        """Change how a cluster is reached; None leaves something as it is. What answers must be
        the same store as ever."""
        changed = self._aio.set_cluster(
            name,
            address=address,
            token=token,
            ca=ca,
            access=access,
            insecure=insecure,
            unchecked=unchecked,
        )
        return run(changed)

    def clusters(self, name: str | None = None, *, ask: bool = True) -> list[ClusterInfo]:
        """Every known cluster, or one. `ask`: ask each how it is, now."""
        return run(self._aio.clusters(name, ask=ask))

    def remove_cluster(self, name: str) -> None:
        """Know a cluster no more. Nothing changes there."""
        run(self._aio.remove_cluster(name))
