"""What one thing has been, and what a crash may have made of it."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Versions(Generic[T]):
    """The states of one thing in order: those from `durable` on may be there after a crash.

    A state is added before it is attempted. What the platform acknowledged as durable, it can only
    go on from; of later states it may show any one, but never a mixture, and nothing else.
    """

    def __init__(self, first: T) -> None:
        self._states = [first]
        self._durable = 0

    @property
    def last(self) -> T:
        return self._states[-1]

    def attempt(self, state: T) -> None:
        self._states.append(state)

    def acknowledge(self) -> None:
        """The last state is durable."""
        self._durable = len(self._states) - 1

    def survive(self, found: T) -> bool:
        """What was found after a crash is a state that may be; whether it is the last one."""
        allowed = self._states[self._durable :]
        assert found in allowed, self._explain(found)
        is_last = found == self.last
        self._states, self._durable = [found], 0
        return is_last

    def _explain(self, found: T) -> str:
        if found in self._states:
            missing = self._durable - self._states.index(found)
            return f"acknowledged as durable, and lost: {missing} states since {_short(found)}"
        states = "\n  ".join(_short(s) for s in self._states[self._durable :])
        return f"never was so: {_short(found)}, but one of\n  {states}"


def _short(state: object) -> str:
    text = repr(state)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)})"
