"""Attacks on a real server's surroundings: its files, its processes, its words."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplatform

from .servers import ServerProcess

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_to_others(directory: Path) -> Iterator[Path]:
    """Files below that other users could read or change, as far as they can get there."""
    for entry in os.scandir(directory):
        mode = entry.stat(follow_symlinks=False).st_mode
        if not mode & OTHERS:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from open_to_others(Path(entry.path))
        elif not stat.S_ISSOCK(mode):
            yield Path(entry.path)


def stored(directory: Path) -> list[Path]:
    return [place for name in ("data", "objects") if (place := directory / name).exists()]


@pytest.mark.parametrize("engine", ["rocks", "slate"])
def test_other_users_read_nothing_from_the_disk(tmp_path: Path, engine: str) -> None:
    """Neither data nor the key that signs tokens, whatever the umask of whoever starts it."""
    server = ServerProcess(tmp_path, engine)
    before = os.umask(0)
    try:
        server.start()
    finally:
        os.umask(before)
    try:
        with dataplatform.connect(server.address) as admin:
            admin.write_file("/secret", b"x" * 100_000)
            admin.sync()
            admin.create_user("ana")
            admin.create_token("ana")
            admin.create_volume("/v")
        assert not [file for place in stored(tmp_path) for file in open_to_others(place)]
        server.stop()
        for place in stored(tmp_path):  # as it was made once
            for file in (place, *place.rglob("*")):
                file.chmod(0o755 if file.is_dir() else 0o644)
        server.start()
        found = [file.name for place in stored(tmp_path) for file in open_to_others(place)]
        assert set(found) <= {"LOCK", "format.json"}
    finally:
        server.stop()
