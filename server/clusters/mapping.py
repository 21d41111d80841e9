"""Messages for another cluster, and from it: what names a volume or a path says so in its
descriptor, so a message that is new is known here.

Here a volume of another cluster has that cluster's slot above its number (core/clusters.py), and a
path begins with the cluster's name. There neither does. What names a volume is a field `volume`;
what names a path in a reply is a field `path` or `paths` that begins with a slash.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid, PlatformError
from dataplatform.core.clusters import SLOT_SHIFT

VOLUME = "volume"
PATHS = frozenset(("path", "paths", "stream"))
PATH_FACTS = ("path", "from", "to", "existing", "of", "missing_path", "table", "stream")
"""Facts of errors and of changes that are paths from the platform's root."""

_NUMBER_MASK = (1 << SLOT_SHIFT) - 1
_TARGET = pb.Target.DESCRIPTOR.full_name
_CHANGE = pb.Change.DESCRIPTOR.full_name

OPAQUE = frozenset((pb.MountReport.DESCRIPTOR.full_name,))
"""Messages that are left as they are: a mount's own words about itself."""


class Plan(NamedTuple):
    """What there is to map in a message."""

    has_volume: bool
    paths: tuple[tuple[str, bool], ...]  # fields, and whether they are repeated
    below: tuple[tuple[str, bool, Descriptor], ...]  # fields that are messages with a plan
    is_target: bool
    is_change: bool


@cache
def plan_of(message: Descriptor) -> Plan | None:
    """None if there is nothing to map in it."""
    return _plan(message, frozenset())


def _plan(message: Descriptor, above: frozenset[str]) -> Plan | None:
    if message.full_name in OPAQUE or message.full_name in above:
        return None
    has_volume = False
    paths, below = [], []
    for field in message.fields:
        if field.message_type is not None:
            inner = field.message_type
            if inner.GetOptions().map_entry:
                continue
            if _plan(inner, above | {message.full_name}) is not None:
                below.append((field.name, field.is_repeated, inner))
        elif field.name == VOLUME and field.type == FieldDescriptor.TYPE_UINT64:
            has_volume = True
        elif field.name in PATHS and field.type == FieldDescriptor.TYPE_STRING:
            paths.append((field.name, field.is_repeated))
    is_change = message.full_name == _CHANGE
    if not (has_volume or paths or below or is_change):
        return None
    return Plan(has_volume, tuple(paths), tuple(below), message.full_name == _TARGET, is_change)


def _inner(message: Any, plan: Plan) -> Iterator[tuple[Any, Plan]]:
    for name, is_repeated, descriptor in plan.below:
        inner_plan = plan_of(descriptor)
        assert inner_plan is not None
        if is_repeated:
            for one in getattr(message, name):
                yield one, inner_plan
        elif message.HasField(name):
            yield getattr(message, name), inner_plan


# ---------------------------------------------------------------- requests


def targets_of(message: Any) -> Iterator[Any]:
    """Every target in a request, at any depth."""
    plan = plan_of(message.DESCRIPTOR)
    if plan is not None:
        yield from _targets(message, plan)


def _targets(message: Any, plan: Plan) -> Iterator[Any]:
    if plan.is_target:
        yield message
        return
    for inner, inner_plan in _inner(message, plan):
        yield from _targets(inner, inner_plan)


def make_local(
    message: Any,
    names: tuple[str, ...],
    place_of: Callable[[Any], tuple[int, str]],
    cluster: str,
    slot: int,
) -> None:
    """Change a request into what the cluster understands: `names` are its own targets, whose paths
    count from the root; deeper ones count from one of these. `place_of` says of a target which slot
    it leads to, and its path there. INVALID (EXDEV) if one leads elsewhere.
    """
    for name in names:
        if message.HasField(name):
            target = getattr(message, name)
            found, target.path = place_of(target)
            if found != slot:
                raise _elsewhere()
    for target in targets_of(message):
        if target.inode and target.volume >> SLOT_SHIFT not in (0, slot):
            raise _elsewhere()
        target.volume &= _NUMBER_MASK
    plan = plan_of(message.DESCRIPTOR)
    for name, is_repeated in plan.paths if plan is not None else ():
        if not is_repeated:
            setattr(message, name, _local_path(getattr(message, name), f"/{cluster}"))


def _elsewhere() -> Invalid:
    return Invalid("the two are in different clusters: copy instead", errno=errno.EXDEV)


def _local_path(path: str, prefix: str) -> str:
    if path == prefix:
        return "/"
    return path[len(prefix) :] if path.startswith(prefix + "/") else path


# ---------------------------------------------------------------- replies


def make_global(message: Any, cluster: str, slot: int) -> None:
    """Change a reply of a cluster, and what is in it, into what is understood here."""
    plan = plan_of(message.DESCRIPTOR)
    if plan is not None:
        _make_global(message, plan, f"/{cluster}", slot << SLOT_SHIFT)


def _make_global(message: Any, plan: Plan, prefix: str, above: int) -> None:
    if plan.has_volume and message.volume:
        message.volume |= above
    for name, is_repeated in plan.paths:
        if is_repeated:
            paths = getattr(message, name)
            paths[:] = [global_path(path, prefix) for path in paths]
        elif path := getattr(message, name):
            setattr(message, name, global_path(path, prefix))
    if plan.is_change:
        for fact in ("from", "to"):
            if fact in message.facts:
                message.facts[fact] = global_path(message.facts[fact], prefix)
    for inner, inner_plan in _inner(message, plan):
        _make_global(inner, inner_plan, prefix, above)


def global_path(path: str, prefix: str) -> str:
    """What begins at the root there begins with the cluster here."""
    if path == "/":
        return prefix
    return prefix + path if path.startswith("/") else path


def global_error(error: PlatformError, cluster: str) -> PlatformError:
    """An error of a cluster, with paths as they are here."""
    facts = {
        name: global_path(value, f"/{cluster}")
        if name in PATH_FACTS and isinstance(value, str)
        else value
        for name, value in error.facts.items()
    }
    return PlatformError(error.kind, error.message, **facts)
