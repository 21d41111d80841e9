"""Asking the server of another cluster who it is, and how far away."""

from __future__ import annotations

import ipaddress
import os
import time
from typing import NamedTuple, TypeVar

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Invalid, Unavailable
from dataplatform.core.clusters import Access, Asked
from dataplatform.transport.addresses import Address, parse
from dataplatform.transport.async_connections import AsyncConnection
from dataplatform.transport.tls import Trust

C = TypeVar("C", bound=AsyncConnection)

TIMEOUT_S = 5.0
"""Of connecting, and of one small request."""

SESSION_BYTES = 16
PROGRAM = "dataplatform server"

_PING = METHODS["System.Ping"]


class Answer(NamedTuple):
    """What a server said of itself, how long a small request took, and by how much its clock is
    ahead of ours."""

    asked: Asked
    latency_s: float
    clock_ns: int


def check_address(address: str, *, has_token: bool, insecure: bool) -> Address:
    """INVALID if no server of a cluster can be reached there, or if a token would cross a network
    in the clear and that was not asked for."""
    place = parse(address)
    if not place.is_frames:
        raise Invalid(
            "give the address for frames, dp:// or dps://: gRPC is found from there",
            address=address,
        )
    if has_token and not insecure and not (place.is_tls or place.is_unix or _is_near(place.host)):
        raise Invalid(
            "the token would cross the network unencrypted: use dps://, or say --insecure",
            address=address,
        )
    return place


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def connect(
    access: Access,
    own_cluster: str,
    session: bytes,
    *,
    with_token: bool = True,
    kind: type[C] = AsyncConnection,  # type: ignore[assignment]
) -> C:
    """A connection to the cluster; who answers there is not looked at yet. UNAVAILABLE, DENIED."""
    address = parse(access.address)
    tls = Trust(authorities=access.authority).context() if address.is_tls else None
    hello = pb.Hello(
        program=PROGRAM,
        token=access.token if with_token else "",
        session=session,
        cluster=own_cluster,
    )
    try:
        return await kind.open(address, hello, timeout_s=TIMEOUT_S, tls=tls)
    except Unavailable as error:
        reason = error.message.partition(":")[0]  # the advice is for clients
        raise Unavailable(reason, **error.facts) from error


def asked_of(welcome: pb.HelloReply) -> Asked:
    return Asked(
        welcome.cluster,
        welcome.store,
        welcome.may_speak,
        welcome.grpc_port,
        welcome.user,
        welcome.server,
    )


async def ask(access: Access, own_cluster: str) -> Answer:
    """UNAVAILABLE, DENIED, INVALID, saying why there is no answer."""
    connection: AsyncConnection = await connect(access, own_cluster, os.urandom(SESSION_BYTES))
    try:
        now_ns = time.time_ns()
        welcome = connection.welcome
        began_s = time.monotonic()
        await connection.call(_PING, pb.Empty(), timeout_s=TIMEOUT_S)
        latency_s = time.monotonic() - began_s
        clock_ns = welcome.now_ns + int(latency_s * 5e8) - now_ns if welcome.now_ns else 0
        return Answer(asked_of(welcome), latency_s, clock_ns)
    finally:
        await connection.close()
