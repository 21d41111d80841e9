"""What a server can say about itself, to handlers (`System.Status`) and to its own listeners."""

from __future__ import annotations

import importlib.metadata
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field

from dataplatform.core.gathering.gathers import Flow
from dataplatform.core.volumes import Volume


def version() -> str:
    try:
        return importlib.metadata.version("dataplatform")
    except importlib.metadata.PackageNotFoundError:
        return "0"  # run from a directory without an installation


def _no_connections() -> int:
    return 0


def _no_flows(name: str) -> list[Flow]:
    return []


def _nothing(volume: Volume) -> None:
    return


def _no_counters() -> dict[str, int]:
    return {}


@dataclass(slots=True)
class ServerFacts:
    engine: str
    data: str
    """Where it stores, as its operator named it."""
    store: bytes = b""
    """What is stored there: see `Platform.identity`."""
    version: str = field(default_factory=version)
    instance: bytes = field(default_factory=lambda: os.urandom(16))
    """Differs after each start: what clients kept in a server's memory is gone then."""
    pid: int = field(default_factory=os.getpid)
    grpc_port: int = 0
    """0: no gRPC."""
    flows: Callable[[str], list[Flow]] = _no_flows
    """Of a gathering, by its name."""
    connections: Callable[[], int] = _no_connections
    """How many connections of frames there are."""
    counters: Callable[[], dict[str, int]] = _no_counters
    """Requests by method, errors by kind, and so on, since the start."""

    limits_changed: Callable[[Volume], None] = _nothing
    """The volume has new settings: who waits for its limits is looked at again."""

    @property
    def program(self) -> str:
        return f"dataplatform {self.version}"

    @property
    def memory_bytes(self) -> int:
        """Resident memory (proc(5), statm)."""
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
