"""Images of a server's data, built once: "stopped" in order, and "killed" with its logs full."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from . import worlds

Images = Callable[[str, str], Awaitable[worlds.Image]]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """`await images(engine, "stopped" | "killed")`."""
    built: dict[str, dict[str, worlds.Image]] = {}

    async def get(engine: str, state: str) -> worlds.Image:
        if engine not in built:
            built[engine] = await _build(engine, tmp_path_factory.mktemp(engine))
        return built[engine][state]

    return get


async def _build(engine: str, directory: Path) -> dict[str, worlds.Image]:
    storages = await worlds.open_storages(engine, directory)
    async with worlds.serving(directory, storages) as (_, client):
        await worlds.build(client)
        seen = await worlds.look(client)
        assert not seen.errors, seen.errors
        ids = {v.path.rstrip("/"): v.volume for v in await client.volumes()}
        shutil.copytree(directory / "data", directory / "killed")
    return {
        state: worlds.Image(engine, directory / folder, ids)
        for state, folder in (("stopped", "data"), ("killed", "killed"))
    }


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is damaged on purpose is logged as the error that it is."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
