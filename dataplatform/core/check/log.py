"""The change log has every commit since it was trimmed, and stored replies can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...base.errors import Corrupt
from ...base.limits import SLOTS_MAX
from ...keyspace import keys
from ...keyspace.records import ChangeRow, Publication, StoredReply
from .. import change_log
from .picture import read_record

if TYPE_CHECKING:
    from .context import Check


async def check_changes(check: Check) -> None:
    state = check.state
    expected = state.oldest_change if state is not None else None
    cut = change_log.last_cut(check.volume)
    async for page in check.pages(keys.CHANGE, "change log"):
        for key, value in page:
            commit = keys.number_of(key)
            check.counts["changes"] += 1
            if not _is_change(value):
                check.add("/", f"the change log cannot be read at commit {commit}")
            if state is None or expected is None:
                continue
            if commit < state.oldest_change and commit <= cut:
                continue  # of before the volume was restored: it goes bit by bit
            if commit < state.oldest_change:
                check.add("/", f"the change log has commit {commit}, which was trimmed")
            elif commit > state.commit:
                check.add(
                    "/", f"the change log has commit {commit}, and the last is {state.commit}"
                )
            else:
                _check_gap(check, expected, commit)
                expected = commit + 1
    if state is not None and expected is not None:
        _check_gap(check, expected, state.commit + 1)


def _check_gap(check: Check, expected: int, commit: int) -> None:
    if expected < commit and not check.picture.touches_unreadable(
        keys.change(expected), keys.change(commit)
    ):
        last = commit - 1
        which = f"commit {last} is" if expected == last else f"commits {expected} to {last} are"
        check.add("/", f"{which} missing in the change log")


def _is_change(value: bytes) -> bool:
    try:
        row = read_record(ChangeRow, value)
    except Corrupt:
        return False
    return all(type(key) is bytes for key in row.keys) and all(
        isinstance(event, list) and [type(part) for part in event] == [str, str, str, dict]
        for event in row.events
    )


async def check_publications(check: Check) -> None:
    """Each can be read, and its cursor is at a commit that there is. Whether its stream is there
    yet is its own business: it goes when it finds out."""
    async for page in check.pages(keys.PUBLICATION, "publications"):
        for key, value in page:
            check.counts["publications"] += 1
            name = key[1:].decode("utf-8", "backslashreplace")
            try:
                record = read_record(Publication, value)
            except Corrupt:
                check.add("/", f"the publication {name} cannot be read")
                continue
            is_here = record.home[-8:] == record.volume.to_bytes(8, "big")
            if is_here and record.volume == check.volume.id and check.is_too_new(record.commit):
                check.add(
                    "/",
                    f"the publication {name} was read to commit {record.commit}, and the last is "
                    f"{check.commit}",
                )


async def check_replies(check: Check) -> None:
    async for page in check.pages(keys.REPLY, "stored replies"):
        for key, value in page:
            check.counts["stored replies"] += 1
            slot = int.from_bytes(key[-4:], "big")
            try:
                read_record(StoredReply, value)
            except Corrupt:
                check.add("/", f"the stored reply of a client's slot {slot} cannot be read")
                continue
            if slot >= SLOTS_MAX:
                check.add("/", f"a stored reply has slot {slot}, which no client can have")
