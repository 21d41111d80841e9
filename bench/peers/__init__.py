"""The peers, one file each. All of them are optional: `missing` says what is not there."""

from __future__ import annotations

from collections.abc import Mapping

from ..sides import Side
from .juicefs import JuiceFS
from .kafka import Kafka
from .nats import Nats
from .redis import Redis

PEERS: Mapping[str, type[Side]] = {side.name: side for side in (Redis, Nats, Kafka, JuiceFS)}
