"""Master keys: `dp keys create-master | rotate-master`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from . import outputs
from .apps import SYSTEM, Json, app, command, group
from .connections import connect

keys = group(app, "keys", "Master keys, which wrap the keys of encrypted volumes.", SYSTEM)


@command(
    keys,
    "create-master",
    "dp keys create-master /etc/dataplatform/master.key",
    "dp keys create-master --rotate /etc/dataplatform/master.key",
)
def create_master(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    is_rotated: Annotated[
        bool,
        typer.Option("--rotate", help="Put a new key before those that are in FILE already."),
    ] = False,
) -> None:
    """Make a master key: a file that only you can read. Keep a copy of it in a safe place.

    Without the master key nothing of an encrypted volume can be read, by nobody, ever. The last
    line printed is the key's fingerprint, which is no secret."""
    from dataplatform.base.errors import Exists, Invalid
    from dataplatform.base.masterkeys import KEY_BYTES, format_key, master_key, parse_keys

    old = ""
    if is_rotated:
        try:
            old = file.read_text("ascii")
        except FileNotFoundError:
            raise Invalid("there is no such file: leave --rotate out", path=file) from None
        parse_keys(old, str(file))
    elif file.exists():
        raise Exists("the file exists: --rotate puts a new key before those in it", path=file)
    key = master_key(os.urandom(KEY_BYTES))
    _write(file, f"{format_key(key)}\n{old}")
    outputs.line(key.fingerprint)


def _write(file: Path, text: str) -> None:
    """Whole or not at all, and for our eyes only from the first moment."""
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(descriptor)
        os.replace(new, file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@command(keys, "rotate-master", "dp keys rotate-master")
def rotate_master(json: Json = False) -> None:
    """Let the server read its master keys again and wrap all volumes' keys with the first of them.

    Run it again after an interruption: it goes on where it stopped. When it says that nothing is
    left, the old master key may go."""
    from dataplatform.base.errors import Unavailable

    with connect() as client:
        done = client.rotate_master_key()
    if json:
        outputs.json_line(done)
    else:
        outputs.fields(
            {
                "master key": done.master,
                "volumes wrapped anew": done.volumes,
                "other secrets wrapped anew": done.secrets,
                "unchanged": done.unchanged,
            }
        )
    if done.left:
        raise Unavailable(
            "some volumes still need the old master key: keep it, and run this again",
            volumes="; ".join(done.left),
        )
