"""What is refused, as users meet it: by the Python client the right class, by `dp` the right exit
code and one line that says what to do. One table: what is asked for, the kind, the words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dataplatform
from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import KINDS, ErrorKind
from tests.streaming import build_batch
from tests.wires import FramesWire, failure

from .servers import ServerProcess

DP = str(Path(sys.executable).with_name("dp"))
DEEP = "/a" * 257
LONG = "/" + "n" * 256

Act = Callable[[dataplatform.Client], Any]

PYTHON: dict[str, tuple[Act, ErrorKind, str]] = {
    "empty name": (lambda dp: dp.mkdir(""), ErrorKind.INVALID, "give a path below it"),
    "dot": (lambda dp: dp.mkdir("/."), ErrorKind.INVALID, "cannot be `.` or `..`"),
    "dot dot": (lambda dp: dp.mkdir("/a/../b"), ErrorKind.INVALID, "cannot be `.` or `..`"),
    "NUL": (lambda dp: dp.mkdir("/a\0b"), ErrorKind.INVALID, "cannot hold `/` or NUL"),
    "256 bytes": (lambda dp: dp.mkdir(LONG), ErrorKind.INVALID, "bytes_max=`255`"),
    "not UTF-8": (lambda dp: dp.mkdir("/\udcff"), ErrorKind.INVALID, "not UTF-8"),
    "too deep": (lambda dp: dp.mkdir(DEEP), ErrorKind.INVALID, "depth_max=`256`"),
    "no parent": (lambda dp: dp.mkdir("/no/such"), ErrorKind.NOT_FOUND, "create it first"),
    "long key": (
        lambda dp: dp.table("/table").put("k" * 4097, {"n": 1}), ErrorKind.INVALID,
        "key is too long",
    ),
    "large row": (
        lambda dp: dp.table("/table").put("k", {"n": b"x" * (4 << 20)}), ErrorKind.INVALID,
        "row is too large",
    ),
    "old version": (
        lambda dp: dp.table("/table").put("row", {"n": 2}, if_version=10**9), ErrorKind.CONFLICT,
        "version",
    ),
    "not a table": (lambda dp: dp.table("/file").get("k"), ErrorKind.INVALID, "not a table"),
    "not a stream": (
        lambda dp: dp.stream("/file").append("t", b"x"), ErrorKind.INVALID, "not a stream"
    ),
    "offset beyond the end": (
        lambda dp: dp.stream("/stream").consumer("t", start=10**6, follow=False).poll(timeout_s=1),
        ErrorKind.INVALID, "beyond the end",
    ),
    "unknown partition": (
        lambda dp: dp.stream("/stream").append("t", b"x", partition=77), ErrorKind.NOT_FOUND,
        "partitions=`1`",
    ),
    "over the quota": (
        lambda dp: dp.write_file("/small/file", bytes(200_000), durable=True), ErrorKind.EXHAUSTED,
        "remove data or raise it with `dp volume set`",
    ),
    "volume with content": (
        lambda dp: dp.remove_volume("/small"), ErrorKind.INVALID, "remove it recursively"
    ),
    "directory with content": (lambda dp: dp.remove("/full"), ErrorKind.INVALID, "not empty"),
    "bad filter": (
        lambda dp: list(dp.table("/table").scan(where="n >")), ErrorKind.INVALID, "position"
    ),
}  # fmt: skip

COMMANDS: dict[str, tuple[list[str], ErrorKind, str]] = {
    "dot": (["mkdir", "/."], ErrorKind.INVALID, "cannot be"),
    "256 bytes": (["mkdir", LONG], ErrorKind.INVALID, "255"),
    "too deep": (["mkdir", DEEP], ErrorKind.INVALID, "256"),
    "no parent": (["mkdir", "/no/such"], ErrorKind.NOT_FOUND, "dp mkdir -p /no"),
    "not there": (["cat", "/none"], ErrorKind.NOT_FOUND, "no such file"),
    "exists": (["mkdir", "/full"], ErrorKind.EXISTS, "exists already"),
    "long key": (["table", "put", "/table", "k" * 4097, "n=1"], ErrorKind.INVALID, "too long"),
    "bad filter": (["table", "scan", "/table", "--where", "n >"], ErrorKind.INVALID, "position"),
    "offset": (
        ["stream", "consume", "/stream:t", "--from", "1000000"], ErrorKind.INVALID, "beyond the end"
    ),
    "unknown topic": (["stream", "consume", "/stream:none"], ErrorKind.NOT_FOUND, "no such topic"),
    "over the quota": (
        ["put", "{local}", "/small/file"], ErrorKind.EXHAUSTED, "raise it with `dp volume set`"
    ),
    "volume with content": (["volume", "remove", "/small"], ErrorKind.INVALID, "recursive"),
    "directory with content": (["rm", "/full"], ErrorKind.INVALID, "-r"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("refusals"))
    server.start()
    with dataplatform.connect(server.address) as dp:
        dp.write_file("/file", b"file")
        dp.mkdir("/full")
        dp.write_file("/full/file", b"file")
        dp.create_table("/table").put("row", {"n": 1})
        dp.create_stream("/stream").append("t", b"record")
        dp.create_volume("/small", quota_bytes=100_000)
        dp.write_file("/small/here", b"here")
    yield server
    with dataplatform.connect(server.address) as dp:  # nothing was lost, nothing has changed
        names = sorted(entry.name for entry in dp.scandir("/"))
        assert names == ["file", "full", "small", "stream", "table"]
        assert [row.columns for row in dp.table("/table").scan()] == [{"n": 1}]
        assert dp.stream("/stream").offsets("t", "latest") == {0: 1}
        assert [entry.name for entry in dp.scandir("/small")] == ["here"]
    assert server.stop() == 0
    checked = server.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("case", PYTHON)
def test_python(case: str, server: ServerProcess) -> None:
    act, kind, words = PYTHON[case]
    with dataplatform.connect(server.address) as dp:
        with pytest.raises(dataplatform.PlatformError) as caught:
            act(dp)
        assert caught.value.kind is kind, caught.value
        assert words in str(caught.value)


@pytest.mark.parametrize("case", COMMANDS)
def test_dp(case: str, server: ServerProcess, tmp_path: Path) -> None:
    arguments, kind, words = COMMANDS[case]
    local = tmp_path / "local"
    local.write_bytes(bytes(200_000))
    done = subprocess.run(
        [DP, *(a.replace("{local}", str(local)) for a in arguments)],
        env={"DP_SERVER": server.address, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == KINDS[kind].exit_code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert words in line


def test_batches_of_producers_that_are_not_what_they_say(server: ServerProcess) -> None:
    wire = FramesWire(server.address)
    stream = pb.Target(path="/stream")
    given = wire.call("Streams.InitProducer", pb.ProducerRequest(stream=stream)).producer_id

    def append(producer: int, epoch: int, sequence: int) -> object:
        raw = build_batch([b"x"], producer=(producer, epoch, sequence))
        part = pb.AppendRequest.Part(topic="producers", partition=0, length=len(raw))
        return wire.call("Streams.Append", pb.AppendRequest(stream=stream, parts=[part]), raw)

    assert isinstance(append(given, 1, 0), pb.AppendReply)
    for outcome, kind, words in (
        (append(given, 0, 1), "STALE", "init a new producer"),
        (append(given, 1, 7), "CONFLICT", "gap"),
        (append(given + 1, 0, 0), "INVALID", "init a producer first"),
    ):
        found, message = failure(outcome)
        assert found == kind, message
        assert words in message
    wire.call("Streams.DeleteTopic", pb.TopicRequest(stream=stream, topic="producers"))
    wire.close()
