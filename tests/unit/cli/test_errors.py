"""Failures: one line that says what to do, and the exit code of the kind."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

import dataplatform
from dataplatform.base.errors import KINDS, ErrorKind, PlatformError
from dataplatform_clients.cli import errors, outputs

from .fakes import STAT, Command

Make = Callable[..., Command]


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_kind_has_its_code(dp: Make, kind: ErrorKind) -> None:
    code, out, err = dp(lstat=PlatformError(kind, "it failed", path="/a"))("ls", "/a")
    assert (code, out, err) == (KINDS[kind].exit_code, "", "dp: it failed. path=`/a`\n")


def test_missing_directories_come_with_the_command_that_makes_them(dp: Make) -> None:
    asked = "no such directory: create it first, or ask for parents"
    missing = dataplatform.NotFound(asked, path="/no/a dir/y")
    assert dp(utime=missing, open=missing)("touch", "/no/a dir/y") == (
        3,
        "",
        "dp: no such directory: make it with `dp mkdir -p '/no/a dir'`. path=`/no/a dir/y`\n",
    )


@pytest.mark.parametrize("kind", ["table", "stream"])
def test_a_missing_table_or_stream_comes_with_the_command_that_creates_it(
    dp: Make, kind: str
) -> None:
    command = dp(**{kind: dataplatform.NotFound("no such file or directory", path="/x")})
    said = f"dp: no such {kind}: create it with `dp {kind} create /x`. path=`/x`\n"
    assert command(kind, "info", "/x") == (3, "", said)


def test_a_missing_row_is_not_found(dp: Make) -> None:
    command = dp(table=lambda path: OneRow(None))
    assert command("table", "get", "/a/t", "k1") == (
        3,
        "",
        "dp: row not found. table=`/a/t`, key=`k1`\n",
    )


class OneRow:
    def __init__(self, row: dataplatform.Row | None) -> None:
        self.row = row

    def get(self, key: str, columns: list[str] | None) -> dataplatform.Row | None:
        return self.row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lss",), "No such command 'lss'. Did you mean 'ls'? (see `dp --help`)"),
        (("ls", "--foo"), "No such option: --foo (see `dp ls --help`)"),
        (("table", "put", "/t"), "Missing argument 'KEY' (see `dp table put --help`)"),
        (
            ("volume", "create", "/v", "--quota", "lots"),
            "Invalid value for '--quota': 'lots' is not a size: write 10GiB, 100MiB or bytes"
            " (see `dp volume create --help`)",
        ),
    ],
)
def test_usage_errors_are_one_line_too(dp: Make, arguments: tuple[str, ...], message: str) -> None:
    command = dp()
    assert command(*arguments) == (2, "", f"dp: {message}\n")
    assert not command.connected


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, 3),
        (errno.EEXIST, 4),
        (errno.EACCES, 5),
        (errno.ENOSPC, 9),
        (errno.EISDIR, 2),
        (errno.EIO, 1),
    ],
)
def test_local_failures_get_the_code_of_their_kind(
    capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    error = OSError(number, os.strerror(number), "x.csv")
    assert errors.report(error) == code
    assert capsys.readouterr().err == f"dp: {os.strerror(number).lower()}. local=`x.csv`\n"


def test_the_unexpected_is_one_line_and_a_traceback_on_demand(
    dp: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = dp(lstat=ZeroDivisionError("oh\nno"))
    code, _, err = command("ls", "/")
    assert code == 1
    assert err == (
        "dp: unexpected ZeroDivisionError: oh no"
        " (this is a defect; DP_DEBUG=1 shows the traceback)\n"
    )
    monkeypatch.setenv("DP_DEBUG", "1")
    code, _, err = command("ls", "/")
    assert code == 1
    assert err.startswith("Traceback")


def test_ctrl_c_is_130_without_a_word(dp: Make) -> None:
    assert dp(lstat=KeyboardInterrupt())("ls", "/") == (130, "", "")


def test_a_closed_pipe_is_quiet(dp: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    silenced = []
    monkeypatch.setattr(errors, "_silence", silenced.append)

    def write(data: bytes) -> None:
        raise outputs.OutputClosed

    monkeypatch.setattr(outputs, "write", write)
    assert dp(lstat=STAT)("ls", "/f") == (141, "", "")
    assert silenced


def test_who_has_shown_nothing_is_told_what_to_show(dp: Make) -> None:
    denied = dataplatform.Denied("not allowed", user="anonymous", verb="read")
    code, _, err = dp(lstat=denied)("ls", "/a")
    assert code == 5
    assert "--token-file" in err
    assert "dp+unix://" in err
