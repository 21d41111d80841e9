"""Calls that share a request: each gets its own answer, whatever happens to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dataplatform.base.errors import Conflict, Unavailable
from dataplatform.base.gathering import ITEMS_MAX, UNDER_WAY_MAX, Gatherer


class Server:
    """Doubles numbers. Refuses negative ones, and every request with one among its numbers."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.lost = False
        self.under_way = 0
        self.under_way_max = 0

    async def alone(self, number: int) -> int:
        return (await self.together([number]))[0]

    async def together(self, numbers: Sequence[int]) -> list[int]:
        self.requests.append(list(numbers))
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        for _ in range(3):
            await asyncio.sleep(0)  # as over a wire: never within the same turn
        await self.open.wait()
        self.under_way -= 1
        if self.lost:
            raise Unavailable("gone")
        if min(numbers) < 0:
            raise Conflict("negative", number=min(numbers))
        return [2 * number for number in numbers]


async def test_one_caller_is_alone_and_many_share() -> None:
    server = Server()
    gatherer = Gatherer(server.alone, server.together)
    assert [await gatherer.call(n) for n in range(3)] == [0, 2, 4]
    assert server.requests == [[0], [1], [2]]
    server.requests.clear()
    found = await asyncio.gather(*(gatherer.call(n) for n in range(100)))
    assert found == [2 * n for n in range(100)]
    assert server.requests == [[0], list(range(1, 100))]
    assert gatherer.idle


async def test_they_gather_while_enough_is_under_way() -> None:
    server = Server()
    server.open.clear()
    gatherer = Gatherer(server.alone, server.together)
    calls = []
    for n in range(10):
        calls.append(asyncio.create_task(gatherer.call(n)))
        for _ in range(5):
            await asyncio.sleep(0)
    assert len(server.requests) == UNDER_WAY_MAX
    server.open.set()
    assert await asyncio.gather(*calls) == [2 * n for n in range(10)]
    assert server.under_way_max == UNDER_WAY_MAX
    assert sorted(n for request in server.requests for n in request) == list(range(10))


async def test_a_refused_request_is_made_again_one_by_one() -> None:
    server = Server()
    gatherer = Gatherer(server.alone, server.together)
    found = await asyncio.gather(*(gatherer.call(n) for n in (1, 2, -3, 4)), return_exceptions=True)
    assert found[:2] == [2, 4]
    assert isinstance(found[2], Conflict)
    assert found[3] == 8
    assert server.requests[:2] == [[1], [2, -3, 4]]
    assert sorted(server.requests[2:]) == [[-3], [2], [4]]
    assert gatherer.idle


async def test_a_lost_server_is_told_to_all_and_asked_once() -> None:
    server = Server()
    server.lost = True
    gatherer = Gatherer(server.alone, server.together)
    found = await asyncio.gather(*(gatherer.call(n) for n in range(5)), return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in found)
    assert len({id(error) for error in found}) == 5  # each raises its own, with its own traceback
    assert server.requests == [[0], [1, 2, 3, 4]]
    assert gatherer.idle


async def test_calls_about_one_thing_follow_each_other() -> None:
    server = Server()
    gatherer = Gatherer(server.alone, server.together, subject=lambda n: n % 10)
    numbers = [1, 2, 3, 11, 21, 12, 4]
    found = await asyncio.gather(*(gatherer.start(n) for n in numbers))
    assert found == [2 * n for n in numbers]
    assert server.requests == [[1, 2, 3, 4], [11], [21], [12]]


async def test_more_than_a_request_holds() -> None:
    server = Server()
    gatherer = Gatherer(server.alone, server.together)
    count = 3 * ITEMS_MAX
    assert await asyncio.gather(*(gatherer.start(n) for n in range(count))) == [
        2 * n for n in range(count)
    ]
    assert max(map(len, server.requests)) == ITEMS_MAX


async def test_who_is_cancelled_takes_nobody_along() -> None:
    server = Server()
    server.open.clear()
    gatherer = Gatherer(server.alone, server.together)
    calls = [asyncio.create_task(gatherer.call(n)) for n in range(4)]
    for _ in range(5):
        await asyncio.sleep(0)
    calls[2].cancel()
    server.open.set()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(found[2], asyncio.CancelledError)
    assert [found[0], found[1], found[3]] == [0, 2, 6]
    assert gatherer.idle


async def test_nobody_is_forgotten_behind_calls_that_were_given_up() -> None:
    server = Server()
    gatherer = Gatherer(server.alone, server.together)
    given_up = [gatherer.start(n) for n in range(ITEMS_MAX)]
    wanted = gatherer.start(7)
    for answer in given_up:
        answer.cancel()
    assert await asyncio.wait_for(wanted, 10) == 14
    assert server.requests == [[7]]


async def test_an_error_that_cannot_be_copied_reaches_all() -> None:
    class TwoWordsError(Exception):
        def __init__(self, first: str, second: str) -> None:
            super().__init__(f"{first} {second}")

    async def broken(_: Sequence[int]) -> list[int]:
        raise TwoWordsError("no", "way")

    gatherer = Gatherer(Server().alone, broken)
    found = await asyncio.gather(*(gatherer.start(n) for n in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == ["no way"] * 3
    assert gatherer.idle


async def test_a_defect_reaches_those_it_hit() -> None:
    async def broken(_: Sequence[int]) -> list[int]:
        raise ZeroDivisionError

    server = Server()
    gatherer = Gatherer(server.alone, broken)
    found = await asyncio.gather(*(gatherer.call(n) for n in range(3)), return_exceptions=True)
    assert found[0] == 0
    assert all(isinstance(error, ZeroDivisionError) for error in found[1:])
    with pytest.raises(Conflict):
        await gatherer.call(-1)
