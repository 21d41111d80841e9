"""What a mirror follows, and when: as people write it, and as it stands in its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ...base.errors import Invalid
from ...keyspace.records import VolumeSettings
from ..keys import Masters
from .seam import Described, Source

TOKEN_CONTEXT = b"token of a mirror"
"""What the protection of a token is bound to. Stored."""

EVERY_MS_MAX = 365 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Link:
    """Where a source is, and how it is reached."""

    path: str  # there, from its root
    address: str = ""  # grpc://host:port; empty: that of the cluster
    cluster: str = ""  # the name that it must have; empty: any
    token: str = field(default="", repr=False)
    authority: str = ""  # PEM of whom its certificate must be signed by

    @property
    def words(self) -> str:
        """As people write it."""
        return f"{self.address}{self.path}" if self.address else f"/{self.cluster}{self.path}"


def parse_source(text: str, own_cluster: str) -> Link:
    """What people write: /cluster/path, or an address with a path. INVALID."""
    scheme, is_address, rest = text.partition("://")
    if is_address:
        host, slash, path = rest.partition("/")
        if not slash or not host:
            raise Invalid("a source is an address and a path: grpc://host:port/path", source=text)
        return Link(f"/{path.strip('/')}", f"{scheme}://{host}")
    names = [name for name in text.split("/") if name]
    if not text.startswith("/") or len(names) < 1:
        raise Invalid("a source is /CLUSTER/PATH, or an address with a path", source=text)
    return Link("/" + "/".join(names[1:]), cluster=names[0])


def source_words(settings: VolumeSettings) -> str:
    """What a volume with these settings is a mirror of; empty: of nothing."""
    mirror = settings.mirror
    if not mirror:
        return ""
    return shown(mirror).words


def shown(mirror: dict[str, Any]) -> Link:
    """What everybody may see of it: no token."""
    return Link(mirror["path"], mirror.get("address", ""), mirror.get("cluster", ""))


Connect = Callable[[Link], Awaitable[Source]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When and how fast a mirror asks. None: as it is."""

    every_ms: int | None = None  # 0: continuously
    bandwidth: int | None = None  # bytes per second; 0: no limit


async def pack(
    link: Link, schedule: Schedule, described: Described, masters: Masters
) -> dict[str, Any]:
    """As it stands in a mirror's settings."""
    token = b""
    if link.token:
        token = await masters.protect(link.token.encode(), TOKEN_CONTEXT)
    return {
        "path": link.path,
        "address": link.address,
        "cluster": link.cluster,
        "token": token,
        "authority": link.authority,
        "every_ms": schedule.every_ms or 0,
        "bandwidth": schedule.bandwidth or 0,
        "store": described.store,
        "volume": described.volume,
        "name": described.cluster,
    }


def kept(mirror: dict[str, Any], schedule: Schedule) -> dict[str, Any]:
    """What a mirror had set that the schedule does not say."""
    said = {"every_ms": schedule.every_ms, "bandwidth": schedule.bandwidth}
    return {name: mirror[name] for name, value in said.items() if value is None and name in mirror}


async def unpack(mirror: dict[str, Any], masters: Masters) -> Link:
    """DENIED if the token is under a master key that is not here."""
    token = mirror.get("token") or b""
    if token:
        token = await masters.reveal(token, TOKEN_CONTEXT)
    return Link(
        mirror["path"],
        mirror.get("address", ""),
        mirror.get("cluster", ""),
        bytes(token).decode(),
        mirror.get("authority", ""),
    )


def check_schedule(schedule: Schedule) -> None:
    if schedule.every_ms is not None and not 0 <= schedule.every_ms <= EVERY_MS_MAX:
        raise Invalid("a mirror asks at least once a year", every_ms=schedule.every_ms)
    if schedule.bandwidth is not None and not 0 <= schedule.bandwidth < 1 << 63:
        raise Invalid("the bandwidth is not possible", bandwidth=schedule.bandwidth)
