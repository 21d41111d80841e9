"""Turns, step by step: no clock runs and no loop."""

import asyncio
from collections.abc import Callable

from dataplatform.transport.turns import (
    LONG_S,
    QUANTUM_S,
    WEIGHT_MAX,
    Admission,
    Turns,
    Work,
    weight_of,
)


class Loop:
    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.now_s = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((self.now_s + delay_s, callback))

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now_s]
        self.timers = [timer for timer in self.timers if timer not in due]
        for _, callback in due:
            callback()

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


def turns_of(loop: Loop) -> Turns:
    return Turns(lambda callback: loop.soon.append(callback), loop.later, lambda: loop.now_s)


class Client:
    """Wants to make requests that take a tenth of a quantum each."""

    def __init__(self, turns: Turns, group: int, requests: int) -> None:
        self.turns, self.group, self.requests = turns, group, requests
        self.begun = 0

    def take_turn(self) -> bool:
        before = self.begun
        while self.begun < self.requests:
            if self.turns.is_contended and not self.turns.may_begin(self.group):
                self.turns.wait(self, self.group)
                break
            self.begun += 1
            if self.turns.is_contended:
                self.turns.spent(self.group, QUANTUM_S / 10 + 1e-9)
        return self.begun > before


def test_groups_share_turns_and_members_share_their_groups() -> None:
    loop = Loop()
    turns = turns_of(loop)
    turns.is_contended = True
    loud = [Client(turns, 1, 1000) for _ in range(3)]
    quiet = Client(turns, 2, 5)
    for client in loud:
        client.take_turn()
    quiet.take_turn()
    assert quiet.begun == 5  # in the same turn, whatever the others want
    assert sum(c.begun for c in loud) == 10
    for _ in range(29):
        loop.turn()
    assert sum(c.begun for c in loud) == 300
    assert max(c.begun for c in loud) - min(c.begun for c in loud) <= 20  # two turns


def test_everything_is_begun_in_the_end_and_then_nothing_is_scheduled() -> None:
    loop = Loop()
    turns = turns_of(loop)
    turns.is_contended = True
    clients = [Client(turns, n % 2, 25) for n in range(4)]
    for client in clients:
        client.take_turn()
    gone = clients.pop()
    turns.forget(gone)
    for _ in range(20):
        loop.turn()
    assert [c.begun for c in clients] == [25] * 3
    assert not loop.soon


def test_without_contention_nothing_waits() -> None:
    loop = Loop()
    turns = turns_of(loop)
    client = Client(turns, 1, 1000)
    client.take_turn()
    assert client.begun == 1000
    assert not loop.soon


def test_who_waits_goes_on_when_contention_ends() -> None:
    loop = Loop()
    turns = turns_of(loop)
    turns.is_contended = True
    client = Client(turns, 1, 1000)
    client.take_turn()
    turns.is_contended = False
    loop.turn()
    assert client.begun == 1000


class Worker:
    """Has requests that go on after they began."""

    def __init__(self, turns: Turns, group: int, requests: int, weight: int = 1) -> None:
        self.turns, self.group, self.left, self.weight = turns, group, requests, weight
        self.under_way: list[Work] = []

    def take_turn(self) -> bool:
        before = self.left
        while self.left:
            if self.turns.is_contended and not self.turns.may_begin(self.group):
                self.turns.wait(self, self.group)
                break
            self.left -= 1
            self.under_way.append(self.turns.begun(self.group, self.weight))
        return self.left < before


def test_a_group_has_so_much_under_way_and_goes_on_as_it_ends() -> None:
    loop = Loop()
    turns = turns_of(loop)
    turns.is_contended = True
    loud = [Worker(turns, 1, 100) for _ in range(2)]
    quiet = Worker(turns, 2, 3)
    for worker in (*loud, quiet):
        worker.take_turn()
    assert sum(len(w.under_way) for w in loud) == WEIGHT_MAX
    assert len(quiet.under_way) == 3
    loop.turn()
    assert not loop.soon  # nothing spins while nothing ends
    for _ in range(200):
        for worker in loud:
            if worker.under_way:
                worker.under_way.pop(0).end()
        loop.turn()
        assert sum(len(w.under_way) for w in loud) <= WEIGHT_MAX
    assert [w.left for w in loud] == [0, 0]


def test_what_takes_long_does_not_keep_others() -> None:
    loop = Loop()
    turns = turns_of(loop)
    turns.is_contended = True
    stuck = Worker(turns, 1, WEIGHT_MAX)
    stuck.take_turn()
    other = Worker(turns, 1, 1)
    other.take_turn()
    loop.turn()
    assert other.left
    loop.sleep(LONG_S * 1.1)
    loop.turn()
    assert not other.left
    for work in stuck.under_way:
        work.end()  # which it does not mind


def test_large_requests_weigh_more_and_one_may_always_begin() -> None:
    loop = Loop()
    turns = turns_of(loop)
    turns.is_contended = True
    large = Worker(turns, 1, 3, weight_of(64 << 20))
    large.take_turn()
    assert len(large.under_way) == 1
    large.under_way[0].end()
    loop.turn()
    assert len(large.under_way) == 2


def test_who_waits_for_work_goes_on_when_contention_ends() -> None:
    loop = Loop()
    turns = turns_of(loop)
    turns.is_contended = True
    worker = Worker(turns, 1, 100)
    worker.take_turn()
    loop.turn()
    turns.is_contended = False
    loop.turn()
    assert not worker.left


async def test_a_single_request_waits_for_its_turn() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop.call_soon, loop.call_later)
    turns.is_contended = True
    works = [turns.begun(1) for _ in range(WEIGHT_MAX)]
    waiting = asyncio.ensure_future(Admission(turns, 1).wait())
    gone = asyncio.ensure_future(Admission(turns, 1).wait())
    other = await Admission(turns, 2).wait()
    assert not waiting.done()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    works.pop().end()
    work = await waiting
    assert not turns.may_begin(1)
    for one in (*works, work, other):
        one.end()
    assert turns.may_begin(1)
