"""JSON shapes and cells."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

import dataplatform
from dataplatform_clients.cli import outputs

from .fakes import STAT


def test_row() -> None:
    row = dataplatform.Row("vin-1", {"model": "ES8", "raw": b"\xff\x00", "text": b"ok"}, 7)
    assert json.loads(outputs.to_json(outputs.row_json(row))) == {
        "key": "vin-1",
        "columns": {"model": "ES8", "raw": {"base64": "/wA="}, "text": "ok"},
        "version": 7,
    }


def test_record() -> None:
    record = dataplatform.Record("t", 1, 2, 3, None, b"\xfe", {"h": b"x", "n": None})
    assert json.loads(outputs.to_json(outputs.record_json(record))) == {
        "topic": "t",
        "partition": 1,
        "offset": 2,
        "timestamp": 3,
        "key": None,
        "value": {"base64": "/g=="},
        "headers": {"h": "x", "n": None},
    }


def test_entry_begins_with_name_kind_and_size() -> None:
    found = outputs.entry_json(STAT, "/a/f", "f")
    assert list(found)[:4] == ["name", "kind", "size", "path"]
    assert found["mode"] == "0644"
    assert found["mtime"] == "2023-11-14T22:13:20.123456789Z"
    assert "mtime_ns" not in found


def test_change() -> None:
    change = dataplatform.Change(3, 1_000_000_001, "row put", "table", "/t", "ana", {"key": "k"})
    assert outputs.change_json(change) == {
        "commit": 3,
        "time": "1970-01-01T00:00:01.000000001Z",
        "event": "row put",
        "kind": "table",
        "path": "/t",
        "principal": "ana",
        "facts": {"key": "k"},
    }


def test_json_has_words_for_everything_a_table_holds() -> None:
    value = {
        "when": datetime(2026, 1, 31, tzinfo=UTC),
        "nan": float("nan"),
        "map": {1: b"\xff", b"k": float("inf"), b"\xff": None},
        "é": "ü\u2028",
    }
    line = outputs.to_json(value)
    assert "\n" not in line
    assert json.loads(line, parse_constant=pytest.fail) == {
        "when": "2026-01-31T00:00:00+00:00",
        "nan": {"float": "nan"},
        "map": {"1": {"base64": "/w=="}, "k": {"float": "inf"}, '{"base64": "/w=="}': None},
        "é": "ü\u2028",
    }


def test_nested_values_of_the_client() -> None:
    part = dataplatform.PartitionInfo(0, 1, 5, 99)
    stream = dataplatform.StreamInfo(
        "/s", 1, timedelta(days=7), "lz4", None, (dataplatform.TopicInfo("t", (part,)),), STAT
    )
    found = json.loads(outputs.to_json(stream))
    assert found["ttl"] == "7d"
    assert found["topics"][0]["partitions"][0]["end_offset"] == 5
    assert found["stat"]["kind"] == "file"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (10 << 30, "10 GiB"),
        (1 << 60, "1.0 EiB"),
        (1 << 71, "2048 EiB"),
    ],
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert outputs.size_text(size) == text


def test_plain_cells_are_exact_and_keep_to_their_line() -> None:
    cells = [None, True, outputs.Size(1536), outputs.Time(1), timedelta(hours=1), "a\tb\n", 1234567]
    assert [outputs.plain(cell) for cell in cells] == [
        "-",
        "yes",
        "1536",
        "1970-01-01T00:00:00.000000001Z",
        "1h",
        '"a\\tb\\n"',
        "1234567",
    ]
    assert outputs.human(outputs.Size(1536)) == "1.5 KiB"
    assert outputs.human(1234567) == "1,234,567"
