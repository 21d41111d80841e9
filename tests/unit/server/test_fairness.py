"""When volumes contend."""

from collections.abc import Callable

from dataplatform.core.principals import Principal
from dataplatform_server.fairness import LASTING_S, Fairness
from dataplatform_server.sessions import Session


def test_contention_lasts_while_requests_go_to_different_volumes() -> None:
    said: list[bool] = []
    timers: list[Callable[[], None]] = []

    def call_later(delay_s: float, callback: Callable[[], None]) -> None:
        assert delay_s == LASTING_S
        timers.append(callback)

    fairness = Fairness(said.append, call_later)
    one, other = (Session(bytes(16), Principal(name)) for name in "ab")
    for _ in range(3):
        fairness.saw(one, 1)
    assert said == []  # one volume alone
    fairness.saw(other, 2)
    fairness.saw(one, 1)
    assert said == [True]
    assert (one.volume, other.volume) == (1, 2)
    fairness.saw(other, 2)
    timers.pop()()
    assert said == [True]
    fairness.saw(other, 2)
    timers.pop()()
    assert said == [True, False]
    fairness.saw(one, 1)
    assert said == [True, False, True]
