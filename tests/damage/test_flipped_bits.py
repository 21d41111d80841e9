"""A flipped bit in every kind of stored file: noticed, named with its path, and contained to it.

A failing seed is named; `--seed N` begins the campaigns there. What is not looked at: SlateDB's
manifests, which have no checksum of their own (see docs/reliability.md).
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from .conftest import Images
from .flips import Tally, choose, flipped

SEEDS = 12
SEEDS_SYSTEM = 200

KINDS = [
    ("rocks", "stopped", "format.json"),
    ("rocks", "stopped", "LOCK"),
    ("rocks", "stopped", "db/*.sst"),
    ("rocks", "stopped", "db/MANIFEST-*"),
    ("rocks", "stopped", "db/CURRENT"),
    ("rocks", "stopped", "db/OPTIONS-*"),
    ("rocks", "stopped", "db/IDENTITY"),
    ("rocks", "stopped", "db/rocksdict-config.json"),
    ("rocks", "killed", "db/*.log"),
    ("rocks", "stopped", "segments/*.seg"),
    ("rocks", "killed", "segments/*.seg"),
    ("slate", "stopped", "format.json"),
    ("slate", "stopped", "volume.json"),
    ("slate", "stopped", "compacted/*.sst"),
    ("slate", "killed", "wal/*.sst"),
    ("slate", "stopped", "segments/*"),
]
"""Of each engine: the image, and the files to choose from."""


async def campaign(
    images: Images, kind: tuple[str, str, str], tmp_path: Path, seed: int, count: int
) -> Tally:
    engine, state, pattern = kind
    tally = Tally()
    for number in range(seed, seed + count):
        directory = tmp_path / str(number)
        directory.mkdir()
        world = await images(engine, state)
        flip = choose(random.Random(number), world.path, pattern)
        try:
            tally.count(flip, await flipped(world, directory, flip))
        except AssertionError as error:
            raise AssertionError(f"seed {number}: {error}") from error
        shutil.rmtree(directory, ignore_errors=True)
    return tally


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind).replace("/", " "))
async def test_a_flipped_bit(
    images: Images, kind: tuple[str, str, str], tmp_path: Path, seed: int
) -> None:
    await campaign(images, kind, tmp_path, seed, 3)


@pytest.mark.parametrize("state", ["stopped", "killed"])
async def test_a_flipped_bit_anywhere(
    images: Images, state: str, tmp_path: Path, seed: int
) -> None:
    await campaign(images, ("rocks", state, "*"), tmp_path, seed, SEEDS)


@pytest.mark.system
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind).replace("/", " "))
async def test_many_flipped_bits(
    images: Images, kind: tuple[str, str, str], tmp_path: Path, seed: int
) -> None:
    count = SEEDS_SYSTEM if kind[0] == "rocks" else SEEDS_SYSTEM // 8
    print(dict(await campaign(images, kind, tmp_path, seed, count)))  # noqa: T201  with -s
