"""Is a source still what it was? It is known by its store, its volume and its line of commits, not
by its address. What is not the same is never followed: the error says what happened."""

from __future__ import annotations

from typing import Any

from ...base.errors import Conflict, Invalid
from ...keyspace import keys
from ...keyspace.records import MirrorCursor
from ..volumes import Volume
from .links import Link, shown
from .seam import FORMAT, Described, Pin


def check_format(described: Described, link: Link) -> None:
    if described.format > FORMAT:
        raise Invalid(
            "the source's server is newer than this one: upgrade this one first",
            format=described.format,
            known=FORMAT,
        )
    if link.cluster and described.cluster != link.cluster:
        raise Invalid(
            "another cluster is behind that address than its name says",
            expected=link.cluster,
            found=described.cluster,
        )


def check_source(mirror: dict[str, Any], described: Described, cursor: MirrorCursor | None) -> None:
    """CONFLICT, INVALID unless it is the volume that is mirrored, and has the mirror's commit."""
    link = shown(mirror)
    check_format(described, link)
    if described.store != mirror["store"]:
        raise Conflict(
            "another store is behind the source's address than the one that is mirrored: "
            "nothing is taken from it",
            source=link.words,
        )
    if described.volume != mirror["volume"]:
        raise Conflict(
            "the source volume was removed, and another one is at its path now: nothing is "
            "taken from it. Promote the mirror, or remove it and make a new one",
            source=link.words,
        )
    if cursor is None:
        return
    if described.history != cursor.history:
        cuts = dict(described.lineage)
        if cuts.get(cursor.history, -1) < cursor.commit:
            raise Conflict(
                "the source was put back to an earlier commit than this mirror has (a snapshot "
                "was restored?): nothing is taken from it. To follow it and give up what is "
                "newer here: dp mirror resume --discard",
                commit=cursor.commit,
                source_commit=described.commit,
            )
    elif described.commit < cursor.commit:
        raise Conflict(
            "the source has fewer commits than this mirror: an older copy of it was put in its "
            "place. Nothing is taken from it. Promote the mirror, or dp mirror resume "
            "--discard",
            commit=cursor.commit,
            source_commit=described.commit,
        )


async def check_past(volume: Volume, pin: Pin, cursor: MirrorCursor | None) -> None:
    """An older copy of the source, which went on by itself, has other commits with the same
    numbers."""
    if cursor is None or not cursor.commit:
        return
    key = keys.change(cursor.commit)
    mine = await volume.storage.engine.get(key)
    (theirs,) = await pin.values([key])
    if mine is not None and theirs is not None and mine != theirs:
        raise Conflict(
            "the source has another past than this mirror: an older copy of it was put in its "
            "place and went on by itself. Nothing is taken from it. Promote the mirror, or "
            "remove it and make a new one",
            commit=cursor.commit,
        )
