"""Every command of `dp`, for every verdict: as the methods of the API.

A command that `dp` has and the matrix has not fails it.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest
import typer.main

from dataplatform.api import platform_pb2 as pb
from tests.rights import ROOT

from .cells import CELLS, World, expected, is_as_expected, with_world
from .commands import COMMANDS, LOCAL, Dp, names
from .requests import at


def test_every_command_is_in_the_matrix() -> None:
    known = names()
    assert known - COMMANDS.keys() - LOCAL.keys() == set()
    assert (COMMANDS.keys() | LOCAL.keys()) - known == set()
    assert COMMANDS.keys() & LOCAL.keys() == set()


async def test_the_command_gives_the_same_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
    wrong: list[str] = []
    local = tmp_path / "local"
    local.mkdir()

    async def test(world: World) -> None:
        audited = pb.VolumeSettings(audit="changes")
        message = pb.VolumeRequest(target=at("/"), settings=audited)
        await world.calls.call(ROOT, "Volumes.Set", message)
        dp = Dp(world.server.endpoints.socket, world.tokens, local)
        for command, cell in itertools.product(COMMANDS.values(), CELLS):
            wanted = expected(cell, command.about, changes=command.changes)
            path = await world.directory(cell, wanted, changes=command.changes)
            got, said = await dp.ask(cell.token, command, path)
            if not is_as_expected(got, wanted, is_sure=command.is_sure):
                wrong.append(f"{command.line}, {cell.name}: {got} ({said}), not {wanted}")
        dp.close()

    await with_world(tmp_path, test)
    assert not wrong, "\n".join(wrong)
