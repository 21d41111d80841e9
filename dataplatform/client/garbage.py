"""Decoding without the garbage collector looking on.

A page of rows or a batch of records is thousands of small objects at once, none of which can be
part of a cycle. Each 700 of them would start a collection, which finds nothing: a quarter of the
time. One collection happens afterwards instead, if it is due.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No collections within; not even if threads overlap here is it left switched off."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
