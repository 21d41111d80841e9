"""The memory that requests are read to: never read to while somebody refers to it."""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.base.limits import KIB
from dataplatform.transport.addresses import Address
from dataplatform_clients.fuse.areas import (
    NAMED_BYTES_MIN,
    REQUEST_BYTES,
    SLOT_BYTES,
    SLOTS_MAX,
    WRITE_BYTES_MAX,
    WRITE_HEAD_BYTES,
    Areas,
)


class Connection:
    """A server on this machine, which opens the descriptor."""

    def __init__(self, *, refuses: bool = False, unix: bool = True) -> None:
        self.address = Address("dp+unix", path="/s") if unix else Address("dp", "h", 1)
        self.refuses = refuses
        self.memory = -1

    async def call(self, method: Any, message: pb.ShareRequest) -> Any:
        if self.refuses:
            raise Invalid("no")
        self.memory = os.dup(message.descriptor)
        assert os.fstat(self.memory).st_size == message.size
        return pb.Empty(), b""

    def read(self, at: int, length: int) -> bytes:
        return os.pread(self.memory, length, at)


def shared() -> tuple[Areas, Connection, Any]:
    areas, connection = Areas(may_share=True), Connection()
    area = asyncio.run(areas.share(connection))  # type: ignore[arg-type]
    assert area is not None
    return areas, connection, area


def arrives(areas: Areas, data: bytes) -> memoryview:
    """A write is read, as the kernel writes it, and its bytes are kept."""
    view = areas.view
    assert len(view) == REQUEST_BYTES
    end = WRITE_HEAD_BYTES + len(data)
    view[:end] = b"\xff" * WRITE_HEAD_BYTES + data
    areas.keep(end)
    return view[WRITE_HEAD_BYTES:end]


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_is_kept_never_changes(seed: int, is_shared: bool) -> None:
    rng = random.Random(seed)
    areas = shared()[0] if is_shared else Areas(may_share=False)
    kept: deque[tuple[memoryview, bytes]] = deque()
    for number in range(300):
        mark = bytes([number % 251])
        size = rng.choice([32 * KIB, 64 * KIB, 128 * KIB, WRITE_BYTES_MAX, rng.randint(1, 2**20)])
        kept.append((arrives(areas, mark * size), mark))
        areas.view[:4096] = bytes(4096)  # a small request, of which nothing is kept
        if len(kept) > rng.choice([5, 30, 80]):
            for _ in range(rng.randint(1, 20)):
                view, mark = kept.popleft() if rng.random() < 0.8 else kept.pop()
                assert view == mark * len(view)
                del view
                if not kept:
                    break
    for view, mark in kept:
        assert view == mark * len(view)


def test_slots_are_used_again() -> None:
    areas, _, area = shared()
    for _ in range(10 * SLOTS_MAX):
        view = arrives(areas, bytes(WRITE_BYTES_MAX))
        assert area.find(view) is not None
    assert len(area._slots) <= 3


def test_a_slot_holds_four_of_the_largest_writes_and_they_begin_with_a_page() -> None:
    areas, _, area = shared()
    places = [area.find(arrives(areas, bytes(WRITE_BYTES_MAX))) for _ in range(8)]
    assert all(place % 4096 == 0 for place in places)
    assert [place // SLOT_BYTES for place in places] == [0] * 4 + [1] * 4


def test_more_than_there_is_goes_to_memory_that_is_not_shared() -> None:
    areas, _, area = shared()
    kept = [arrives(areas, bytes(WRITE_BYTES_MAX)) for _ in range(4 * SLOTS_MAX + 2)]
    request = pb.WriteRequest()
    assert areas.name(request, kept[-1]) is None
    assert areas.name(request, [kept[0], kept[-1]]) is None
    assert request == pb.WriteRequest()
    kept.clear()
    arrives(areas, b"")
    while area.find(areas.view) is None:
        arrives(areas, bytes(WRITE_BYTES_MAX))


def test_what_is_named_is_what_the_server_reads() -> None:
    areas, connection, area = shared()
    data = os.urandom(100 * KIB)
    request = pb.WriteRequest(offset=5)
    assert areas.name(request, [arrives(areas, data)]) is area
    assert (request.area, request.length) == (area.number, len(data))
    assert connection.read(request.at, request.length) == data


def test_every_part_is_named_and_belongs_where_its_run_does() -> None:
    areas, connection, area = shared()
    datas = [os.urandom(NAMED_BYTES_MIN + n) for n in range(5)]
    parts = [arrives(areas, data) for data in datas]
    request = pb.WriteRequest()
    runs = ((1000, parts[:2]), (9_000_000, parts[2:]))
    for offset, run in runs:
        request.parts.add(offset=offset, length=sum(map(len, run)))
    assert areas.name(request, parts) is area
    for number, part in enumerate(request.parts):
        offset, first = (1000, 0) if number < 2 else (9_000_000, 2)
        assert part.offset == offset + sum(map(len, datas[first:number]))
        assert connection.read(part.at, part.length) == datas[number]
    one_run = pb.WriteRequest(offset=7)
    areas.name(one_run, parts[:3])
    assert [p.offset for p in one_run.parts] == [7, 7 + len(datas[0]), 7 + len(datas[0] + datas[1])]


def test_small_writes_and_other_memory_are_not_named() -> None:
    areas, _, _ = shared()
    small, large = arrives(areas, bytes(NAMED_BYTES_MIN - 1)), arrives(areas, bytes(100 * KIB))
    request = pb.WriteRequest()
    for data in (small, [large, small], bytes(100 * KIB), [large, bytearray(100 * KIB)]):
        assert areas.name(request, data) is None


def test_nothing_is_read_to_an_area_that_is_abandoned() -> None:
    areas, connection, area = shared()
    kept = arrives(areas, b"x" * 100 * KIB)
    areas.abandon(area)
    assert area.find(areas.view) is None
    assert areas.name(pb.WriteRequest(), kept) is None
    assert kept == b"x" * 100 * KIB
    again = asyncio.run(areas.share(Connection()))  # type: ignore[arg-type]
    assert again is not None
    assert again.number != area.number
    areas.abandon(area)  # the news of the old connection's end comes late
    assert areas.is_shared
    assert areas.name(pb.WriteRequest(), kept) is None
    assert connection.read(4096, 10) == b"x" * 10


@pytest.mark.parametrize(
    "connection", [Connection(refuses=True), Connection(unix=False)], ids=["refused", "tcp"]
)
def test_without_sharing_it_goes_on(connection: Connection) -> None:
    areas = Areas(may_share=True)
    assert asyncio.run(areas.share(connection)) is None  # type: ignore[arg-type]
    assert areas.name(pb.WriteRequest(), arrives(areas, bytes(100 * KIB))) is None
