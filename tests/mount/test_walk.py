"""Random walks beside a local directory, on one mount and on two (see `walk`).

The seeds of a run follow from its own; a failing seed is named, and `--seed N` begins there. The
long campaign takes `DP_TEST_WALKS` seeds (1000). The walk itself is tested: two local directories
are equal, and what is planted on purpose is found.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.servers import ServerProcess

from . import plants
from .conftest import assert_clean
from .hands import Work
from .mounts import TREE, mounted
from .walk import Mismatch, run

log = logging.getLogger(__name__)

SEEDS = 3
SEEDS_SYSTEM = int(os.environ.get("DP_TEST_WALKS", "1000"))
STEPS = 2500
SEEDS_FOR_A_PLANT = 8
STEPS_FOR_A_PLANT = 4000

OF_A_PAIR = (plants.RemembersSizes, plants.RemembersWhatIsNotThere)
OF_ONE = [
    kind
    for kind in vars(plants).values()
    if isinstance(kind, type) and issubclass(kind, Work) and kind not in (Work, *OF_A_PAIR)
]


def _walks(seed: int, count: int, local: Path, *subjects: Path) -> None:
    total: Counter[str] = Counter()
    for number in range(seed, seed + count):
        total += run(number, local, subjects, STEPS)
    log.info("%d walks: %s", count, dict(total.most_common()))


@pytest.mark.parametrize("number", range(SEEDS))
def test_a_mount_equals_a_local_directory(place: Path, local: Path, seed: int, number: int) -> None:
    _walks(seed + number, 1, local, place)


@pytest.mark.parametrize("number", range(SEEDS))
def test_two_mounts_equal_one_local_directory(
    places: tuple[Path, Path], local: Path, seed: int, number: int
) -> None:
    _walks(seed + number, 1, local, *places)


@pytest.mark.skipif(bool(TREE), reason="a plain directory has no options")
def test_mounts_that_share_nothing_with_their_server(
    server: ServerProcess, local: Path, seed: int
) -> None:
    """As on another host: no memory and no disk in common."""
    options = ("-o", "nonear,noatime")
    with mounted(server, "/", *options) as a, mounted(server, "/", *options) as b:
        a.mountpoint.chmod(0o777)
        for subjects in ([a], [a, b]):
            _walks(seed, 1, local, *(mount.mountpoint for mount in subjects))
    assert_clean(server)


@pytest.mark.system
@pytest.mark.timeout(4 * 3600)
def test_a_mount_equals_a_local_directory_for_long(place: Path, local: Path, seed: int) -> None:
    _walks(seed, SEEDS_SYSTEM, local, place)


@pytest.mark.system
@pytest.mark.timeout(4 * 3600)
def test_two_mounts_equal_one_local_directory_for_long(
    places: tuple[Path, Path], local: Path, seed: int
) -> None:
    _walks(seed, SEEDS_SYSTEM, local, *places)


# ---------------------------------------------------------------- the walk itself


@pytest.mark.no_mount
def test_two_local_directories_are_equal(local: Path, seed: int) -> None:
    reference, subject = _two(local)
    run(seed, reference, [subject], STEPS)
    run(seed, reference, [subject, subject], STEPS)


@pytest.mark.no_mount
@pytest.mark.parametrize("plant", OF_ONE, ids=lambda plant: plant.__name__)
def test_a_walk_finds(plant: type[Work], local: Path, seed: int) -> None:
    reference, subject = _two(local)
    with pytest.raises(Mismatch):
        _look_for(plant, seed, reference, subject)


@pytest.mark.no_mount
@pytest.mark.parametrize("plant", OF_A_PAIR, ids=lambda plant: plant.__name__)
def test_a_walk_on_two_mounts_finds(plant: type[Work], local: Path, seed: int) -> None:
    reference, subject = _two(local)
    with pytest.raises(Mismatch):
        _look_for(plant, seed, reference, subject, subject)


def _look_for(plant: type[Work], seed: int, reference: Path, *subjects: Path) -> None:
    for number in range(seed, seed + SEEDS_FOR_A_PLANT):
        run(number, reference, subjects, STEPS_FOR_A_PLANT, plant.__name__)


def _two(local: Path) -> list[Path]:
    if os.geteuid() != 0:
        pytest.skip("acting as other users needs root")
    directories = [local / "reference", local / "subject"]
    for directory in directories:
        directory.mkdir()
        directory.chmod(0o777)
    return directories
