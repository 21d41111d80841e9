"""What `dp changes` says to who comes too late."""

from __future__ import annotations

from dataplatform import Stale
from dataplatform_clients.cli.changes import _too_late


def test_who_is_too_late_is_told_what_to_do() -> None:
    error = _too_late("/my cars", Stale("trimmed", since=5, oldest=11))
    assert isinstance(error, Stale)
    assert "`dp changes '/my cars' --since 10`" in str(error)
    assert error.facts == {"since": 5, "oldest": 11}


def test_what_else_is_stale_is_left_as_it_is() -> None:
    error = Stale("fenced")
    assert _too_late("/", error) is error
