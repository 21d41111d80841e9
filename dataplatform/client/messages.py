"""Requests built from what callers pass: a value that a message cannot hold is their mistake.

protobuf refuses numbers out of range and values of a wrong type with ValueError and TypeError that
do not say which argument it was; `build` makes that INVALID. `whole_number` is for numbers whose
range is narrower than their field's, or that are computed with before they are sent.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from ..base.errors import Invalid

M = TypeVar("M")
P = ParamSpec("P")

INTEGER_MAX = 2**63 - 1
"""Offsets, sizes and commits: they are signed in files and record batches."""


def build(kind: Callable[P, M], /, *args: P.args, **fields: P.kwargs) -> M:
    """A message of this kind. Raises INVALID, naming the field that cannot be what it is."""
    try:
        return kind(*args, **fields)
    except (TypeError, ValueError) as error:
        raise _refusal(kind, fields, error) from None


def _refusal(kind: Callable[..., Any], fields: dict[str, Any], error: Exception) -> Invalid:
    for name, value in fields.items():
        try:
            kind(**{name: value})
        except (TypeError, ValueError):
            what = "is out of range" if isinstance(value, int) else "has a wrong type"
            return Invalid(f"{name} {what}", **{name: value, "type": type(value).__name__})
    return Invalid("the arguments do not fit", reason=error)


def whole_number(name: str, value: Any, first: int = 0, last: int = INTEGER_MAX) -> int:
    """`value`, if it is an integer from `first` to `last`. `name`: of the argument."""
    try:
        number = operator.index(value)
    except TypeError:
        raise Invalid(
            f"{name} is not a whole number", **{name: value, "type": type(value).__name__}
        ) from None
    if not first <= number <= last:
        raise Invalid(f"{name} is out of range", **{name: number, "first": first, "last": last})
    return number
