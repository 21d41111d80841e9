"""`dp bench` as people use it: what it prints, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplatform

from .servers import ServerProcess

DP = str(Path(sys.executable).with_name("dp"))
TIMEOUT_S = 120


@pytest.fixture
def directory() -> Iterator[Path]:
    # A socket's path is short; pytest's directories are not always.
    with tempfile.TemporaryDirectory(prefix="dp-bench-") as name:
        yield Path(name)


def dp(*arguments: str, server: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DP_SERVER": server}
    command = [DP, "bench", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )


def test_the_server_of_others_is_measured_and_left_as_it_was(directory: Path) -> None:
    server = ServerProcess(directory)
    server.start()
    try:
        done = dp("put", "scan", "small-files", "--json", *QUICK, server=server.address)
        assert done.returncode == 0, done.stderr
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert [result["work"] for result in results] == ["put", "scan", "small-files"]
        assert all(result["ours"]["figure"] > 0 for result in results)
        assert all(result["peers"] == [] for result in results)
        assert "scan: turn 1 of 1" in done.stderr
        with dataplatform.connect(server.address) as client:
            assert client.listdir("/") == []
            assert client.check().ok
    finally:
        assert server.stop() == 0


def test_beside_the_disk_on_a_server_of_its_own(directory: Path) -> None:
    done = dp("put", "file-read", "--against", "disk", "--markdown", *at(directory), *QUICK)
    assert done.returncode == 0, done.stderr
    head, _, *rows = done.stdout.splitlines()
    assert head.startswith("| work | figure | durability |")
    assert [row.split(" | ")[0] for row in rows] == [
        "| one durable put, one client (put)",
        "| file read, 1 MiB calls (file-read)",
        "| memory of the server at rest (memory-rest)",
        "| its highest (memory-peak)",
        "| at the end (memory-end)",
    ]
    assert "disk: write + fdatasync" in rows[0]
    assert_nothing_is_left(directory)


def test_an_interruption_leaves_nothing_behind(directory: Path) -> None:
    process = subprocess.Popen(
        [DP, "bench", "put", "--against", "disk", "--rounds", "1000000", *at(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    told = next(line for line in process.stderr if "turn 2 of" in line)
    assert "put" in told
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGINT
    assert_nothing_is_left(directory)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "no workload is called 'nothing'"),
        (("--against", "nobody"), "no peer is called 'nobody'"),
        (("--scale", "0"), "more than 0"),
    ],
)
def test_what_is_not_there_is_named(arguments: tuple[str, ...], words: str) -> None:
    done = dp(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_short_soak_reads_what_was_written(directory: Path, seed: int) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "dataplatform_bench.soak"),
            *("--minutes", "0.05", "--rate", "300", "--seed", str(seed)),
            *("--csv", str(directory / "soak.csv"), *at(directory)),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: all that was read was what was written" in done.stdout
    assert (directory / "soak.csv").read_text().count("\n") >= 2
    (directory / "soak.csv").unlink()
    assert_nothing_is_left(directory)


def test_the_list_says_what_is_asked_and_which_peers_are_there() -> None:
    done = dp("--list", "--json")
    values = [json.loads(line) for line in done.stdout.splitlines()]
    asked = {value["work"]: value["asked"] for value in values if "work" in value}
    assert asked["scan"] == "≥ 300,000 rows/s"
    missing = {value["peer"]: value["missing"] for value in values if "peer" in value}
    assert set(missing) == {"redis", "nats", "kafka", "juicefs"}
    assert all(reason is None or ": " in reason for reason in missing.values())


QUICK = ("--rounds", "1", "--scale", "0.01")


def at(directory: Path) -> tuple[str, str]:
    return "--dir", str(directory)


def assert_nothing_is_left(directory: Path) -> None:
    assert list(directory.iterdir()) == []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            assert str(directory).encode() not in command, command
