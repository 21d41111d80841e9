"""Every method, for every verdict, through every door that takes methods: the same answer.

A method that the server has and the matrix has not fails it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dataplatform.api.methods import METHODS

from .cells import CELLS, World, expected, is_as_expected, with_world
from .doors import Core, Door, Frames, Grpc
from .relay import is_passed_on, relay_of
from .requests import REQUESTS

READ_ONLY = {
    "Files.Open": True,  # to read
    "Groups.Join": False,  # a member takes part of the work
}
"""Whether a token that may only read is good for it, where that is not what the method table says
of repeating it."""


def test_every_method_is_in_the_matrix() -> None:
    assert METHODS.keys() - REQUESTS.keys() == set()
    assert REQUESTS.keys() - METHODS.keys() == set()


@contextlib.asynccontextmanager
async def doors_of(world: World) -> AsyncIterator[list[Door]]:
    ends = world.server.endpoints
    wires = [Frames("tcp", ends.frames), Frames("unix", ends.socket), Grpc(ends.grpc)]
    try:
        yield [Core(world.server), *wires]
    finally:
        for door in wires:
            await door.close()


@pytest.mark.parametrize("service", sorted({name.partition(".")[0] for name in METHODS}))
async def test_every_door_gives_the_same_verdict(service: str, tmp_path: Path) -> None:
    wrong: list[str] = []
    requests = {name: r for name, r in REQUESTS.items() if name.startswith(f"{service}.")}

    async def test(world: World) -> None:
        async with doors_of(world) as doors:
            for (method, request), cell, door in itertools.product(requests.items(), CELLS, doors):
                changes = not READ_ONLY.get(method, METHODS[method].read_only)
                wanted = expected(cell, request.about, changes=changes)
                base = await world.directory(cell, wanted, changes=changes)
                built = request.build(base)
                message, data = built if isinstance(built, tuple) else (built, b"")
                got = await door.call(world.tokens[cell.token], method, message, data)
                if not is_as_expected(got, wanted, is_sure=request.is_sure):
                    wrong.append(f"{method}, {cell.name}, {door.name}: {got}, not {wanted}")

    await with_world(tmp_path, test)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("service", sorted({name.partition(".")[0] for name in METHODS}))
async def test_another_cluster_gives_the_same_verdict(service: str, tmp_path: Path) -> None:
    """Users are the same by name, with the rights that they have there."""
    wrong: list[str] = []
    requests = {name: r for name, r in REQUESTS.items() if name.startswith(f"{service}.")}

    async def test(world: World) -> None:
        async with relay_of(world, tmp_path / "home") as door:
            for (method, request), cell in itertools.product(requests.items(), CELLS):
                changes = not READ_ONLY.get(method, METHODS[method].read_only)
                wanted = expected(cell, request.about, changes=changes)
                base = await world.directory(cell, wanted, changes=changes)
                built = request.build(base)
                message, data = built if isinstance(built, tuple) else (built, b"")
                if not is_passed_on(message):
                    continue
                got = await door.call(world.tokens[cell.token], method, message, data)
                if not is_as_expected(got, wanted, is_sure=request.is_sure):
                    wrong.append(f"{method}, {cell.name}: {got}, not {wanted}")

    await with_world(tmp_path, test)
    assert not wrong, "\n".join(wrong)
