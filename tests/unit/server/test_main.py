"""The process: how it says that it is ready, how it stops, what it says when it cannot start."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.transport.addresses import parse
from dataplatform.transport.connections import BlockingConnection

from ..transport.fakes import PATIENCE_S, drive

OFF = ["--listen", "none", "--grpc", "none", "--http", "none"]


class Process:
    """`python -m dataplatform_server`, ready when its ready descriptor says so."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dataplatform_server", *arguments, "--ready-fd", str(writing)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=(writing,),
            env=os.environ | environment,
        )
        os.close(writing)
        with os.fdopen(reading) as ready:
            text = ready.read()  # ends when it is ready, or dead
        self.ready: dict[str, Any] = json.loads(text) if text else {}

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


def start(directory: Path, *arguments: str, **environment: str) -> Process:
    data = ["--data", str(directory / "data"), "--socket", str(directory / "dp.sock")]
    return Process("start", *data, *arguments, **environment)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_then_stopped(tmp_path: Path, number: int) -> None:
    ready_file = tmp_path / "ready"
    ports = ["--listen", ":0", "--grpc", ":0", "--http", ":0", "--ready-file", str(ready_file)]
    with start(tmp_path, *ports, "--cluster", "east") as server:
        ready = server.ready
        assert json.loads(ready_file.read_text()) == ready
        assert (ready["pid"], ready["cluster"]) == (server.process.pid, "east")
        connection = drive(BlockingConnection.open(parse(ready["frames"])))
        assert connection.welcome.cluster == "east"
        drive(connection.call(METHODS["System.Ping"], pb.Empty()))
        code, out, err = server.stop(number)
    assert code == 0
    addresses = [ready["frames"], ready["socket"], ready["grpc"], ready["http"]]
    assert out.splitlines() == [" ".join(["ready", *addresses])]
    lines = err.splitlines()
    assert [line.split(": ", 1)[1].split(".")[0] for line in lines] == [
        "started",
        "stopping",
        "stopped",
    ]


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    target = pb.Target(path="/a")
    with start(tmp_path, *OFF) as server:
        connection = drive(BlockingConnection.open(parse(server.ready["socket"])))
        request = pb.WriteFileRequest(target=target)
        drive(connection.call(METHODS["Files.WriteFile"], request, b"kept"))
        assert server.stop()[0] == 0
    with start(tmp_path, *OFF) as server:
        connection = drive(BlockingConnection.open(parse(server.ready["socket"])))
        request_read = pb.ReadRequest(target=target, length=10)
        _, data = drive(connection.call(METHODS["Files.Read"], request_read))
        assert bytes(data) == b"kept"


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(PATIENCE_S)
        with start(tmp_path, *OFF, NOTIFY_SOCKET=str(tmp_path / "notify")) as server:
            assert notified.recv(100) == b"READY=1"
            server.stop()
            assert notified.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--listen", "0.0.0.0:0"], 5, "--insecure"),
        (["--cluster", "a/b"], 2, "cluster"),
        (["--config", "/nonexistent.toml"], 2, "config file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    with start(tmp_path, *arguments) as server:
        assert server.ready == {}
        ended, out, err = server.end()
    assert (ended, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert text in err


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with start(tmp_path, *OFF) as first, start(tmp_path, *OFF, "--socket", "none") as second:
        assert first.ready
        code, out, err = second.end()
        assert (code, out, len(err.splitlines())) == (8, "", 1)
        assert first.stop()[0] == 0
