"""Every failure as one line on standard error and an exit code.

The code follows the error's kind (`KINDS`); a failure on this side, such as a local file that is
not there, gets the code of the kind that it would have on the other. docs/cli.md lists the codes.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import traceback
from typing import TYPE_CHECKING

from typer import Abort, TyperException

from .outputs import OutputClosed

if TYPE_CHECKING:
    from dataplatform import PlatformError

DEBUG_VARIABLE = "DP_DEBUG"
INTERRUPTED = 128 + signal.SIGINT
OUTPUT_CLOSED = 128 + signal.SIGPIPE
UNEXPECTED = 1

ANONYMOUS = "anonymous"  # what the server calls who shows nothing
SHOW_SOMETHING = (
    "you have shown no token: give --token-file FILE,"
    " or on the server's machine --server dp+unix://SOCKET"
)

LOCAL_KINDS = {
    errno.ENOENT: "NOT_FOUND",
    errno.EEXIST: "EXISTS",
    errno.EACCES: "DENIED",
    errno.EPERM: "DENIED",
    errno.EROFS: "DENIED",
    errno.ENOSPC: "EXHAUSTED",
    errno.EDQUOT: "EXHAUSTED",
    errno.EMFILE: "EXHAUSTED",
    errno.EISDIR: "INVALID",
    errno.ENOTDIR: "INVALID",
    errno.EINVAL: "INVALID",
    errno.ENAMETOOLONG: "INVALID",
}


def report(error: BaseException) -> int:
    """Say what went wrong; the exit code."""
    if isinstance(error, OutputClosed):
        _silence(sys.stdout)
        return OUTPUT_CLOSED
    if isinstance(error, (KeyboardInterrupt, Abort)):
        return INTERRUPTED
    if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, TyperException):
        return _say(_usage(error), error.exit_code)
    from dataplatform.base.errors import KINDS, ErrorKind, PlatformError

    if isinstance(error, PlatformError):
        return _say(_platform(error), KINDS[error.kind].exit_code)
    if isinstance(error, OSError) and error.errno:
        kind = ErrorKind[LOCAL_KINDS.get(error.errno, "INTERNAL")]
        return _say(_local(error), KINDS[kind].exit_code)
    return _say(_unexpected(error), UNEXPECTED)


def _say(text: str, code: int) -> int:
    """One line; below it what a caret points at, if there is one."""
    said, *shown = text.split("\n")
    if not shown or shown[-1].strip() != "^":
        said, shown = text, []
    try:
        sys.stderr.write("\n".join([f"dp: {' '.join(said.split())}", *shown, ""]))
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)  # nobody can be told
    return code


def _usage(error: TyperException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)  # of a usage error: the command it is about
    return message if context is None else f"{message} (see `{context.command_path} --help`)"


def _platform(error: PlatformError) -> str:
    """What the server or the client says, with its advice as a command line."""
    if error.facts.get("user") == ANONYMOUS and "credential" not in error.facts:
        return f"{error} ({SHOW_SOMETHING})"
    parent = str(error.facts.get("path", "")).rstrip("/").rpartition("/")[0]
    if "ask for parents" not in error.message or not parent:
        return str(error)
    hint = f"no such directory: make it with `dp mkdir -p {shlex.quote(parent)}`"
    return str(type(error)(hint, **error.facts))


def _local(error: OSError) -> str:
    text = (error.strerror or str(error)).lower()
    return f"{text}. local=`{error.filename}`" if error.filename is not None else text


def _unexpected(error: BaseException) -> str:
    return (
        f"unexpected {type(error).__name__}: {error} "
        f"(this is a defect; {DEBUG_VARIABLE}=1 shows the traceback)"
    )


def _silence(stream: object) -> None:
    """Python flushes the standard streams when it ends: give it something that takes it."""
    number = 1 if stream is sys.stdout else 2
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
