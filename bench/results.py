"""What was measured, as medians, and whether it is what is asked."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .sides import OURS, Label
from .works import Asked, Work


@dataclass(slots=True)
class Figure:
    """One way of one side: what it gave in each turn."""

    side: str
    label: Label
    values: list[float] = field(default_factory=list)
    problem: str = ""
    """Why it has no figure."""

    @property
    def is_ours(self) -> bool:
        return self.side == OURS and not self.label.is_baseline

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values and not self.problem else None


@dataclass(slots=True)
class Result:
    """A work with all its figures, ours first."""

    name: str
    work: Work
    figures: list[Figure]

    @property
    def ours(self) -> Figure | None:
        return next((figure for figure in self.figures if figure.is_ours), None)

    @property
    def rivals(self) -> list[Figure]:
        return [figure for figure in self.figures if not figure.is_ours]

    def ratio(self, rival: Figure) -> float | None:
        """Our figure divided by theirs: of rates more is better, of times less."""
        ours = self.ours.median if self.ours else None
        return ours / rival.median if ours and rival.median else None

    def is_reached(self) -> bool | None:
        """Whether it is what is asked; None where nothing is, or where it cannot be told."""
        value = self.ours.median if self.ours else None
        ratio = self._ratio_to_best()
        return judge(self.work.asked, value, ratio, self.work.is_time)

    def _ratio_to_best(self) -> float | None:
        asked = self.work.asked
        ratios = [
            ratio
            for rival in self.rivals
            if rival.side in asked.of and rival.label.label.startswith(asked.way)
            if (ratio := self.ratio(rival)) is not None
        ]
        if not ratios:
            return None
        return max(ratios) if self.work.is_time else min(ratios)


def judge(asked: Asked, value: float | None, ratio: float | None, is_time: bool) -> bool | None:
    """Whether `value`, which is `ratio` times the best rival's, is what is asked. Anything missed
    is missed; else, what cannot be told makes that it cannot be told."""
    verdicts: list[bool | None] = []
    if asked.at_least is not None:
        verdicts.append(None if value is None else value >= asked.at_least)
    if asked.at_most is not None:
        verdicts.append(None if value is None else value <= asked.at_most)
    if asked.times is not None:
        better = ratio is not None and (ratio <= asked.times if is_time else ratio >= asked.times)
        verdicts.append(None if ratio is None else better)
    if False in verdicts:
        return False
    return None if not verdicts or None in verdicts else True


def asked_text(asked: Asked, unit: str, is_time: bool) -> str:
    """What is asked, in words: `≥ 500 MB/s and ≥ 0.6× disk`."""
    parts = []
    if asked.at_least is not None:
        parts.append(f"≥ {number(asked.at_least)} {unit}")
    if asked.at_most is not None:
        parts.append(f"≤ {number(asked.at_most)} {unit}")
    if asked.times is not None:
        names = [asked.way] if asked.way else list(asked.of)
        best = "small directory" if asked.of == (OURS,) else " or ".join(names)
        parts.append(f"{'≤' if is_time else '≥'} {asked.times:g}× {best}")
    return " and ".join(parts)


def number(value: float) -> str:
    """`1,234,567`, `214`, `3.5`: three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def as_json(result: Result) -> dict[str, Any]:
    def figure_json(figure: Figure) -> dict[str, Any]:
        return {
            "side": figure.side,
            "way": figure.label.label,
            "durability": figure.label.durability,
            "figure": figure.median,
            "turns": figure.values,
            "problem": figure.problem or None,
        }

    ours = result.ours
    return {
        "work": result.name,
        "title": result.work.title,
        "unit": result.work.unit,
        "ours": figure_json(ours) if ours else None,
        "peers": [{**figure_json(rival), "ratio": result.ratio(rival)} for rival in result.rivals],
        "asked": asked_text(result.work.asked, result.work.unit, result.work.is_time) or None,
        "reached": result.is_reached(),
    }


HEADERS = (
    "work", "figure", "durability", "peer", "its figure", "its durability", "ratio", "asked",
    "reached",
)  # fmt: skip

WORDS = {True: "yes", False: "NO", None: "–"}


def rows(result: Result) -> list[Sequence[str]]:
    """The lines of the table: what is ours stands in the first, and each rival has one."""
    work, ours = result.work, result.ours
    asked = asked_text(work.asked, work.unit, work.is_time)
    first = (f"{work.title} ({result.name})", _value(ours, work), _durability(ours))
    last = (asked or "–", WORDS[result.is_reached()] if asked else "–")
    lines: list[Sequence[str]] = []
    rivals: Sequence[Figure | None] = result.rivals or [None]
    for rival in rivals:
        theirs = ("–", "–", "–", "–")
        if rival is not None:
            ratio = result.ratio(rival)
            theirs = (
                f"{rival.side}: {rival.label.label}",
                _value(rival, work),
                _durability(rival),
                f"{ratio:.2f}×" if ratio else "–",
            )
        is_first = not lines
        lines.append(
            (*(first if is_first else ("",) * 3), *theirs, *(last if is_first else ("", "")))
        )
    return lines


def _value(figure: Figure | None, work: Work) -> str:
    if figure is None:
        return "–"
    if figure.median is None:
        return figure.problem or "–"
    return f"{number(figure.median)} {work.unit}"


def _durability(figure: Figure | None) -> str:
    return figure.label.durability if figure else "–"
