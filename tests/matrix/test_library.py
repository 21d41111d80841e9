"""Every operation of the Python library, for every verdict: as the methods of the API.

An operation that the library has and the matrix has not fails it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from dataplatform.base.errors import PlatformError

from .cells import CELLS, World, expected, is_as_expected, with_world
from .doors import OK
from .library import LOCAL, OPERATIONS, Async, Blocking, names


def test_every_operation_is_in_the_matrix() -> None:
    known = names("library") | names("aio")
    assert known - OPERATIONS.keys() - LOCAL.keys() == set()
    assert (OPERATIONS.keys() | LOCAL.keys()) - known == set()
    assert OPERATIONS.keys() & LOCAL.keys() == set()


@pytest.mark.parametrize("kind", sorted({name.partition(".")[0] for name in OPERATIONS}))
@pytest.mark.parametrize("door", [Blocking, Async])
async def test_the_library_gives_the_same_verdict(
    door: type[Blocking | Async], kind: str, tmp_path: Path
) -> None:
    wrong: list[str] = []
    had = {name for name in names(door.name) if name.startswith(f"{kind}.")}
    asked = {name: o for name, o in OPERATIONS.items() if name in had}

    async def test(world: World) -> None:
        library = door(world.server.endpoints.socket)
        for (name, operation), cell in itertools.product(asked.items(), CELLS):
            wanted = expected(cell, operation.about, changes=operation.changes)
            path = await world.directory(cell, wanted, changes=operation.changes)
            got, why = OK, ""
            try:
                await library.ask(world.tokens[cell.token], operation, path)
            except PlatformError as error:
                got, why = error.kind.name, str(error)
            if not is_as_expected(got, wanted, is_sure=operation.is_sure):
                wrong.append(f"{name}, {cell.name}: {got} ({why}), not {wanted}")
        await library.close()

    await with_world(tmp_path, test)
    assert not wrong, "\n".join(wrong)
