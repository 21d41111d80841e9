"""The public surface: both runtimes have the same, and importing it costs little."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import dataplatform
from dataplatform import aio
from dataplatform.base.errors import ErrorKind

HEAVY = ["aiokafka", "grpc", "lz4", "numpy", "pandas", "pyarrow", "fsspec"]


@pytest.mark.parametrize(
    "name",
    ["Client", "Table", "Stream", "Producer", "Consumer", "Transaction", "TransactionTable"],
)
def test_aio_has_every_method_with_the_same_parameters(name: str) -> None:
    blocking, asynchronous = getattr(dataplatform, name), getattr(aio, name)
    for method, function in inspect.getmembers(blocking, inspect.isfunction):
        if method.startswith("_") or (name, method) == ("Client", "open"):
            continue
        other: Any = getattr(asynchronous, method)
        assert list(inspect.signature(other).parameters) == list(
            inspect.signature(function).parameters
        ), method
        assert function.__doc__, method


def test_everything_promised_is_exported() -> None:
    for name in dataplatform.__all__:
        assert hasattr(dataplatform, name), name
    for name in aio.__all__:
        assert hasattr(aio, name), name
    for kind in ErrorKind:
        name = kind.name.title().replace("_", "")
        assert issubclass(getattr(dataplatform, name), dataplatform.PlatformError)


def test_importing_takes_nothing_heavy() -> None:
    script = f"import sys, dataplatform; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_server_is_said_soon_and_with_what_to_do() -> None:
    with pytest.raises(dataplatform.Unavailable, match="dp server start"):
        dataplatform.connect("dp+unix:///nowhere/dp.sock", patience_s=0)
    with pytest.raises(dataplatform.Invalid, match="address"):
        dataplatform.connect("http://localhost")
