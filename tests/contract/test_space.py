"""Refusing while there is still room, on a file system that is as full as the test says."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dataplatform.base.errors import Exhausted
from dataplatform.base.limits import GIB, MIB
from dataplatform.engine.space import DELETING_BYTES_MAX, LOOK_SECONDS, Space

RESERVE = 64 * MIB
DELETING = {b"entry": None, b"state": b"new"}


class Disk:
    """A file system and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free_bytes: int, total_bytes: int) -> None:
        self.free_bytes = free_bytes
        self.total_bytes = total_bytes
        self.now_s = 0.0
        self.looks = 0
        monkeypatch.setattr(os, "statvfs", self._statvfs)

    def space(self, *, share: int = 1) -> Space:
        return Space(Path("/data"), RESERVE, share=share, now=lambda: self.now_s)

    def _statvfs(self, _path: Path) -> SimpleNamespace:
        self.looks += 1
        return SimpleNamespace(f_frsize=1, f_bavail=self.free_bytes, f_blocks=self.total_bytes)


def test_what_would_go_into_the_reserve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, RESERVE + 1000, GIB)
    space = disk.space()
    space.check(1000)
    with pytest.raises(Exhausted, match=f"the disk is full.*/data.*{RESERVE + 1000}"):
        space.check(1001)
    assert not space.full
    disk.free_bytes = RESERVE - 1
    assert space.full
    with pytest.raises(Exhausted):
        space.check(0)


def test_a_look_is_good_for_a_while_but_a_refusal_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, RESERVE + 1000, GIB)
    space = disk.space()
    for _ in range(10):
        space.check(100)
    assert disk.looks == 1
    disk.free_bytes = RESERVE  # as our own writes, which were counted, have made it
    for _ in range(2):
        with pytest.raises(Exhausted):
            space.check(100)
    assert disk.looks == 3
    disk.free_bytes = GIB
    space.check(100)
    assert disk.looks == 4
    disk.free_bytes = 0  # somebody else
    space.check(100)
    disk.now_s += LOOK_SECONDS
    with pytest.raises(Exhausted):
        space.check(100)


def test_small_commits_that_delete_use_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, RESERVE // 2, GIB)
    space = disk.space()
    space.check_commit(DELETING)
    for refused in ({b"k": b"v"}, {**DELETING, b"big": bytes(DELETING_BYTES_MAX)}):
        with pytest.raises(Exhausted):
            space.check_commit(refused)
    disk.free_bytes = RESERVE // 4
    with pytest.raises(Exhausted):
        disk.space().check_commit(DELETING)


def test_a_small_file_system_has_a_small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, 3 * MIB, 48 * MIB)
    disk.space(share=16).check(0)
    with pytest.raises(Exhausted):
        disk.space(share=16).check(1)


def test_where_nobody_knows_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Disk(monkeypatch, free_bytes=0, total_bytes=0)
    silent.space().check(GIB)
    assert not silent.space().full
    monkeypatch.undo()
    Space(None, RESERVE).check(GIB)
    Space(Path("/does/not/exist"), RESERVE).check(GIB)
