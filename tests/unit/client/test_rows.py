"""Rows and keys on their way to the wire and back."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest

from dataplatform.base.errors import Invalid
from dataplatform.client import rows
from dataplatform.client.values import Row


@pytest.mark.parametrize("key", ["a", "ü", "", b"\xff\x00", "x" * 300])
def test_keys_come_back_as_they_were(key: str | bytes) -> None:
    assert rows.key_value(rows.key_bytes(key)) == key


def test_bytes_that_are_text_come_back_as_text() -> None:
    assert rows.key_value(rows.key_bytes(b"abc")) == "abc"


@pytest.mark.parametrize("key", [5, None, "\udcff", ("a",)])
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(Invalid):
        rows.key_bytes(key)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_a_packed_row_is_key_and_map(size: int) -> None:
    packed = rows.pack_row("k" * size, {"a": 1})
    assert list(msgpack.Unpacker(io.BytesIO(packed))) == [b"k" * size, {"a": 1}]


def test_a_page() -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
    columns = {"n": None, "d": moment, "l": [1, b"x"], "m": {"a": 1.5}}
    page = b"".join(
        [
            msgpack.packb(b"a") + msgpack.packb([7, 0, columns], datetime=True),
            msgpack.packb(b"\xff") + msgpack.packb([8, 99, {}]),
        ]
    )
    assert rows.unpack_page(memoryview(page)) == [Row("a", columns, 7, 0), Row(b"\xff", {}, 8, 99)]
    assert rows.unpack_page(b"") == []


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"a": object()}, "column=`a`, type=`object`"),
        ({"a": 1, "b": 2**65}, "column=`b`"),
        ({5: object()}, "a column's name is a str"),
    ],
)
def test_values_that_cannot_be_stored_name_their_column(columns: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        rows.pack_columns(columns)
