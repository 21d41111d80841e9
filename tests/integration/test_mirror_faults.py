"""Whatever breaks, a mirror is a commit that its source had, byte for byte; and comes to be the one
that it has now."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from .clusters import Network
from .mirroring import MIRROR, PATH, World, assert_clean, mirrored, until

log = logging.getLogger(__name__)

pytestmark = pytest.mark.skipif(
    bool(Network.reason_to_skip()), reason=Network.reason_to_skip() or "none"
)

FAULTS = 4
FAULTS_SYSTEM = 200


def _campaign(world: World, faults: int) -> Counter[str]:
    """Faults while somebody writes; after each the mirror is looked at."""
    said: Counter[str] = Counter()
    for _ in range(faults):
        said[world.write_while(lambda: world.break_something(1.0))] += 1
        world.write(2)
        if until(lambda: world.look() or world.is_empty(), "a commit that was looked at"):
            said["looked at"] += 1
    return said


def test_a_mirror_is_a_commit_of_its_source(tmp_path: Path, seed: int) -> None:
    with mirrored(tmp_path, seed) as world:
        _campaign(world, FAULTS)
        world.wait_equal()
        assert world.compared
        assert_clean(world.east, world.west)


@pytest.mark.system
@pytest.mark.timeout(7200)
def test_hundreds_of_faults(tmp_path: Path, seed: int) -> None:
    """In base copies (every tenth fault begins with a new mirror), catching up, and promoted."""
    with mirrored(tmp_path, seed) as world:
        said: Counter[str] = Counter()
        for turn in range(FAULTS_SYSTEM // 10):
            said += _campaign(world, 10)
            world.wait_equal()
            if turn % 2:
                world.promote_and_fail_back()
            else:
                world.begin_again()
            log.info("%s; compared %d, %d commits", said, world.compared, len(world.commits))
        assert_clean(world.east, world.west)


def test_promoted_written_failed_back(tmp_path: Path, seed: int) -> None:
    with mirrored(tmp_path, seed) as world:
        world.write(10)
        world.wait_equal()
        world.promote_and_fail_back()
        world.write(5)
        world.wait_equal()
        assert_clean(world.east, world.west)


def test_a_mirror_of_a_mirror(tmp_path: Path, seed: int) -> None:
    """Three clusters in a row, of which now one, now another is cut off or killed."""
    with mirrored(tmp_path, seed, three=True) as world:
        north = world.north
        assert north is not None
        world.write(5)
        world.wait_equal_in_the_north()
        north.host.cut()
        world.write(5)
        world.west.kill()
        north.host.mend()
        world.write(2)
        world.west.start()
        world.east.host.cut()
        north.kill()
        north.start()
        world.east.host.mend()
        world.write(2)
        world.wait_equal_in_the_north()
        assert_clean(world.east, world.west, north)


def test_a_slow_link_that_loses_much(tmp_path: Path, seed: int) -> None:
    """40 ms each way, every twentieth chunk is sent again."""
    with mirrored(tmp_path, seed) as world:
        assert world.relay is not None
        world.relay.delay_s, world.relay.loss = 0.04, 0.05
        world.write(20)
        world.wait_equal()
        assert world.relay.passed_bytes
        assert_clean(world.east, world.west)


@pytest.mark.skipif(
    bool(Network.reason_not_to_shape()), reason=Network.reason_not_to_shape() or "none"
)
def test_a_link_that_the_kernel_slows(tmp_path: Path, seed: int) -> None:
    with mirrored(tmp_path, seed, relayed=False) as world:
        for host in (world.east.host, world.west.host):
            host.shape(delay_ms=20, loss_percent=2)
        world.write(20)
        world.wait_equal()
        assert_clean(world.east, world.west)


def test_a_partition_in_which_both_go_on(tmp_path: Path, seed: int) -> None:
    """The mirror is promoted while its source cannot be reached, and goes on writing, too."""
    with mirrored(tmp_path, seed) as world:
        world.write(5)
        world.wait_equal()
        world.west.host.cut()
        world.write(5)
        with world.west.client() as dp:
            dp.promote_mirror(MIRROR)
            dp.write_file(f"{MIRROR}/west", b"written in the west")
        world.west.host.mend()
        world.fail_back()
        with world.east.client() as dp:
            assert dp.read_file(f"{PATH}/west") == b"written in the west"
        assert_clean(world.east, world.west)
