"""Rows of local files, and what a CSV value is taken for."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Invalid
from dataplatform.client.loads import csv_value, read_rows


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", "18446744073709551616"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("1e3", 1000.0),
        ("00.5", "00.5"),
        (".", "."),
        ("-", "-"),
        ("e5", "e5"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("NA", "NA"),
        (" 1", " 1"),
        ("1 ", "1 "),
        ("٣", "٣"),
        ("2013-01-01", "2013-01-01"),
        ("5.3.1", "5.3.1"),
    ],
)
def test_csv_values(text: str, value: Any) -> None:
    found = csv_value(text)
    assert (type(found), found) == (type(value), value)


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "planes.csv"
    path.write_text('﻿tail,year,note\nN1,1999,"a, b"\n\nN2,,\n')
    assert list(read_rows(path, "tail")) == [
        ("N1", {"year": 1999, "note": "a, b"}),
        ("N2", {"year": None, "note": None}),
    ]


def test_a_key_of_several_columns() -> None:
    rows = list(read_rows(io.StringIO("a,b,c\nx,1,2\n"), "a, b", "csv"))
    assert rows == [("x/1", {"c": 2})]


def test_binary_files_stay_open() -> None:
    file = io.BytesIO(b"k,v\na,1\n")
    assert list(read_rows(file, "k", "csv")) == [("a", {"v": 1})]
    assert not file.closed


@pytest.mark.parametrize(
    ("content", "format", "says"),
    [
        ("k,v\na\n", "csv", "another number of fields than the first.*line=`2`"),
        ("k,v\n,1\n", "csv", "a row has no key.*row=`1`"),
        ('{"k": 1}\n{"k"\n', "jsonl", "not JSON.*line=`2`"),
        ("[1]\n", "jsonl", "not a JSON object.*line=`1`"),
        ("", "xml", "format is csv, jsonl or parquet"),
    ],
)
def test_bad_files_say_where(content: str, format: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        list(read_rows(io.StringIO(content), "k", format))


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"k": n, "v": [n]}) + "\n" for n in range(3)))
    assert list(read_rows(path, "k")) == [(str(n), {"v": [n]}) for n in range(3)]


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    parquet.write_table(
        pa.table({"k": [1.0, 2.0], "d": [date(2024, 1, 1), None], "t": [moment, None]}), path
    )
    assert list(read_rows(path, "k")) == [
        ("1", {"d": "2024-01-01", "t": moment}),
        ("2", {"d": None, "t": None}),
    ]
