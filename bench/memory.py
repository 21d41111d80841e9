"""The server's memory as results of their own: at rest, the most during all works, at the end."""

from __future__ import annotations

from . import proc
from .results import Figure, Result
from .sides import OURS, Label
from .works import NOTHING, Asked, Work

REST = Asked(at_most=150)
PEAK = Asked(at_most=1000)


def result(name: str, title: str, size: float, asked: Asked = NOTHING) -> Result:
    figure = Figure(OURS, Label(name, "resident set", "–"), [size / 1e6])
    return Result(name, Work(title, "MB", asked, is_time=True), [figure])


def at_end(pid: int, rest: float) -> list[Result]:
    """What the kernel says of the server that was measured; `rest`: what it had before."""
    return [
        result("memory-rest", "memory of the server at rest", rest, REST),
        result("memory-peak", "its highest", proc.peak_resident_bytes(pid), PEAK),
        result("memory-end", "at the end", proc.resident_bytes(pid)),
    ]
