"""Rows of local files: CSV, JSON Lines, Parquet.

CSV has no types, so each value decides for itself: empty is null; `true` and `false` are bools;
digits, with a sign but without leading zeros, are an int if it fits 64 bits; digits with a point or
an exponent, again without leading zeros, are a float; all else is a str. So "007" stays "007", and
a column may hold several types; pass a JSON Lines file where that matters.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from typing import IO, Any

from ..base.errors import Invalid
from .arrow import pyarrow
from .values import Key

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
PARQUET_ROWS = 10_000
KEY_SEPARATOR = "/"

File = str | os.PathLike[str] | IO[Any]
Rows = Iterator[tuple[Key, dict[str, Any]]]

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?\Z", re.ASCII)
_WORDS = {"": None, "true": True, "false": False}


def csv_value(text: str) -> str | int | float | bool | None:
    """The value that a CSV field stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "0123456789+-.":
        return text
    if _INT.match(text):
        number = int(text)
        return number if -(2**63) <= number < 2**64 else text
    if _FLOAT.match(text):
        with contextlib.suppress(ValueError):
            return float(text)
    return text


def read_rows(file: File, key: str, format: str | None = None) -> Rows:
    """Row keys and columns. `key` names one column, or several, separated by commas."""
    name = _name(file)
    kind = format or FORMATS.get(os.path.splitext(name)[1].lower(), "")
    reader = {"csv": _csv, "jsonl": _json_lines, "parquet": _parquet}.get(kind)
    if reader is None:
        raise Invalid("format is csv, jsonl or parquet", file=name, format=kind)
    keys = [part.strip() for part in key.split(",")]
    for number, columns in enumerate(reader(file), 1):
        yield _key_of(columns, keys, name, number), columns


def _name(file: File) -> str:
    if isinstance(file, (str, os.PathLike)):
        return os.fspath(file)
    return str(getattr(file, "name", ""))


def _key_of(columns: dict[str, Any], keys: list[str], name: str, number: int) -> Key:
    """Takes the key's columns out of the row."""
    parts: list[Key] = []
    for key in keys:
        value = columns.pop(key, None)
        if value is None:
            others = ", ".join(columns)
            raise Invalid("a row has no key", file=name, row=number, column=key, others=others)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # Parquet knows no ints beside nulls
        parts.append(value if isinstance(value, (str, bytes)) else str(value))
    if len(parts) == 1:
        return parts[0]
    return KEY_SEPARATOR.join(p.decode() if isinstance(p, bytes) else p for p in parts)


@contextlib.contextmanager
def _text(file: File) -> Iterator[IO[str]]:
    if isinstance(file, (str, os.PathLike)):
        with open(file, encoding="utf-8-sig", newline="") as opened:
            yield opened
    elif isinstance(file, io.TextIOBase):
        yield file
    else:
        wrapped = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            yield wrapped
        finally:
            wrapped.detach()


def _csv(file: File) -> Iterator[dict[str, Any]]:
    with _text(file) as text:
        reader = csv.reader(text)
        names = next(reader, None)
        if names is None:
            return
        for values in reader:
            if not values:
                continue
            if len(values) != len(names):
                raise Invalid(
                    "a line has another number of fields than the first",
                    file=_name(file),
                    line=reader.line_num,
                    fields=len(values),
                    expected=len(names),
                )
            yield {name: csv_value(value) for name, value in zip(names, values, strict=True)}


def _json_lines(file: File) -> Iterator[dict[str, Any]]:
    with _text(file) as text:
        for number, line in enumerate(text, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise Invalid(
                    "a line is not JSON", file=_name(file), line=number, reason=error
                ) from error
            if not isinstance(value, dict):
                raise Invalid("a line is not a JSON object", file=_name(file), line=number)
            yield value


def _parquet(file: File) -> Iterator[dict[str, Any]]:
    pyarrow()  # or say what to install
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(PARQUET_ROWS):
            yield from map(_plain, batch.to_pylist())


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Only types that a table holds: dates and the like become text."""
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, bytes, list, dict)):
        return value
    if hasattr(value, "isoformat"):
        return value if getattr(value, "tzinfo", None) else value.isoformat()
    return str(value)
