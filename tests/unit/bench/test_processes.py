"""Processes that are started and stopped, and what the kernel knows of them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from dataplatform_bench import proc
from dataplatform_bench.campaigns import file_system
from dataplatform_bench.processes import Failed, Running, run, uninterrupted

STUBBORN = """
import signal, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
threading.Event().wait()
"""


def test_a_process_that_ends_is_named_with_its_last_words(tmp_path: Path) -> None:
    running = Running([sys.executable, "-c", "raise SystemExit('no port')"], tmp_path / "log")
    with pytest.raises(Failed, match=r"ended with exit code 1: no port"):
        running.wait_until(lambda: False)
    assert running.stop() == 1


def test_a_process_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    running = Running([sys.executable, "-c", STUBBORN, str(ready)], tmp_path / "log")
    try:
        running.wait_until(ready.exists)
        with pytest.raises(Failed, match="did not answer"):
            running.wait_until(lambda: False, limit_s=0.1)
    finally:
        assert running.stop(limit_s=0.1) == -signal.SIGKILL


def test_a_command_that_fails_or_hangs_is_named() -> None:
    assert run([sys.executable, "-c", "print('well')"]) == "well\n"
    with pytest.raises(Failed, match="exit code 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(Failed, match="did not end"):
        run([sys.executable, "-c", "import threading; threading.Event().wait()"], limit_s=0.1)


def test_an_interruption_waits_for_the_end_of_the_block() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("stopped")
        steps.append("went on")
    assert steps == ["stopped"]


def test_memory_and_processor_time_of_this_process() -> None:
    pid = os.getpid()
    assert 1 << 20 < proc.resident_bytes(pid) <= proc.peak_resident_bytes(pid)
    assert proc.processor_s(pid) > 0
    before = proc.open_files(pid)
    with open(os.devnull) as _:
        assert proc.open_files(pid) == before + 1


def test_the_kind_of_a_file_system() -> None:
    assert file_system(Path("/proc/self")) == "proc"
