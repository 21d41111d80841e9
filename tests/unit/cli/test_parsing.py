"""What people write, as values."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from dataplatform_clients import quantities
from dataplatform_clients.cli import parsing


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1 << 20),
        ("10GiB", 10 << 30),
        ("100MiB", 100 << 20),
        ("100 mib", 100 << 20),
        ("4K", 4096),
        ("2G", 2 << 30),
        ("5kb", 5000),
        ("1MB", 1_000_000),
        ("7B", 7),
        ("1.5KiB", 1536),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parsing.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "10 GiBs", "1e9", "10XB", "1,5MB"])
def test_texts_that_are_no_sizes(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 10GiB"):
        parsing.parse_size(text)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("15m", timedelta(minutes=15)),
        ("90s", timedelta(seconds=90)),
        ("500ms", timedelta(milliseconds=500)),
        ("2w", timedelta(weeks=2)),
        ("1d12h", timedelta(days=1, hours=12)),
        ("1.5h", timedelta(minutes=90)),
        ("5M", timedelta(minutes=5)),
    ],
)
def test_durations(text: str, duration: timedelta) -> None:
    assert parsing.parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1y", "1d 2h", "99999999999999d"])
def test_texts_that_are_no_durations(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parsing.parse_duration(text)


@given(st.integers(min_value=0, max_value=10**13))
def test_a_written_duration_is_read_as_the_same(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    assert parsing.parse_duration(quantities.format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ES8", "ES8"),
        ("12", 12),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ('"12"', "12"),
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ('{"base64": "AAH/"}', b"\x00\x01\xff"),
        ('{"base64": "no!"}', {"base64": "no!"}),
        ('{"base64": 1}', {"base64": 1}),
        ("", ""),
        ("NaN", "NaN"),
        ("[1,", "[1,"),
        ("007", "007"),
    ],
)
def test_values(text: str, value: Any) -> None:
    parsed = parsing.parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.sampled_from(["12", "true", '"a"', "{", "a\tb", "é", ""]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner),
    max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_a_written_value_is_read_as_the_same(value: Any) -> None:
    written = parsing.format_value(value)
    assert "\n" not in written
    assert "\t" not in written
    assert parsing.parse_value(written) == value


@given(st.binary())
def test_written_bytes_are_read_as_the_same_or_their_text(value: bytes) -> None:
    read = parsing.parse_value(parsing.format_value(value))
    assert read in (value, value.decode("utf-8", "replace"))


def test_columns() -> None:
    assert parsing.parse_columns(["model=ES8", "km=12", "q=a=b"]) == {
        "model": "ES8",
        "km": 12,
        "q": "a=b",
    }
    for wrong in ("model", "=1"):
        with pytest.raises(typer.BadParameter, match="COLUMN=VALUE"):
            parsing.parse_columns([wrong])


def test_names() -> None:
    assert parsing.parse_names("a, b") == ["a", "b"]
    with pytest.raises(typer.BadParameter):
        parsing.parse_names("a,,b")


def test_topics() -> None:
    assert parsing.parse_topic("/a/s:t") == ("/a/s", "t")
    assert parsing.parse_topic("/a:b/s:t") == ("/a:b/s", "t")
    assert parsing.split_topic("/a:b/s") == ("/a:b/s", "")
    for wrong in ("/a/s", "/a:b/s", "/a/s:", ":t"):
        with pytest.raises(typer.BadParameter, match="PATH:TOPIC"):
            parsing.parse_topic(wrong)


def test_starts() -> None:
    assert parsing.parse_start("latest") == "latest"
    assert parsing.parse_start("17") == 17
    assert parsing.parse_start("2026-01-31T12:00+00:00") == datetime.fromisoformat(
        "2026-01-31T12:00+00:00"
    )
    local = parsing.parse_start("2026-01-31")
    assert isinstance(local, datetime)
    assert local.tzinfo is not None
    with pytest.raises(typer.BadParameter):
        parsing.parse_start("yesterday")


def test_quota() -> None:
    assert parsing.parse_quota("none") == 0
    assert parsing.parse_quota("1GiB") == 1 << 30
    assert math.log2(parsing.parse_quota("1EiB")) == 60
