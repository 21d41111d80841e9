"""Values as JSON: what people see, and what is left of it when they write it back."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.client.literals import from_json, parse, restore, to_json

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
)
ZONES = st.just(UTC) | st.just(timezone(timedelta(hours=2)))
ALL = PLAIN | st.binary() | st.datetimes(timezones=ZONES)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3)
    )


COLUMNS = st.dictionaries(st.text(min_size=1), nested(ALL), max_size=4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"speed=81", '"speed=81"'),
        (b"\xff", '{"base64": "/w=="}'),
        ([{"a": b"\x80"}], '[{"a": {"base64": "gA=="}}]'),
        (math.inf, '{"float": "inf"}'),
        (datetime(2026, 1, 31, tzinfo=UTC), '"2026-01-31T00:00:00+00:00"'),
        ("ä\n", '"ä\\n"'),
    ],
)
def test_how_values_are_spelled(value: Any, text: str) -> None:
    assert to_json(value) == text


def test_spelled_values_mean_what_they_say() -> None:
    assert from_json('[{"base64": "/w=="}, {"float": "-inf"}]') == [b"\xff", -math.inf]
    assert math.isnan(from_json('{"a": {"float": "nan"}}')["a"])
    time = from_json('{"timestamp": "2026-01-31T12:00:00Z"}')
    assert time == datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        '{"base64": "no!"}',
        '{"base64": 1}',
        '{"base64": "/w==", "more": 1}',
        '{"float": "1.5"}',
        '{"float": "x"}',
        '{"timestamp": "2026-01-31T12:00:00"}',
        '{"timestamp": "soon"}',
        '{"timestamp": null}',
    ],
)
def test_what_only_looks_spelled_is_a_map(text: str) -> None:
    assert from_json(text) == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', "[" * 100_000, b"\xff"])
def test_what_is_no_json(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        from_json(text)


@given(COLUMNS)
def test_a_row_that_is_written_back_unchanged_is_the_same(columns: dict[str, Any]) -> None:
    text = to_json(columns)
    assert "\n" not in text
    back = restore(parse(text), columns)
    assert back == columns
    assert list(map(type, back.values())) == list(map(type, columns.values()))


def test_only_the_edited_column_changes() -> None:
    time = datetime(2026, 1, 31, tzinfo=UTC)
    before = {"raw": b"ok", "when": time, "n": 1, "nan": math.nan, "deep": [b"x", b"\xff"]}
    text = to_json(before).replace('"n": 1', '"n": 1.0')
    after = restore(parse(text), before)
    assert after["raw"] == b"ok"
    assert after["when"] is time
    assert type(after["n"]) is float
    assert math.isnan(after["nan"])
    assert after["deep"] == [b"x", b"\xff"]
    assert restore(parse('{"raw": "no"}'), before) == {"raw": "no"}
