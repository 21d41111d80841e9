"""What a mirror knows beside what it has from its source: which commit of that it is, and which
extents of the source its own stand for. The counters of a mirror are its source's, and are checked
as those of any volume: what they count is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import Corrupt
from ...keyspace import keys
from ...keyspace.records import MirrorCursor, SourceExtent
from ..replication.incoming import source_id
from ..units import Unit
from .findings import Repair, Step
from .picture import read_record
from .references import extent_of

if TYPE_CHECKING:
    from .context import Check


async def check_cursor(check: Check) -> None:
    settings = check.volume.settings
    async for page in check.pages(keys.MIRROR, "mirror"):
        for key, value in page:
            if key == keys.MIRROR_COPY_KEY:
                check.add("/", "the volume is said to be a copy under way", _delete(key))
            elif key != keys.MIRROR_CURSOR_KEY:
                check.unknown_row(key)
            else:
                _check_cursor(check, value)
    if settings.mirror and not all(
        isinstance(settings.mirror.get(name), kind)
        for name, kind in (("path", str), ("store", bytes), ("volume", int))
    ):
        check.add("/", "the mirror's settings do not say what it is a mirror of")


def _check_cursor(check: Check, value: bytes) -> None:
    settings, state = check.volume.settings, check.state
    try:
        cursor = read_record(MirrorCursor, value)
    except Corrupt:
        check.add("/", "it cannot be read which commit of its source the mirror is")
        return
    if not settings.mirror:
        check.add("/", "the volume is said to be a mirror's commit, and is no mirror")
    elif state is not None and cursor.commit != state.commit:
        check.add(
            "/",
            f"the mirror is commit {state.commit}, and is said to be {cursor.commit} of its source",
        )
    elif cursor.history != settings.history:
        check.add("/", "the mirror is said to be of another line of commits than it is")


async def check_sources(check: Check) -> None:
    """Each names an extent of the source for a value that has an extent here. Once a mirror was
    promoted they mean nothing any more, and are swept; so do those of an earlier source."""
    is_mirror = await check.picture.find(keys.MIRROR_CURSOR_KEY) is not None
    mirror = check.volume.settings.mirror
    source = b""
    if is_mirror and mirror:
        source = source_id(mirror["store"], mirror["volume"], check.volume.settings.history)
    async for page in check.pages(keys.MIRRORED, "extents of the source"):
        check.counts["extents of the source"] += len(page)
        if not is_mirror:
            continue
        named = [key[1:] for key, _ in page]
        for (key, value), name, there in zip(
            page, named, await check.picture.find_many(named), strict=True
        ):
            found = _source_of(value)
            if found not in (None, source):
                continue
            problem = "" if found is not None else "cannot be read"
            if not problem and there is None and not check.picture.is_unreadable(name):
                problem = "belongs to nothing that there is"
            elif not problem and there is not None and not _has_extent(name, there):
                problem = "belongs to something that has no extent"
            if problem:
                check.add("/", f"which extent of the source {name!r} has {problem}", _delete(key))


def _source_of(value: bytes) -> bytes | None:
    """Of whose extents it tells; None if it cannot be read."""
    try:
        return SourceExtent.unpack(value).source
    except Corrupt:
        return None


def _has_extent(key: bytes, value: bytes) -> bool:
    try:
        return extent_of(key, value) is not None
    except Corrupt:
        return True  # that is reported with the value


def _delete(key: bytes) -> Repair:
    """Without it the bytes are fetched from the source once more, when they are asked for."""

    async def repair(unit: Unit) -> Step:
        if await unit.get(key) is None:
            return Step.NOT_NEEDED
        unit.delete(key)
        return Step.DONE

    return repair
