"""What the kernel says is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform_clients.fuse import mountinfo

TEXT = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:50 / /mnt/a\040b\134c ro,nosuid shared:5 master:2 - fuse.dp dp:/a\040b rw,user_id=0
41 27 0:51 / /mnt/two rw - ext4 /dev/vda rw
42 41 0:52 / /mnt/two rw - fuse.dp dp+unix:///run/s:/ä rw
"""


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(TEXT)
    monkeypatch.setattr(mountinfo, "MOUNTINFO", str(tmp_path / "mountinfo"))


def test_lines_are_read_as_the_kernel_writes_them() -> None:
    first, second = mountinfo.mounts("fuse.dp")
    assert (first.mountpoint, first.source, first.device) == (r"/mnt/a b\c", "dp:/a b", "0:50")
    assert first.is_read_only
    assert not second.is_read_only
    assert second.source == "dp+unix:///run/s:/ä"
    assert len(mountinfo.mounts()) == 4


def test_the_last_one_on_a_path_is_what_is_seen() -> None:
    found = mountinfo.find("/mnt/two")
    assert found is not None
    assert found.kind == "fuse.dp"
    assert mountinfo.find("/mnt") is None


def test_paths_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert mountinfo.resolve(f"{tmp_path}/link/../link") == f"{tmp_path}/real"
    assert mountinfo.resolve(f"{tmp_path}/link/x/") == f"{tmp_path}/real/x"
    assert mountinfo.resolve("/") == "/"
    assert mountinfo.resolve("/mnt/two/") == "/mnt/two"
