"""Every operation of the kernel on a mount, for every verdict: as the methods of the API.

Two kinds of mounts: root's, which speaks for the users of its programs, and one by a token, on
which all programs are who the token is of.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from dataplatform_clients.fuse.door import kernel
from dataplatform_clients.fuse.door.requests import Requests
from tests.mount.mounts import Mount, ground, reason_to_skip

from .cells import ANA_UID, CELLS, STAFF_GID, Cell, World, expected, with_world
from .programs import LOCAL, PROGRAMS, Program, Worker

SPEAKING = "root's"


def test_every_operation_of_the_kernel_is_in_the_matrix() -> None:
    handled = {kernel.NAMES[number].upper() for number in Requests(MagicMock())._handlers}
    known = {name for name in PROGRAMS if name.isupper()} | LOCAL.keys()
    assert handled == known


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every user can reach."""
    directory = ground()
    yield directory
    shutil.rmtree(directory)


def _wanted(program: Program, cell: Cell, kind: str) -> str:
    wanted = expected(cell, program.about, changes=program.changes)
    if program.kernel_first and cell.name == "allowed by expression" and kind == SPEAKING:
        return "DENIED"
    return wanted


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
async def test_a_mount_gives_the_same_verdict(tmp_path: Path, directory: Path) -> None:
    wrong: list[str] = []

    async def test(world: World) -> None:
        socket = str(world.server.endpoints.socket)
        speaking = Mount(socket, directory / "speaking")
        mounts = {SPEAKING: speaking}
        for name in ("ana", "reader"):
            file = directory / f"{name}.token"
            file.write_text(world.tokens[name])
            file.chmod(0o600)
            options = ("-o", f"token_file={file}")
            mounts[name] = Mount(socket, directory / name, "/", *options)
        workers = {
            SPEAKING: await Worker.start(ANA_UID, [STAFF_GID]),
            "ana": await Worker.start(0, []),
        }
        workers["reader"] = workers["ana"]
        try:
            for mount in mounts.values():
                await asyncio.to_thread(mount.start)
            for cell in CELLS:
                if cell.token == "inmate":
                    continue  # such a mount is refused: see below
                kinds = (SPEAKING, "ana") if cell.token == "ana" else ("reader",)
                for kind in kinds:
                    for program in PROGRAMS.values():
                        wanted = _wanted(program, cell, kind)
                        base = await world.directory(cell, wanted, changes=program.changes)
                        place = f"{mounts[kind].mountpoint}{base}"
                        got = await workers[kind].do(program, place)
                        if got != wanted:
                            wrong.append(
                                f"{program.work}, {cell.name}, {kind}: {got}, not {wanted}"
                            )
            file = directory / "inmate.token"
            file.write_text(world.tokens["inmate"])
            file.chmod(0o600)
            outside = Mount(socket, directory / "inmate", "/", "-o", f"token_file={file}")
            with pytest.raises(AssertionError, match="dp mount ended"):
                await asyncio.to_thread(outside.start)
            for mount in mounts.values():
                await asyncio.to_thread(mount.unmount)
        finally:
            for mount in mounts.values():
                await asyncio.to_thread(mount.end)
            for worker in {workers[SPEAKING], workers["ana"]}:
                await worker.end()

    await with_world(tmp_path, test)
    assert not wrong, "\n".join(wrong)
