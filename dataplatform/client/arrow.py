"""Scans as Arrow tables. The only importer of pyarrow besides `loads`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from ..base.errors import Invalid
from .values import Row


def pyarrow() -> Any:
    """The module, or Invalid with what to install."""
    try:
        import pyarrow
    except ImportError as error:
        raise Invalid("pyarrow is missing: pip install 'dataplatform[arrow]'") from error
    return pyarrow


async def arrow_table(
    pages: AsyncIterator[list[Row]], key: str, columns: Iterable[str] | None
) -> Any:
    """A `pyarrow.Table` of the rows: the key, then the columns in the order they first appear."""
    pa = pyarrow()
    keys: list[Any] = []
    values: dict[str, list[Any]] = {name: [] for name in columns or ()}
    async for page in pages:
        for row in page:
            for name, value in row.columns.items():
                column = values.get(name)
                if column is None:
                    column = values[name] = []
                if len(column) < len(keys):
                    column.extend([None] * (len(keys) - len(column)))
                column.append(value)
            keys.append(row.key)
    if key in values:
        raise Invalid("there is a column of that name: pass key=", key=key)
    arrays = {key: _array(pa, key, keys)}
    for name, column in values.items():
        column.extend([None] * (len(keys) - len(column)))
        arrays[name] = _array(pa, name, column)
    return pa.table(arrays)


def _array(pa: Any, name: str, values: list[Any]) -> Any:
    """Of one type; ints beside floats become floats, str beside bytes become bytes."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        kinds = {type(v) for v in values if v is not None}
    if kinds <= {int, float}:
        return pa.array([None if v is None else float(v) for v in values])
    if kinds <= {str, bytes}:
        return pa.array([v.encode() if isinstance(v, str) else v for v in values])
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise Invalid("a column mixes types that Arrow cannot hold together", column=name, types=names)
