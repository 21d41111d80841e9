"""A volume's directory made of another one's: a clone, and one that takes another's place.

A clone consists of hard links: tables and sealed segments never change, so it costs a name each.
What RocksDB goes on writing in place (manifest, log, options) is copied. Both volumes number new
files on their own, in directories of their own, so neither ever writes to what they share.

The segment that the source is appending to was sealed before. Its linked file may still get longer
by appends that were under way; nothing in the checkpoint refers to them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from ...base.errors import Corrupt, Invalid, NotFound
from ..directories import remove_tree, sync_directory, write_whole
from ..files import LAST, SUFFIX

TABLE = ".sst"


def fill(source: Path, checkpoint: str, target: Path) -> None:
    """Make the directory of a new volume of a checkpoint, and of the segments, of `source`."""
    for name in ("db", "checkpoints", "segments"):
        (target / name).mkdir()
    try:
        _share_database(source / "checkpoints" / checkpoint, target / "db")
    except FileNotFoundError as error:
        raise NotFound("checkpoint not found", name=checkpoint) from error
    _share_segments(source / "segments", target / "segments")
    for name in ("db", "checkpoints", "segments"):
        sync_directory(target / name)


def gather(old: Path, new: Path) -> None:
    """Give a directory that is to replace `old` its segments and its checkpoints.

    INVALID, before anything is done, if a segment of one number is not the same file in both.
    """
    for name, theirs in _segments(old / "segments").items():
        ours = new / "segments" / theirs.name
        if ours.exists() and not ours.samefile(theirs):
            raise Invalid("segments of one number differ", segment=name, path=new)
    _share_segments(old / "segments", new / "segments")
    sync_directory(new / "segments")
    if (old / "checkpoints").is_dir():
        remove_tree(new / "checkpoints")
        (old / "checkpoints").rename(new / "checkpoints")
        sync_directory(new)
        sync_directory(old)


def _share_database(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        if entry.suffix == TABLE:
            os.link(entry, target / entry.name)
        else:
            _copy(entry, target / entry.name)


def _share_segments(source: Path, target: Path) -> None:
    """Link the segments of `source` into `target`, and let neither's numbers be used again."""
    segments = _segments(source)
    last = max([_last(source), _last(target), *segments, *_segments(target)])
    for segment in segments.values():
        # One that is deleted meanwhile is one that the checkpoint does not need.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            os.link(segment, target / segment.name)
    write_whole(target / LAST, b"%x" % last)


def _segments(directory: Path) -> dict[int, Path]:
    try:
        return {
            int(entry.stem, 16): entry for entry in directory.iterdir() if entry.suffix == SUFFIX
        }
    except ValueError as error:
        raise Corrupt("no segment number", path=directory, cause=error) from error


def _last(directory: Path) -> int:
    try:
        return int((directory / LAST).read_bytes(), 16)
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise Corrupt("no segment number", path=directory, cause=error) from error


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())
