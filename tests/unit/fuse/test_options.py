"""SPEC, OPTIONS, and the options as they go from process to process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dataplatform_clients.fuse import options
from dataplatform_clients.fuse.options import MountOptions, parse_options, parse_spec, source_of
from dataplatform_clients.fuse.refusals import MountRefused


@pytest.mark.parametrize(
    ("spec", "address", "path"),
    [
        ("/", "", "/"),
        ("/projects/cars", "", "/projects/cars"),
        ("dp:/projects", "", "/projects"),
        ("dp://10.0.0.7:7222/projects", "dp://10.0.0.7:7222", "/projects"),
        ("dp://10.0.0.7/projects", "dp://10.0.0.7", "/projects"),
        ("dps://east:7222", "dps://east:7222", "/"),
        ("dp://[::1]:7222/a/b", "dp://[::1]:7222", "/a/b"),
        ("dp+unix:///run/dp.sock:/projects", "dp+unix:///run/dp.sock", "/projects"),
        ("dp+unix:///run/dp.sock", "dp+unix:///run/dp.sock", "/"),
    ],
)
def test_what_to_mount(spec: str, address: str, path: str) -> None:
    assert parse_spec(spec) == (address, path)
    assert parse_spec(source_of(address, path)) == (address, path)


@pytest.mark.parametrize(
    "spec", ["", "projects", "dp:projects", "nfs://host/x", "dp:///x", "dp+unix://run/x", "dps:/x"]
)
def test_what_names_nothing_to_mount(spec: str) -> None:
    with pytest.raises(MountRefused) as caught:
        parse_spec(spec)
    assert caught.value.kind == "INVALID"
    assert options.SPEC_FORMS in caught.value.message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("defaults,_netdev,nofail,auto,user,x-systemd.automount,comment=mine,user=ana", {}),
        ("ro,noatime", {"read_only": True, "atime": "noatime"}),
        ("ro,rw", {"read_only": False}),
        ("patience=90s", {"patience_s": 90.0}),
        ("cache_dir=/c,cache_size=1GiB", {"cache_dir": "/c", "cache_size_bytes": 1 << 30}),
        ("max_dirty=8M", {"dirty_bytes_max": 8 << 20}),
        (r"fsname=a\,b,nodev", {"source": "a,b", "dev": False}),
        ("token_file=/etc/t", {"token_file": "/etc/t"}),
        ("nonear,log_level=debug", {"near": False, "log_level": "debug"}),
    ],
)
def test_lists_of_options(text: str, found: dict[str, Any]) -> None:
    read = parse_options(text)
    assert read == found
    MountOptions(mountpoint="/m", **read)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foo", "known are ro, rw"),
        ("foo=1", "unknown option 'foo=1'"),
        ("patience", "patience=5m"),
        ("patience=soon", "patience=5m: 'soon' is not a duration"),
        ("cache_size=much", "cache_size=10GiB: 'much' is not a size"),
        ("cache_dir=here", "'here' is no absolute path"),
        ("ro=1", "option ro takes no value"),
        ("log_level=loud", "none of debug, info"),
    ],
)
def test_options_that_are_wrong(text: str, says: str) -> None:
    with pytest.raises(MountRefused) as caught:
        parse_options(text)
    assert caught.value.kind == "INVALID"
    assert says in caught.value.message


def test_every_option_sets_a_field() -> None:
    fields = MountOptions.__dataclass_fields__
    assert {field for field, _ in options.FLAGS.values()} <= fields.keys()
    assert {field for field, _, _ in options.VALUES.values()} <= fields.keys()


def test_defaults() -> None:
    made = MountOptions(mountpoint="/m")
    is_root = os.geteuid() == 0
    assert (made.allow_other, made.suid, made.dev, made.exec) == (is_root, is_root, is_root, True)
    assert made.patience_s == 300
    assert made.atime == "relatime"
    assert made.dirty_bytes_max == 16 << 20
    assert made.source == "dp:/"


def test_a_program_of_another_version_reads_them() -> None:
    made = MountOptions(mountpoint="/m", path="/p", address="dp://h", token="secret")
    assert MountOptions.from_json(made.to_json()) == made
    text = json.dumps({**json.loads(made.to_json()), "of_tomorrow": 1})
    assert MountOptions.from_json(text) == made
    assert "secret" not in repr(made)


def test_a_token_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = MountOptions(mountpoint="/m", token="old", token_file=str(file))
    with pytest.raises(FileNotFoundError):
        made.read_token()
    file.write_text("new\n")
    assert made.read_token() == "new"
    assert MountOptions(mountpoint="/m", token="old").read_token() == "old"
