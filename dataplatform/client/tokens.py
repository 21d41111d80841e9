"""Where a client finds the token that it shows: asked at every connection, so it may be renewed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..base.errors import Invalid

TokenSource = Callable[[], str]

VARIABLE = "DP_TOKEN"
FILE_VARIABLE = "DP_TOKEN_FILE"


def token_source(
    token: str | None = None, token_file: str | os.PathLike[str] | None = None
) -> TokenSource:
    """The token, else what the file has then, else the same of $DP_TOKEN and $DP_TOKEN_FILE; else
    none. INVALID, when it is asked, if the file cannot be read."""
    if token:
        return lambda: token
    if token_file:
        return lambda: read_token(token_file)
    if text := os.environ.get(VARIABLE):
        return lambda: text
    if file := os.environ.get(FILE_VARIABLE):
        return lambda: read_token(file)
    return lambda: ""


def read_token(file: str | os.PathLike[str]) -> str:
    """The last line that is not empty: what `dp token create` prints may be kept as it is."""
    try:
        lines = Path(file).read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Invalid("cannot read the token", file=file, reason=reason) from None
    if not lines:
        raise Invalid("the file with the token is empty", file=file)
    return lines[-1]
