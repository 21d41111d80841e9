"""Turns, step by step: no clock runs and no loop."""

from collections.abc import Callable

from dataplatform.transport.turns import QUANTUM_S, Turns


class Loop:
    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Client:
    """Wants to make requests that take a tenth of a quantum each."""

    def __init__(self, turns: Turns, group: int, requests: int) -> None:
        self.turns, self.group, self.requests = turns, group, requests
        self.begun = 0

    def take_turn(self) -> bool:
        before = self.begun
        while self.begun < self.requests:
            if self.turns.is_contended and not self.turns.may_begin(self.group):
                self.turns.wait(self)
                break
            self.begun += 1
            if self.turns.is_contended:
                self.turns.spent(self.group, QUANTUM_S / 10 + 1e-9)
        return self.begun > before


def test_groups_share_turns_and_members_share_their_groups() -> None:
    loop = Loop()
    turns = Turns(lambda callback: loop.soon.append(callback))
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
    turns = Turns(lambda callback: loop.soon.append(callback))
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
    turns = Turns(lambda callback: loop.soon.append(callback))
    client = Client(turns, 1, 1000)
    client.take_turn()
    assert client.begun == 1000
    assert not loop.soon


def test_who_waits_goes_on_when_contention_ends() -> None:
    loop = Loop()
    turns = Turns(lambda callback: loop.soon.append(callback))
    turns.is_contended = True
    client = Client(turns, 1, 1000)
    client.take_turn()
    turns.is_contended = False
    loop.turn()
    assert client.begun == 1000
