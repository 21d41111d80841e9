"""Where a server's master keys come from: a command, a file, the environment, in this order.

A command asks somebody else's keeping, such as a KMS: it wraps and unwraps, and the master key
never comes here. It is run as

    COMMAND wrap CONTEXT      the key on standard input, the wrapped key on standard output
    COMMAND unwrap CONTEXT    the other way round

both in base64, one line; CONTEXT, in hexadecimal, says what the key is for: a KMS binds the wrapped
key to it (AWS: encryption context; GCP: additional authenticated data).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ctypes
import os
import shlex
import stat
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from dataplatform.base.clock import SystemEntropy
from dataplatform.base.errors import Corrupt, Denied, Invalid, PlatformError
from dataplatform.base.masterkeys import parse_keys
from dataplatform.core.keys import LocalMaster, Master, Masters

VARIABLE = "DP_MASTER_KEY"

COMMAND_S = 20.0
"""How long a command may take."""

ANSWER_BYTES_MAX = 64 << 10
FILE_BYTES_MAX = 64 << 10


def master_keys(file: Path | None, command: str, variable: str) -> Masters:
    """`variable` is what the environment said; see `take_variable`. INVALID, DENIED, UNAVAILABLE:
    with what to do."""
    entropy = SystemEntropy()
    from_environment = parse_keys(variable, VARIABLE) if variable else []

    def load() -> Sequence[Master]:
        found: list[Master] = []
        if command:
            found.append(CommandMaster(command))
        local = list(from_environment)
        if file is not None:
            local = parse_keys(read_key_file(file), str(file)) + local
        return found + [LocalMaster(key, entropy) for key in dict.fromkeys(local)]

    return Masters(load, entropy)


def read_key_file(path: Path) -> str:
    """DENIED unless only its owner, who is us or root, can read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Invalid(
            f"there is no master key file: make one with dp keys create-master {path}", path=path
        ) from None
    except OSError as error:
        raise Denied("the master key file cannot be read", path=path, reason=error.strerror) from (
            error
        )
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Invalid("the master key file is no file", path=path)
        if found.st_uid not in (0, os.geteuid()):
            raise Denied(
                f"the master key file belongs to somebody else: chown {os.geteuid()} {path}",
                path=path,
                owner=found.st_uid,
            )
        if found.st_mode & 0o077:
            raise Denied(
                f"the master key file can be read or changed by others: chmod 600 {path}",
                path=path,
                mode=f"{stat.S_IMODE(found.st_mode):04o}",
            )
        data = os.read(descriptor, FILE_BYTES_MAX)
    finally:
        os.close(descriptor)
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise Invalid("the master key file holds no master key", path=path) from None


def take_variable(environment: MutableMapping[str, str] = os.environ) -> str:
    """What DP_MASTER_KEY says. It is gone from the environment afterwards: from that of our
    children, from /proc/PID/environ, and from what a core dump shows of it."""
    value = environment.get(VARIABLE, "")
    if value and environment is os.environ:
        _overwrite(VARIABLE.encode())
    environment.pop(VARIABLE, None)
    return value


def _overwrite(name: bytes) -> None:
    """Wipe the bytes that the kernel put on our stack."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype, getenv.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    address = getenv(name)
    if address:
        ctypes.memset(address, 0, len(ctypes.string_at(address)))


class CommandMaster(Master):
    """A master key that a command keeps."""

    name = "command"

    def __init__(self, command: str, timeout_s: float = COMMAND_S) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise Invalid("the master key command cannot be parsed", reason=error) from error
        if not self._words:
            raise Invalid("the master key command is empty")
        self._timeout_s = timeout_s

    async def wrap(self, key: bytes, context: bytes) -> bytes:
        wrapped = await self._run("wrap", key, context)
        if key in wrapped:
            raise Invalid("the master key command did not wrap the key: it gave it back")
        return wrapped

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        key = await self._run("unwrap", wrapped, context)
        if len(key) != 32:
            raise Corrupt("what the master key command unwrapped is no key", length=len(key))
        return key

    async def _run(self, verb: str, data: bytes, context: bytes) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._words,
                verb,
                context.hex(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise self._failed(verb, error.strerror) from error
        try:
            async with asyncio.timeout(self._timeout_s):
                out, complaint = await process.communicate(base64.b64encode(data) + b"\n")
        except TimeoutError:
            raise self._failed(verb, f"no answer within {self._timeout_s:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            last = complaint.decode(errors="replace").strip().splitlines()[-1:]
            reason = last[0][:200] if last else "it said nothing"
            raise self._failed(verb, f"exit code {process.returncode}: {reason}")
        if len(out) > ANSWER_BYTES_MAX:
            raise self._failed(verb, "its answer is too long")
        try:
            answer = base64.b64decode(out.strip(), validate=True)
        except (binascii.Error, ValueError):
            answer = b""
        if not answer:
            raise self._failed(verb, "its answer is no line of base64")
        return answer

    def _failed(self, verb: str, reason: str | None) -> PlatformError:
        # Not UNAVAILABLE: clients would try again for a long time, each time with a process.
        return Denied(
            f"the master key command failed to {verb} a key",
            command=self._words[0],
            reason=reason,
        )
