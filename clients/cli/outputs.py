"""Everything that goes to standard output.

Three shapes: `--json`, one JSON value per line; on a terminal, Rich tables and sizes in words;
otherwise plain lines with tabs between the fields, no headers, sizes in bytes. A cell says what it
is by its type (`Size`, `Time`, `timedelta`, …), and is put in words only here.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any

from ..quantities import format_duration

if TYPE_CHECKING:
    from dataplatform import Change, Entry, Record, Row, Stat

BUFFER_BYTES = 1 << 17
"""Python's own 8 KiB would cost a system call for every few records."""

TIMES_NS = (
    "atime_ns",
    "mtime_ns",
    "ctime_ns",
    "birth_ns",
    "created_ns",
    "added_ns",
    "started_ns",
    "since_ns",
    "time_ns",
)


class OutputClosed(Exception):
    """Nobody reads standard output any more: `dp … | head -1` has seen enough."""


class Size(int):
    """Bytes, as a cell."""


class Time(int):
    """Nanoseconds since the epoch, as a cell."""


# ---------------------------------------------------------------------------------- writing


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


_writers: dict[IO[str], IO[bytes]] = {}  # one, but tests replace standard output


def _writer() -> IO[bytes]:
    stdout = sys.stdout
    if stdout not in _writers:
        _writers.clear()
        try:
            raw = io.FileIO(stdout.fileno(), "wb", closefd=False)
        except OSError:  # no file, in tests
            _writers[stdout] = stdout.buffer
        else:
            _writers[stdout] = io.BufferedWriter(raw, BUFFER_BYTES)
    return _writers[stdout]


def write(data: bytes | memoryview) -> None:
    """Raw bytes to standard output."""
    try:
        _writer().write(data)
    except BrokenPipeError as error:
        raise OutputClosed from error


def line(text: str) -> None:
    """One line of text, in UTF-8 whatever the locale says."""
    write(text.encode("utf-8", "backslashreplace") + b"\n")


def flush() -> None:
    """Let readers see it now."""
    try:
        _writer().flush()
    except BrokenPipeError as error:
        raise OutputClosed from error


# ------------------------------------------------------------------------------------- JSON


def to_json(value: Any) -> str:
    """One line of JSON. Bytes become a str when they are UTF-8, else {"base64": "…"}."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError):
        from dataplatform.client.literals import spelled

        return _ENCODER.encode(spelled(value))


def json_line(value: Any) -> None:
    line(to_json(value))


def _default(value: Any) -> Any:
    """As rows are spelled; and what else commands print."""
    from dataplatform.client.literals import literal

    try:
        return literal(value)
    except TypeError:
        pass
    if isinstance(value, timedelta):
        return format_duration(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_mapping(value)
    return repr(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_default)


def as_mapping(value: Any) -> dict[str, Any]:
    """A value of the client as JSON shows it: times as ISO 8601 without loss, modes in octal."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if field.name in TIMES_NS:
            found[field.name.removesuffix("_ns")] = iso(item)
        elif field.name == "mode":
            found["mode"] = f"{item:04o}"
        else:
            found[field.name] = item
    return found


def iso(time_ns: int) -> str:
    """A moment in UTC, to the nanosecond: `2026-01-31T12:00:00.000000001Z`."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def entry_json(entry: Entry | Stat, path: str = "", name: str = "") -> dict[str, Any]:
    """Name, kind and size first; `path` and `name` for a Stat, which knows neither."""
    known = as_mapping(entry)
    first = {
        "name": known.pop("name", name),
        "kind": known.pop("kind"),
        "size": known.pop("size"),
        "path": known.pop("path", path),
    }
    return first | known


def row_json(row: Row) -> dict[str, Any]:
    return {"key": row.key, "columns": row.columns, "version": row.version}


def record_json(record: Record) -> dict[str, Any]:
    return record._asdict() | {"headers": dict(record.headers)}


def change_json(change: Change) -> dict[str, Any]:
    return as_mapping(change) | {"facts": dict(sorted(change.facts.items()))}


# ------------------------------------------------------------------------------------ cells


def plain(cell: Any) -> str:
    """A cell for programs: exact, and without tabs or line ends."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, Time):
        return iso(cell)
    if isinstance(cell, timedelta):
        return format_duration(cell)
    text = str(cell)
    return text if text.isprintable() else to_json(text)


def human(cell: Any) -> str:
    """A cell for people."""
    if isinstance(cell, Size):
        return size_text(cell)
    if isinstance(cell, Time):
        return f"{datetime.fromtimestamp(cell // 1_000_000_000).astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return plain(cell)


def size_text(size: int) -> str:
    """`512 B`, `1.5 KiB`, `10 GiB`."""
    number, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"


# ----------------------------------------------------------------------------------- shapes


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows of cells: a Rich table on a terminal, else a line each with tabs between."""
    if not is_terminal():
        for row in rows:
            line("\t".join(map(plain, row)))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    listed = [tuple(row) for row in rows]
    if not listed:
        return
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        is_number = all(_is_number(row[number]) for row in listed)
        made.add_column(header, justify="right" if is_number else "left", overflow="fold")
    for row in listed:
        made.add_row(*(Text(human(cell)) for cell in row))
    show(made)


def _is_number(cell: Any) -> bool:
    return cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, (bool, Time)))


def fields(values: Mapping[str, Any]) -> None:
    """Named cells, one per line."""
    if not is_terminal():
        for name, cell in values.items():
            line(f"{name}\t{plain(cell)}")
        return
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    for name, cell in values.items():
        made.add_row(Text(name, style="bold"), Text(human(cell)))
    show(made)


def show(renderable: Any) -> None:
    """Something of Rich's, on the terminal."""
    from rich.console import Console

    flush()
    Console(highlight=False).print(renderable)


def note(text: str) -> None:
    """A line for people, on standard error."""
    sys.stderr.write(f"dp: {text}\n")
