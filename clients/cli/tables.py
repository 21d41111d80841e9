"""Tables: `dp table create | put | get | delete | increment | scan | load | info`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import DATA, Json, RemotePath, app, command, group
from .connections import connect
from .outputs import Size
from .parsing import format_value, parse_columns, parse_duration, parse_names, parse_value
from .progress import Progress

if TYPE_CHECKING:
    from dataplatform import Client, Row, Table

table = group(app, "table", "Rows of named columns, in the order of their keys.", DATA)

Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]
Columns = Annotated[
    Any,
    typer.Option("--columns", parser=parse_names, metavar="A,B", help="Only these columns."),
]
IfVersion = Annotated[
    int | None,
    typer.Option(
        "--if-version", min=0, metavar="N", help="Only if the row has this version (0: no row)."
    ),
]
Ttl = Annotated[
    timedelta | None,
    typer.Option("--ttl", parser=parse_duration, metavar="30d", help="Rows live so long."),
]


def open_table(client: Client, path: str) -> Table:
    """The table at `path`; NotFound says how to create it."""
    import dataplatform

    try:
        return client.table(path)
    except dataplatform.NotFound as error:
        raise dataplatform.NotFound(
            f"no such table: create it with `dp table create {shlex.quote(path)}`", path=path
        ) from error


@command(table, "create", "dp table create /projects/cars/vehicles --ttl 30d")
def create(
    path: RemotePath,
    ttl: Ttl = None,
    has_parents: Annotated[
        bool, typer.Option("-p", "--parents", help="Directories above it too; it may exist.")
    ] = False,
) -> None:
    """Create a table. With --ttl a row disappears that long after it was last put."""
    with connect() as client:
        client.create_table(path, ttl=ttl, parents=has_parents, exist_ok=has_parents)


@command(
    table,
    "put",
    "dp table put /projects/cars/vehicles vin-1 model=ES8 km=12",
    """dp table put /projects/cars/vehicles vin-1 'tags=["new","blue"]' owner=null""",
)
def put(
    path: RemotePath,
    key: Key,
    columns: Annotated[list[str], typer.Argument(metavar="COLUMN=VALUE", show_default=False)],
    if_version: IfVersion = None,
    is_whole: Annotated[
        bool, typer.Option("--replace", help="These columns are the whole row.")
    ] = False,
    json: Json = False,
) -> None:
    """Set columns of a row; the others stay.

    A value is JSON (12, true, null, "text", [1,2]); what is no JSON is text as it stands.
    {"base64": "AAEC"} means bytes. With --json the row's new version is printed.
    """
    values = parse_columns(columns)
    with connect() as client:
        version = open_table(client, path).put(key, values, if_version=if_version, replace=is_whole)
        if json:
            outputs.json_line({"key": key, "version": version})


@command(table, "get", "dp table get /projects/cars/vehicles vin-1 --json")
def get(path: RemotePath, key: Key, columns: Columns = None, json: Json = False) -> None:
    """Print one row. In a pipe, a line for each column: its name and its value."""
    with connect() as client:
        row = open_table(client, path).get(key, columns)
        if row is None:
            raise _no_row(path, key)
        if json:
            outputs.json_line(outputs.row_json(row))
        else:
            outputs.fields({name: format_value(value) for name, value in row.columns.items()})


def _no_row(path: str, key: str) -> Exception:
    import dataplatform

    return dataplatform.NotFound("row not found", table=path, key=key)


@command(
    table,
    "delete",
    "dp table delete /projects/cars/vehicles vin-1",
    "dp table delete /projects/cars/vehicles vin-1 --columns km",
)
def delete(
    path: RemotePath, key: Key, columns: Columns = None, if_version: IfVersion = None
) -> None:
    """Delete a row, or only some of its columns. Fails if there was nothing to delete."""
    with connect() as client:
        if not open_table(client, path).delete(key, columns, if_version=if_version):
            raise _no_row(path, key)


@command(
    table,
    "increment",
    "dp table increment /projects/cars/vehicles vin-1 km 5",
    "dp table increment /projects/cars/vehicles vin-1 km -5",
    context_settings={"ignore_unknown_options": True},  # such as -5
)
def increment(
    path: RemotePath,
    key: Key,
    column: Annotated[str, typer.Argument(metavar="COLUMN", show_default=False)],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", show_default=False)] = "1",
    json: Json = False,
) -> None:
    """Add to a number, and print the new value.

    It counts from 0 where there is none.
    """
    number = parse_value(amount)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise typer.BadParameter(f"{amount!r} is not a number", param_hint="AMOUNT")
    with connect() as client:
        value = open_table(client, path).increment(key, column, number)
        if json:
            outputs.json_line({"key": key, "column": column, "value": value})
        else:
            outputs.line(str(value))


@command(
    table,
    "scan",
    "dp table scan /projects/cars/vehicles --prefix vin- --where 'km > 10' --limit 100",
    "dp table scan /projects/cars/vehicles --columns model,km --json",
)
def scan(
    path: RemotePath,
    prefix: Annotated[str | None, typer.Option(metavar="P", help="Keys that begin with P.")] = None,
    start: Annotated[str | None, typer.Option(metavar="K", help="From key K on.")] = None,
    end: Annotated[str | None, typer.Option(metavar="K", help="Before key K.")] = None,
    columns: Columns = None,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help="Rows that match, such as 'km > 10'.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, metavar="N", help="So many at most.")] = None,
    is_reverse: Annotated[bool, typer.Option("--reverse", help="From the last key down.")] = False,
    json: Json = False,
) -> None:
    """Print rows in the order of their keys.

    In a pipe, a line holds the key and then COLUMN=VALUE as `dp table put` takes them; with
    --columns only the values, in that order. docs/tables.md explains filters.
    """
    with connect() as client:
        pages = open_table(client, path).scan_pages(
            prefix, start, end, columns, where, limit, is_reverse
        )
        print_rows(pages, columns, json=json)


def print_rows(pages: Iterable[list[Row]], columns: list[str] | None = None, *, json: bool) -> None:
    """Pages of rows; `columns` are those that were asked for, None for all."""
    for page in pages:
        if json:
            for row in page:
                outputs.json_line(outputs.row_json(row))
        elif columns is not None or outputs.is_terminal():
            names = columns or list(dict.fromkeys(name for row in page for name in row.columns))
            outputs.table(("key", *names), ([row.key, *_cells(row, names)] for row in page))
        else:
            for row in page:
                assignments = (f"{n}={format_value(v)}" for n, v in row.columns.items())
                outputs.line("\t".join((outputs.plain(_key(row)), *assignments)))


def _key(row: Row) -> str:
    return row.key if isinstance(row.key, str) else outputs.to_json(row.key)


def _cells(row: Row, names: list[str]) -> list[Any]:
    """None where the row has no such column; a null says so."""
    cells: list[Any] = []
    for name in names:
        value = row.columns.get(name)
        is_itself = name not in row.columns or type(value) in (int, float)
        cells.append(value if is_itself else format_value(value))
    return cells


@command(
    table,
    "load",
    "dp table load /projects/planes planes.csv --key tailnum",
    "dp table load /projects/weather weather.parquet --key origin,time_hour",
)
def load(
    path: RemotePath,
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    key: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="The column, or columns as a,b, that make the key."),
    ],
    format: Annotated[
        str | None, typer.Option(metavar="csv|jsonl|parquet", help="If FILE's name does not say.")
    ] = None,
    is_whole: Annotated[
        bool, typer.Option("--replace", help="Each line is the whole row.")
    ] = False,
    json: Json = False,
) -> None:
    """Put every row of a CSV, JSON Lines or Parquet file (`-`: standard input) into a table.

    A table that is not there is created.
    """
    import dataplatform

    if file != "-":
        open(file, "rb").close()  # says at once, and in our words, if it cannot be read
    with connect() as client, Progress("load", unit="rows") as progress:
        source = sys.stdin.buffer if file == "-" else file
        try:
            target = client.table(path)
        except dataplatform.NotFound:
            target = client.create_table(path)
            outputs.note(f"created the table {path}")
        rows = target.load(source, key, format=format, replace=is_whole, progress=progress.advance)
    if json:
        outputs.json_line({"path": path, "rows": rows})
    else:
        outputs.line(f"{rows:,} rows" if outputs.is_terminal() else f"{rows} rows")


@command(table, "info", "dp table info /projects/cars/vehicles")
def info(path: RemotePath, json: Json = False) -> None:
    """Show how many rows and bytes a table has, and its settings."""
    with connect() as client:
        found = open_table(client, path).info()
        if json:
            outputs.json_line(found)
            return
        outputs.fields(
            {
                "path": found.path,
                "rows": found.rows,
                "size": Size(found.size_bytes),
                "ttl": found.ttl,
                "version": str(found.stat.version),
            }
        )
