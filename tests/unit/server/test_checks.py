"""The check as a job: started once, polled by many, kept for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform.base.errors import NotFound, Unavailable
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import ROOT_VOLUME
from dataplatform_server.checks import JOBS_KEPT_MAX, Checks
from tests.model.platform_driver import Place

WAIT_S = 60.0


async def test_a_job_is_started_waited_for_and_reported(tmp_path: Path) -> None:
    platform = await Place("memory", tmp_path).open()
    checks = Checks(platform)
    job = checks.start(0, repair=False)
    assert not job.report().done
    await job.wait(WAIT_S)
    reply = checks.find(job.number).report()
    assert reply.done
    assert not reply.findings
    assert reply.counts["directories"] == 1
    assert reply.checked > 0
    await platform.close()


async def test_findings_are_reported_and_repaired(tmp_path: Path) -> None:
    platform = await Place("memory", tmp_path).open()
    volume = await platform.acquire(ROOT_VOLUME)
    await volume.storage.engine.commit({keys.xattr(77, b"user.a"): b""})
    checks = Checks(platform)
    for repair, repaired in ((False, False), (True, True)):
        job = checks.start(ROOT_VOLUME, repair=repair)
        await job.wait(WAIT_S)
        (finding,) = job.report().findings
        assert finding.path == "(inode 77)"
        assert "extended attributes" in finding.problem
        assert (finding.repairable, finding.repaired) == (True, repaired)
    job = checks.start(ROOT_VOLUME, repair=False)
    await job.wait(WAIT_S)
    assert not job.report().findings
    platform.release(volume)
    await platform.close()


async def test_one_job_at_a_time_on_a_volume(tmp_path: Path) -> None:
    platform = await Place("memory", tmp_path).open()
    checks = Checks(platform)
    job = checks.start(0, repair=False)
    assert checks.start(0, repair=False) is job  # a repeated request joins it
    for volume_id, repair in ((0, True), (ROOT_VOLUME, False)):
        with pytest.raises(Unavailable):
            checks.start(volume_id, repair=repair)
    await job.wait(WAIT_S)
    assert checks.start(0, repair=False) is not job
    await checks.find(2).wait(WAIT_S)
    await platform.close()


async def test_an_unknown_volume_fails_and_others_go_on(tmp_path: Path) -> None:
    platform = await Place("memory", tmp_path).open()
    checks = Checks(platform)
    job, other = checks.start(12345, repair=False), checks.start(ROOT_VOLUME, repair=False)
    await job.wait(WAIT_S)
    with pytest.raises(NotFound):
        job.report()
    await other.wait(WAIT_S)
    assert other.report().done
    await platform.close()


async def test_old_jobs_are_forgotten(tmp_path: Path) -> None:
    platform = await Place("memory", tmp_path).open()
    checks = Checks(platform)
    for _ in range(JOBS_KEPT_MAX + 1):
        await checks.start(0, repair=False).wait(WAIT_S)
    with pytest.raises(NotFound):
        checks.find(1)
    assert checks.find(2).report().done
    await platform.close()
