"""The memory that workers share: what one wrote, the next one reads."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dataplatform_clients.fuse import handover
from dataplatform_clients.fuse.handover import DIRTY_MAX, SLOTS, UNANSWERED_MAX, Handover


@pytest.fixture
def first() -> Iterator[Handover]:
    made = Handover.create()
    yield made
    made.close()


def successor(of: Handover) -> Handover:
    return Handover(os.dup(of.descriptor))


def test_the_first_worker(first: Handover) -> None:
    assert first.generation == 0
    assert len(first.session) == 16
    assert first.session != bytes(16)
    assert first.greeting == b""
    assert first.journal() == {}
    assert first.dirty() == set()
    assert first.slot_get(0) == first.slot_get(SLOTS - 1) == (0, 0)


def test_a_successor_knows_it_all(first: Handover) -> None:
    first.greeting = b"minor 45"
    first.slot_set(0, 2**63 + 1, 2**64 - 1)
    first.slot_set(SLOTS - 1, 42, 7)
    first.mark_dirty((1, 2**44))
    first.succeed()
    second = successor(first)
    assert second.generation == 1
    assert second.session == first.session
    assert second.greeting == b"minor 45"
    assert second.slot_get(SLOTS - 1) == (42, 7)
    assert second.journal() == {2**63 + 1: (0, 2**64 - 1), 42: (SLOTS - 1, 7)}
    assert second.dirty() == {(1, 2**44)}
    second.forget_dirty()
    assert successor(second).dirty() == set()
    second.close()


def test_requests_that_nobody_answered(first: Handover) -> None:
    uniques = list(range(2, 2 * UNANSWERED_MAX + 22, 2))
    for unique in uniques:
        first.begin_request(unique)
    for unique in (4, uniques[-1], 5):  # the last one found no place, the third never was one
        first.end_request(unique)
    first.begin_request(999)
    second = successor(first)
    assert set(second.take_unanswered()) == {*uniques[:UNANSWERED_MAX], 999} - {4}
    assert second.take_unanswered() == []
    second.begin_request(7)
    second.close()


def test_dirty_inodes_compared_with_a_set(first: Handover, seed: int) -> None:
    rng = random.Random(seed)
    model: set[tuple[int, int]] = set()
    for step in range(20_000):
        key = (rng.randint(1, 3), rng.randint(1, 40))
        if rng.random() < 0.5:
            first.mark_dirty(key)
            model.add(key)
        else:
            first.clear_dirty(key)
            model.discard(key)
        if step % 1000 == 0:
            assert first.dirty() == model
            second = successor(first)
            assert second.dirty() == model
            second.close()


def test_more_dirty_inodes_than_fit(first: Handover) -> None:
    keys = [(1, inode) for inode in range(1, DIRTY_MAX + 11)]
    for key in keys:
        first.mark_dirty(key)
    assert first.dirty() == set(keys)
    second = successor(first)
    assert second.dirty_overflowed
    assert len(second.dirty()) == DIRTY_MAX
    second.forget_dirty()
    assert not second.dirty_overflowed
    second.close()


def test_overflow_ends_when_those_that_did_not_fit_are_clean(first: Handover) -> None:
    for inode in range(1, DIRTY_MAX + 2):
        first.mark_dirty((1, inode))
    assert first.dirty_overflowed
    first.clear_dirty((1, DIRTY_MAX + 1))
    assert not first.dirty_overflowed


def test_a_memory_of_another_layout_is_refused(first: Handover) -> None:
    os.pwrite(first.descriptor, b"DPMOUNT9", 0)
    with pytest.raises(ValueError, match="another version"):
        successor(first)
    small = os.memfd_create("small")
    with pytest.raises(ValueError, match="another size"):
        Handover(small)
    os.close(small)


WRITER = """
import sys
from dataplatform_clients.fuse.handover import Handover
shared = Handover(int(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    slot = number % 8
    shared.slot_set(slot, number << 8 | slot, number)
    shared.mark_dirty((number, number))
    shared.clear_dirty((number - 4, number - 4))
"""


def test_killed_between_any_two_instructions_it_is_still_true(first: Handover) -> None:
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(first.descriptor)],
            pass_fds=[first.descriptor],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        watched = {first.slot_get(0)[1]}
        while len(watched) < 20:
            watched.add(first.slot_get(0)[1])
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        second = successor(first)
        for slot in range(8):
            unique, sequence = second.slot_get(slot)
            # The pair is whole, or the sequence is already of the next request.
            assert unique & 0xFF == slot
            assert unique >> 8 in (sequence, sequence - 8)
        assert all(volume == inode for volume, inode in second.dirty())
        assert 1 <= len(second.dirty()) <= 5
        second.forget_dirty()
        second.close()


def test_the_layout_does_not_change_unnoticed() -> None:
    """Two versions of the program share it during an upgrade: another layout is another MAGIC."""
    assert (handover.MAGIC.to_bytes(8, "little"), handover._WORDS) == (b"DPMOUNT1", 11328)
    places = (handover._GENERATION, handover._SESSION, handover._OVERFLOW, handover._JOURNAL)
    assert places == (1, 2, 4, 64)
