"""The record as a table in Markdown: a line for each work, a column for each place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..results import WORDS, number
from ..sides import OURS
from .records import Record
from .works import WORKS, Goal, Work

BEGIN = "<!-- mount: begin (python -m bench.mount --write) -->"
END = "<!-- mount: end -->"


def verdict(record: Record, name: str, work: Work, goal: Goal) -> tuple[bool | None, float | None]:
    """Whether ours reaches it, and the ratio where it is one; None: it cannot be told."""
    ours = record.median(name, OURS)
    if ours is None:
        return None, None
    if goal.at_least is not None:
        return ours >= goal.at_least, None
    if goal.at_most is not None:
        return ours <= goal.at_most, None
    assert goal.times is not None
    if goal.work:
        rivals = [record.median(goal.work, OURS)]
    else:
        rivals = [record.median(name, place) for place in goal.of]
    found = [rival for rival in rivals if rival]
    if not found:
        return None, None
    ratio = ours / max(found)
    return ratio >= goal.times, ratio


def rows(record: Record) -> list[Sequence[str]]:
    """The lines below the header."""
    places = list(record.places)
    lines: list[Sequence[str]] = [
        ("*durability when a call returns*", *(_durabilities(record, "on_return")), "", ""),
        ("*durability after fsync*", *(_durabilities(record, "on_fsync")), "", ""),
    ]
    for name, work in WORKS.items():
        if name not in record.works:
            continue
        title = f"{work.title}, {work.unit}" if work.unit else work.title
        values = [_value(record, name, place) for place in places]
        lines.append((title, *values, *_asked(record, name, work)))
    return lines


def _durabilities(record: Record, which: str) -> list[str]:
    return [getattr(about.durability, which) for about in record.places.values()]


def _value(record: Record, work: str, place: str) -> str:
    figure = record.works[work].get(place)
    if figure is None:
        return "–"
    if figure.median is None:
        return figure.problem or "–"
    return number(figure.median) + (" (then failed)" if figure.problem else "")


def _asked(record: Record, name: str, work: Work) -> tuple[str, str]:
    """What is asked, and whether it is reached, with the ratios."""
    verdicts = [verdict(record, name, work, goal) for goal in work.goals]
    words = []
    for reached, ratio in verdicts:
        words.append(WORDS[reached] + (f" ({ratio:.2f}×)" if ratio is not None else ""))
    asked = "; ".join(goal.words for goal in work.goals)
    return asked or "–", "; ".join(words) or "–"


def table(record: Record) -> str:
    titles = [about.title for about in record.places.values()]
    header = ("work", *titles, "asked", "reached")
    lines = [header, ["---"] * len(header), *rows(record)]
    body = "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
    return f"{record.machine}; median of {record.rounds} rounds.\n\n{body}\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def write(record: Record, path: Path) -> None:
    """Into the section between the markers, or a new section at the end."""
    text = path.read_text() if path.exists() else ""
    section = f"{BEGIN}\n\n{table(record)}\n{END}"
    if BEGIN in text and END in text:
        before, _, rest = text.partition(BEGIN)
        text = before + section + rest.partition(END)[2]
    else:
        text = f"{text.rstrip()}\n\n## The mount\n\n{section}\n"
    path.write_text(text)
