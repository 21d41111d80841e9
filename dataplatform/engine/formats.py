"""`format.json`: which engine and which format a data directory or bucket prefix holds.

It is written once, when the place is made, and read before anything else is touched.
On disk; the fields must not change their meaning:

- ``format``: a number. A reader refuses any that is higher than its own.
- ``engine``: "rocks" or "slate".
- ``written_by``: the version that made the place, for the message when it is refused.
"""

from __future__ import annotations

import importlib.metadata
import json

from ..base.errors import Invalid

FORMAT = 1
NAME = "format.json"


def describe(engine: str) -> bytes:
    """What a new place gets."""
    try:
        version = importlib.metadata.version("dataplatform")
    except importlib.metadata.PackageNotFoundError:
        version = "unreleased"
    fields = {"format": FORMAT, "engine": engine, "written_by": f"dataplatform {version}"}
    return json.dumps(fields).encode() + b"\n"


def check(data: bytes, engine: str, place: str) -> None:
    """INVALID unless `data` describes a place that this version of `engine` can use."""
    try:
        fields = json.loads(data)
        found, number = str(fields["engine"]), int(fields["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{NAME} is not readable", place=place, cause=error) from None
    if number > FORMAT:
        writer = fields.get("written_by", "a newer version")
        raise Invalid(
            f"data has a newer format, written by {writer}: use that version or a later one",
            place=place,
            format=number,
            supported=FORMAT,
        )
    if found != engine:
        raise Invalid("data belongs to another engine", place=place, engine=found, wanted=engine)
