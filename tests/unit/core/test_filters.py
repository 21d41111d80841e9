"""The language of `where`: what it means, and what its errors say."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgpack import Timestamp

from dataplatform.base.errors import Invalid
from dataplatform.core import filters

ROW: dict[str, Any] = {
    "km": 12,
    "price": 9.5,
    "model": "ES8",
    "raw": b"ES8",
    "sold": False,
    "new": True,
    "nothing": None,
    "tags": ["a", "b"],
    "owner": {"name": "ana", "city": {"zip": "80331"}},
    "a.b": 1,
    "total km": 3,
    "back`tick": 4,
    "and": 5,
    "_key": "a column",
    "größe": 7,
    "seen": Timestamp(1_767_225_600, 0),  # 2026-01-01T00:00:00Z
    "nan": float("nan"),
}

TRUE = [
    "km > 10",
    "km>10",
    "km >= 12 and km <= 12 and km = 12 and km == 12 and km != 13 and km <> 13",
    "10 < km",
    "12.0 == km",
    "price < km",
    "km == 12 AND model == 'ES8'",
    'km == 0 Or model = "ES8"',
    "not km == 0",
    "NOT (km == 0 or km == 1)",
    "km == 1 and km == 2 or km == 12",
    "km == 12 or km == 1 and km == 2",
    "(((km == 12)))",
    "model in ['ES6', 'ES8']",
    "km in [1, 12.0]",
    "km not in [1, 2]",
    "km in [12]",
    "missing in [null]",
    "not km in []",
    "missing is null",
    "nothing is null",
    "nothing == null",
    "null == nothing",
    "km is not null",
    "km != null",
    "not missing is not null",
    "new",
    "not sold",
    "true",
    "not false",
    "new == true",
    "sold < new",
    "new in [true]",
    "owner.name == 'ana'",
    "owner . city . zip == '80331'",
    "owner.age is null",
    "km.deeper is null",
    "tags is not null",
    "`a.b` == 1",
    "`total km` == 3",
    "`back``tick` == 4",
    "`and` == 5",
    "`_key` == 'a column'",
    "_key == 'vin-1'",
    "_key >= 'vin-' and _key < 'vin-2'",
    "_key in ['vin-1', 'vin-2']",
    "raw == 'ES8'",
    "raw == model",
    "model == raw",
    "raw in ['ES8']",
    "größe == 7",
    "model == 'E\\u00538'",
    "price > -1e3",
    "price == .95e1",
    "seen >= timestamp '2026-01-01'",
    "seen == timestamp '2026-01-01T01:00:00+01:00'",
    'seen < timestamp "2026-01-01T00:00:00.000001Z"',
    "timestamp is null",
    "nan != nan",
]
FALSE = [
    "km > 12",
    "km == '12'",
    "km != '12'",
    "model > 3",
    "model != 3",
    "missing == 3",
    "missing != 3",
    "missing < 3",
    "nothing < null",
    "new == 1",
    "new in [1]",
    "km in [true, 'x', null]",
    "km",
    "model",
    "missing",
    "tags == tags",
    "tags in ['a']",
    "owner == 'ana'",
    "a.b == 1",
    "seen > 5",
    "seen > '2025-01-01'",
    "seen < seen",
    "nan == nan",
    "_key == 'a column'",
    "1 == 2",
]


@pytest.mark.parametrize("where", TRUE)
def test_true(where: str) -> None:
    assert filters.parse(where)(b"vin-1", ROW) is True


@pytest.mark.parametrize("where", FALSE)
def test_false(where: str) -> None:
    assert filters.parse(where)(b"vin-1", ROW) is False


@pytest.mark.parametrize(
    ("where", "position", "words"),
    [
        ("", 1, "found the end"),
        ("km >", 5, "expected a column or a value"),
        ("km > and", 6, "found 'and'"),
        ("km 10", 4, "expected `and`"),
        ("10", 3, "expected a comparison"),
        ("'x' and km", 5, "expected a comparison"),
        ("km > 10km", 6, "not a number"),
        ("km > 1.2.3", 6, "not a number"),
        ("km > -", 6, "not a number"),
        ("km ~ 3", 4, "unexpected character ~"),
        ("km  ; drop", 5, "unexpected character ;"),
        ("model = 'ES8", 9, "not closed"),
        ("`km", 1, "backticks"),
        ("`` > 1", 1, "backticks"),
        ("(km > 1", 8, "expected `)`"),
        ("km > 1)", 7, "found ')'"),
        ("km in 3", 7, "expected `[`"),
        ("km in [1 2]", 10, "expected `,` or `]`"),
        ("km in [a]", 8, "expected a value"),
        ("km is 3", 4, "expected `and`"),
        ("a. > 1", 4, "expected a column"),
        ("a = 'x\\q'", 7, "unknown escape"),
        ("a = timestamp 'noon'", 15, "ISO 8601"),
        ("(" * 60 + "a" + ")" * 60, 51, "nested deeper"),
        ("not " * 60 + "a", 201, "nested deeper"),
    ],
)
def test_errors_say_where(where: str, position: int, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        filters.parse(where)
    assert caught.value.facts["position"] == position
    assert words in str(caught.value)


def test_length_is_bounded() -> None:
    fits = "_key in [" + ", ".join(f"'{n:06}'" for n in range(1600)) + "]"
    assert filters.parse(fits)(b"001599", {}) is True
    with pytest.raises(Invalid):
        filters.parse("a = '" + "x" * filters.CHARACTERS_MAX + "'")
    assert filters.parse(" and ".join(["km == 12"] * 1000))(b"", ROW) is True


def test_any_text_parses_or_is_invalid(seed: int) -> None:
    rng = random.Random(seed)
    words = [*"()[],.=<>`'\"\\- ", "km", "and", "or", "not", "in", "is", "null", "==", "1", "2.5"]
    words += ["'a'", "true", "timestamp", "é", "\x00", "\n", "1e999", "_key", "!"]
    for _ in range(5000):
        where = " ".join(rng.choices(words, k=rng.randint(0, 12)))
        try:
            test = filters.parse(where)
        except Invalid as error:
            position = error.facts["position"]
        else:
            position = 1
            assert test(b"k", ROW) in (True, False)
        assert 1 <= position <= len(where) + 1, where
