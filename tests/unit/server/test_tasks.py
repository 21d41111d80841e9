"""Background tasks run at their interval, survive failures, and stop when told."""

import asyncio
import logging

import pytest

from dataplatform.base.errors import Unavailable
from dataplatform_server.tasks import Task, Tasks


class Counted:
    def __init__(self, *failures: Exception) -> None:
        self.runs = 0
        self.failures = list(failures)
        self.enough = asyncio.Event()

    async def run_once(self) -> None:
        self.runs += 1
        if self.runs >= 5:
            self.enough.set()
        if self.failures:
            raise self.failures.pop(0)


async def test_tasks_run_until_stopped() -> None:
    first, second = Counted(), Counted()
    tasks = Tasks([Task("first", 0.001, first.run_once), Task("second", 0.001, second.run_once)])
    tasks.start()
    await asyncio.gather(first.enough.wait(), second.enough.wait())
    await tasks.stop()
    runs = first.runs
    await asyncio.sleep(0)
    assert first.runs == runs


@pytest.mark.allow_warnings("background task")
async def test_a_failing_task_goes_on_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    counted = Counted(KeyError("k"), KeyError("k"), Unavailable("not now"))
    tasks = Tasks([Task("t", 0.001, counted.run_once)])
    with caplog.at_level(logging.INFO, "dataplatform_server"):
        tasks.start()
        await counted.enough.wait()
        await tasks.stop()
    levels = [r.levelname for r in caplog.records if r.name == "dataplatform_server.tasks"]
    assert levels == ["ERROR", "WARNING", "INFO"]
