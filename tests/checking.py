"""What ends every stateful test: `await assert_clean(platform_or_volume)`."""

from __future__ import annotations

from dataplatform.core.check import Report, check_platform, check_volume
from dataplatform.core.platform import Platform
from dataplatform.core.volumes import Volume


async def assert_clean(subject: Platform | Volume) -> Report:
    """Everything is as it must be; the report, for its counts."""
    if isinstance(subject, Platform):
        report = await check_platform(subject)
    else:
        report = await check_volume(subject)
    listed = "".join(f"\n  {f.path}: {f.problem}" for f in report.findings)
    assert not report.findings, f"the check found:{listed}"
    return report
