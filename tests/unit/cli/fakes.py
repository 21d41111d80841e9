"""A client that keeps nothing and answers what a test tells it; it remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

import dataplatform
from dataplatform_clients.cli import main

STAT = dataplatform.Stat(
    kind="file",
    size=5,
    mode=0o644,
    uid=1,
    gid=2,
    links=1,
    volume=1,
    inode=7,
    version=42,
    atime_ns=0,
    mtime_ns=1_700_000_000_123_456_789,
    ctime_ns=0,
    birth_ns=0,
)


class Answers:
    """Every method not defined here answers from `answers`: a value, an exception to raise, or a
    function of the arguments. It may be a client, a table, a stream, a producer or a consumer."""

    as_of_ns = 0  # nothing was read from a mirror

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            self.asked.append((name, args, kwargs))
            answer = self.answers.get(name)
            if isinstance(answer, BaseException):
                raise answer
            return answer(*args, **kwargs) if callable(answer) else answer

        return ask

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(self.answers["records"])

    def last(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        return self.asked[-1]


class Command:
    """`dp = Command(...); dp("ls", "/")` runs a command line here: its code, output and errors."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], client: Any
    ) -> None:
        self.client = client
        self.connected: list[tuple[Any, ...]] = []
        self._capsys = capsys

        def connect(*args: Any, **options: Any) -> Any:
            self.connected.append(args)
            return client

        monkeypatch.setattr(dataplatform, "connect", connect)
        for name in ("DP_SERVER", "DP_TOKEN", "DP_DEBUG"):
            monkeypatch.delenv(name, raising=False)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = main.run(arguments)
        out, err = self._capsys.readouterr()
        return code, out, err
