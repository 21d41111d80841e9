"""Modes mean what the builtin `open` means by them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from dataplatform.client.modes import Mode

ALL = ["".join(p) for n in range(5) for p in itertools.permutations("rwaxbt+", n)] + ["rr", "q"]


def test_every_mode_as_the_builtin(tmp_path: Path) -> None:
    for number, mode in enumerate(ALL):
        path = tmp_path / str(number)
        if "x" not in mode:
            path.write_bytes(b"")
        try:
            with open(path, mode) as file:
                expected = file.readable(), file.writable(), hasattr(file, "encoding")
        except ValueError:
            with pytest.raises(ValueError, match="mode"):
                Mode.parse(mode)
        else:
            parsed = Mode.parse(mode)
            assert (parsed.read, parsed.write, parsed.text) == expected, mode


@pytest.mark.parametrize(
    ("mode", "options"),
    [("rb", {"encoding": "utf-8"}), ("wb", {"newline": ""}), ("r", {"buffering": 0})],
)
def test_options_that_do_not_fit(mode: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="mode"):
        Mode.parse(mode, **options)  # type: ignore[arg-type]
