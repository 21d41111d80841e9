from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .fakes import Answers, Command


@pytest.fixture
def dp(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Command]:
    """`dp(method=answer, …)`: the command over a client that answers so."""

    def make(**answers: Any) -> Command:
        return Command(monkeypatch, capsys, Answers(**answers))

    return make
