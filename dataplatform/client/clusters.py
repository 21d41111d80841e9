"""Other clusters: known by a name, which begins the paths of what is theirs."""

from __future__ import annotations

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from .base import Operations
from .messages import build
from .values import ClusterInfo

ADD = METHODS["Clusters.Add"]
LIST = METHODS["Clusters.List"]
SET = METHODS["Clusters.Set"]
REMOVE = METHODS["Clusters.Remove"]


def cluster_of(cluster: pb.Cluster) -> ClusterInfo:
    return ClusterInfo(
        name=cluster.name,
        address=cluster.address,
        store=cluster.store.hex(),
        added_ns=cluster.added_ns,
        has_token=cluster.token,
        has_authority=cluster.authority,
        access=cluster.access,
        asked=cluster.asked,
        error=cluster.error,
        version=cluster.version,
        user=cluster.user,
        speaks=cluster.speak,
        latency_s=cluster.latency_us / 1e6,
        clock_s=cluster.clock_ns / 1e9,
    )


class ClusterOperations(Operations):
    async def add_cluster(
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
        request = build(
            pb.AddClusterRequest,
            name=name,
            address=address,
            token=token,
            authority=ca,
            access=access,
            insecure=insecure,
            unchecked=unchecked,
        )
        return cluster_of((await self._channel.call(ADD, request))[0])

    async def set_cluster(
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
        request = build(
            pb.SetClusterRequest,
            name=name,
            address=address,
            token=token,
            authority=ca,
            access=access,
            insecure=insecure,
            unchecked=unchecked,
        )
        return cluster_of((await self._channel.call(SET, request))[0])

    async def clusters(self, name: str | None = None, *, ask: bool = True) -> list[ClusterInfo]:
        request = build(pb.ClustersRequest, name=name, ask=ask)
        reply, _ = await self._channel.call(LIST, request)
        return [cluster_of(cluster) for cluster in reply.clusters]

    async def remove_cluster(self, name: str) -> None:
        await self._channel.call(REMOVE, build(pb.ClusterRequest, name=name))
