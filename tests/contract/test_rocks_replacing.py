"""Files change places step by step: a kill between any two of them is made good by repeating."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Invalid
from dataplatform.engine import directories
from dataplatform.engine.rocks import RocksStorages, clones

from .clones import write
from .storages import close

STEPS = (
    (clones.os, "link"),
    (clones, "sync_directory"),
    (clones, "write_whole"),
    (clones, "remove_tree"),
    (directories, "sync_directory"),
    (directories, "remove_tree"),
    (Path, "rename"),
)


class Killed(BaseException):
    """The process is gone."""


class Steps:
    """Counts steps, and ends at the `kill_at`-th: before it, or right after it was done."""

    def __init__(self, patch: pytest.MonkeyPatch, kill_at: int, *, after: bool) -> None:
        self.left = kill_at
        self.after = after
        for owner, name in STEPS:
            patch.setattr(owner, name, self._step(getattr(owner, name)))

    def _step(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any) -> Any:
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not self.after):
                raise Killed  # and nothing happens any more: not even what cleans up
            result = call(*args)
            if self.left == 0:
                raise Killed
            return result

        return step


@pytest.mark.parametrize("after", [False, True])
async def test_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    kills = 0
    for kill_at in range(1, 100):
        path = tmp_path / f"{kill_at}"
        storages = await RocksStorages.at(path)
        source = await storages.open(1, create=True)
        first = await write(source, b"first")
        await source.segments.seal()
        await source.engine.checkpoint("one")
        second = await write(source, b"second")
        await source.engine.checkpoint("two")
        await close(source)
        await storages.clone(1, "one", 2)
        killed = False
        with monkeypatch.context() as patch:
            Steps(patch, kill_at, after=after)
            try:
                await storages.replace(1, 2)
            except Killed:
                killed = True
        await storages.close()
        storages = await RocksStorages.at(path)  # what is left over goes
        await storages.replace(1, 2)
        assert await storages.volumes() == [1]
        volume = await storages.open(1)
        assert await volume.engine.get(b"row") == b"first"
        assert await volume.engine.checkpoints() == ["one", "two"]
        assert await volume.segments.read(first) == b"first"
        assert await volume.segments.read(second) == b"second"
        view = await volume.engine.open_checkpoint("two")
        assert await view.get(b"row") == b"second"
        view.close()
        await storages.close()
        kills += killed
        if not killed:
            break
    assert kills > 8


@pytest.mark.parametrize("after", [False, True])
async def test_cloning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    kills = 0
    for kill_at in range(1, 100):
        path = tmp_path / f"{kill_at}"
        storages = await RocksStorages.at(path)
        source = await storages.open(1, create=True)
        where = await write(source, b"first")
        await source.engine.checkpoint("one")
        killed = False
        with monkeypatch.context() as patch:
            Steps(patch, kill_at, after=after)
            try:
                await storages.clone(1, "one", 2)
            except Killed:
                killed = True
        await storages.close()
        storages = await RocksStorages.at(path)
        assert set(await storages.volumes()) <= {1, 2}
        await storages.clone(1, "one", 2)
        clone = await storages.open(2)
        assert await clone.engine.get(b"row") == b"first"
        assert await clone.segments.read(where) == b"first"
        await storages.close()
        kills += killed
        if not killed:
            break
    assert kills > 5


async def test_a_refusal_changes_nothing(tmp_path: Path) -> None:
    storages = await RocksStorages.at(tmp_path)
    for number in (1, 2):
        volume = await storages.open(number, create=True)
        await write(volume, b"%d" % number)
        await volume.engine.checkpoint("one")
        await close(volume)
    before = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    with pytest.raises(Invalid):
        await storages.replace(1, 2)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == before
    await storages.close()
