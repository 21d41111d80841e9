"""The keeper with workers that live, die and hang as they are told; mounting is pretended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplatform_clients.fuse.keeper import DEATHS_MAX, PAUSES_S, QUICK_DEATH_S, Deaths
from dataplatform_clients.fuse.link import HANDED_OVER

PROGRAM = Path(__file__).with_name("keeper_program.py")
TIMEOUT_S = 30.0


class Running:
    """A keeper's process, and what is known of it."""

    def __init__(self, directory: Path, plan: str) -> None:
        self.directory = directory
        self.plan(plan)
        (directory / "events").touch()
        self._log = (directory / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM],
            env={**os.environ, "FAKE_DIRECTORY": str(directory)},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def plan(self, text: str) -> None:
        (self.directory / "plan").write_text(text)

    def touch(self, name: str) -> None:
        (self.directory / name).touch()

    @property
    def events(self) -> list[str]:
        return (self.directory / "events").read_text().splitlines()

    @property
    def workers(self) -> list[int]:
        return [int(line) for line in (self.directory / "starts").read_text().split()]

    @property
    def generations(self) -> list[int]:
        return [int(event.split()[1]) for event in self.events if event.startswith("go ")]

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def wait(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < ends, f"{self.events}\n{self.log}"
            time.sleep(0.005)

    def wait_for(self, event: str, times: int = 1) -> None:
        self.wait(lambda: self.events.count(event) >= times)

    def announced(self) -> dict[str, object]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def ends(self) -> int:
        return self.process.wait(TIMEOUT_S)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        (self.directory / "unmounted").touch()  # whatever worker is left ends by that
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


def is_running(pid: int) -> bool:
    """A zombie is not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Callable[[str], Running]]:
    started: list[Running] = []

    def start(plan: str) -> Running:
        started.append(Running(tmp_path, plan))
        return started[-1]

    yield start
    for running in started:
        running.close()


Keep = Callable[[str], Running]

# ------------------------------------------------------------------------------------ beginning


def test_a_worker_loads_before_anything_is_mounted(keep: Keep) -> None:
    running = keep("serve")
    assert running.announced() == {"pid": running.process.pid}
    running.wait_for("ready")
    events = [event.split()[0] for event in running.events]
    assert events == ["begin", "mount", "go", "ready"]
    assert running.events[0] == "begin first"
    assert running.generations == [0]


def test_it_ends_when_the_file_system_was_unmounted_by_others(keep: Keep) -> None:
    running = keep("serve")
    running.announced()
    running.touch("unmounted")
    assert running.ends() == 0
    assert running.events[-1] == "flushed"
    assert len(running.workers) == 1


@pytest.mark.parametrize(
    ("plan", "kind", "message", "code"),
    [
        ("refuse-loading", "NOT_FOUND", "there is no such thing", 3),
        ("refuse", "UNAVAILABLE", "no server", 8),
        ("die-loading", "INTERNAL", "the worker ended with code 3 before it served", 1),
        ("killed", "INTERNAL", "the worker was killed by SIGKILL before it served", 1),
    ],
)
def test_a_mount_that_cannot_be_says_why(
    keep: Keep, plan: str, kind: str, message: str, code: int
) -> None:
    running = keep(plan)
    assert running.announced() == {"kind": kind, "message": message}
    assert running.ends() == code
    assert len(running.workers) == 1
    assert ("unmount lazily" in running.events) == ("mount" in running.events)


def test_a_refused_mount_ends_the_worker(keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "refuse-mount").touch()
    running = keep("serve")
    assert running.announced() == {"kind": "DENIED", "message": "not here"}
    assert running.ends() == 5
    running.wait(lambda: not is_running(running.workers[0]))


# ---------------------------------------------------------------------------------------- deaths


def test_a_killed_worker_has_a_successor_with_the_same_session(keep: Keep) -> None:
    running = keep("serve")
    running.announced()
    for number in range(DEATHS_MAX + 2):
        os.kill(running.workers[-1], signal.SIGKILL)
        running.wait(lambda due=number + 1: f"generation {due}\n" in running.log)
    assert running.generations == list(range(DEATHS_MAX + 3))
    sessions = {event.split()[2] for event in running.events if event.startswith("go ")}
    assert len(sessions) == 1
    assert running.events.count("mount") == 1
    assert running.events.count("begin first") == 1
    assert "was killed by SIGKILL" in running.log


def test_it_gives_up_after_quick_deaths_and_says_so(keep: Keep) -> None:
    running = keep("serve die die-loading die")
    running.announced()
    os.kill(running.workers[0], signal.SIGKILL)
    assert running.ends() == 1
    assert len(running.workers) == DEATHS_MAX + 1, "being killed by somebody does not count"
    assert running.events[-1] == "unmount lazily"
    assert "giving up /nowhere" in running.log


def test_killed_by_somebody_it_never_gives_up(keep: Keep) -> None:
    running = keep("serve " + "killed " * (DEATHS_MAX + 1) + "serve")
    running.announced()
    os.kill(running.workers[0], signal.SIGKILL)
    running.wait_for("ready", 2)
    assert len(running.workers) == DEATHS_MAX + 3


def test_pauses_grow_and_a_long_life_forgives() -> None:
    deaths = Deaths()
    assert [deaths.pause_s(0.0) for _ in range(DEATHS_MAX)] == [*PAUSES_S, None]
    deaths = Deaths()
    for _ in range(3 * DEATHS_MAX):
        assert deaths.pause_s(QUICK_DEATH_S + 1) == 0
        assert deaths.pause_s(1.0) == PAUSES_S[0]
        assert deaths.pause_s(1.0) == PAUSES_S[1]


# --------------------------------------------------------------------------------------- upgrade


def test_an_upgrade_loads_then_drains_then_goes(keep: Keep) -> None:
    running = keep("serve")
    running.announced()
    running.signal(signal.SIGHUP)
    running.wait_for("ready", 2)
    events = [event.split(" ")[0] for event in running.events]
    assert events == ["begin", "mount", "go", "ready", "begin", "drain", "go", "ready"]
    assert running.generations == [0, 1]
    assert running.process.poll() is None


@pytest.mark.parametrize("mode", ["die-loading", "refuse-loading"])
def test_an_upgrade_that_does_not_load_changes_nothing(keep: Keep, mode: str) -> None:
    running = keep(f"serve {mode} serve")
    running.announced()
    running.signal(signal.SIGHUP)
    running.wait(lambda: "no upgrade was made" in running.log)
    assert running.generations == [0]
    running.signal(signal.SIGHUP)
    running.wait_for("ready", 2)
    assert running.generations == [0, 1]


def test_a_worker_that_dies_while_it_drains_is_succeeded_all_the_same(keep: Keep) -> None:
    running = keep("die-draining serve")
    running.announced()
    running.signal(signal.SIGHUP)
    running.wait_for("ready", 2)
    assert running.generations == [0, 1]
    assert len(running.workers) == 2


# ---------------------------------------------------------------------------------------- ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_unmounts_and_lets_the_worker_flush(
    keep: Keep, number: signal.Signals
) -> None:
    running = keep("serve")
    running.announced()
    running.signal(number)
    assert running.ends() == 0
    assert "unmount" in running.events
    assert running.events[-1] in ("flushed", "drain")


def test_in_use_it_detaches_and_drains(keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "in-use").touch()
    running = keep("serve")
    running.announced()
    running.signal(signal.SIGTERM)
    assert running.ends() == 0
    assert running.events[-2:] == ["unmount lazily", "drain"]


def test_a_second_request_to_stop_does_not_wait(keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "block-unmount").touch()
    running = keep("serve")
    running.announced()
    running.signal(signal.SIGTERM)
    running.wait(lambda: len(children(running.process.pid)) == 2)
    running.signal(signal.SIGTERM)
    assert running.ends() == 1
    (tmp_path / "block-unmount").unlink()


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_counters_are_asked_of_the_worker(keep: Keep) -> None:
    running = keep("serve")
    running.announced()
    running.wait_for("ready")
    running.signal(signal.SIGUSR1)
    running.wait_for("usr1")


def test_the_worker_serves_on_when_the_keeper_is_killed(keep: Keep) -> None:
    running = keep("serve")
    running.announced()
    running.signal(signal.SIGKILL)
    running.ends()
    running.wait_for("alone")
    assert is_running(running.workers[0])


def test_it_stays_small(keep: Keep) -> None:
    """Only what it owns: the interpreter's code is shared with every other Python."""
    running = keep("serve")
    running.announced()
    rollup = Path(f"/proc/{running.process.pid}/smaps_rollup").read_text()
    private = [int(line.split()[1]) for line in rollup.splitlines() if "Private_Dirty" in line]
    assert sum(private) < 12_000
    modules = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; import dataplatform_clients.fuse.keeper;"
            "print(*sorted({name.partition('.')[0] for name in sys.modules}))",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"dataplatform", "asyncio", "typer", "subprocess", "logging"} & set(modules)


def test_handed_over_is_no_exit_code_of_an_error() -> None:
    from dataplatform.base.errors import KINDS

    assert HANDED_OVER not in {rule.exit_code for rule in KINDS.values()}
