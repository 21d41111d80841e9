"""Work over many things, of which one may be damaged: the others have their turn all the same."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from ..base.errors import Corrupt


class Contained:
    """`with damage:` around each step keeps what is damaged to that step; `raise_first`, after the
    last one, says what was met."""

    def __init__(self) -> None:
        self.first: Corrupt | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Corrupt):
            return False
        self.first = self.first or error
        return True

    def raise_first(self) -> None:
        if self.first is not None:
            raise self.first
