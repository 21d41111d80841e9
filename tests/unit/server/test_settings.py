"""Where settings come from, which wins, and what is said about wrong ones."""

from pathlib import Path
from typing import Any

import pytest

from dataplatform.base.errors import Denied, Invalid
from dataplatform_server.settings import read_settings


def test_defaults(tmp_path: Path) -> None:
    settings = read_settings(
        {}, {"XDG_DATA_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    )
    assert settings.data == tmp_path / "dataplatform"
    assert settings.listen == ("127.0.0.1", 7222)
    assert settings.grpc == ("127.0.0.1", 7223)
    assert settings.http == ("127.0.0.1", 7224)
    assert settings.socket == tmp_path / "run" / "dataplatform" / "dp.sock"
    assert settings.socket_is_default
    assert settings.store is None


def test_flags_before_environment_before_file(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('cluster = "file"\ndata = "/file"\nhttp = "none"\ninsecure = true\n')
    environment = {"DP_CONFIG": str(config), "DP_DATA": "/environment", "DP_CLUSTER": "environment"}
    settings = read_settings({"cluster": "flag", "data": None}, environment)
    assert (settings.cluster, settings.data) == ("flag", Path("/environment"))
    assert settings.http is None
    assert settings.insecure


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('clustr = "x"', "did you mean cluster"),
        ("zzz = 1", "known:"),
        ("data = 5", "must be a string"),
        ('insecure = "yes"', "true or false"),
        ("= broken", "not TOML"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, hint: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text)
    with pytest.raises(Invalid, match=hint) as caught:
        read_settings({"config": str(config)}, {})
    assert str(config) in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        {"config": "/nonexistent.toml"},
        {"cluster": "a/b"},
        {"cluster": ""},
        {"log_level": "loud"},
        {"listen": "127.0.0.1:port"},
        {"grpc": "127.0.0.1:99999"},
    ],
)
def test_wrong_values_are_refused(flags: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        read_settings(flags, {})


def test_a_wrong_boolean_in_the_environment() -> None:
    with pytest.raises(Invalid, match="DP_INSECURE"):
        read_settings({}, {"DP_INSECURE": "perhaps"})


@pytest.mark.parametrize("name", ["listen", "grpc", "http"])
def test_beyond_loopback_only_when_told(name: str) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "[::]", "example.org"):
        with pytest.raises(Denied, match="--insecure"):
            read_settings({name: f"{host}:0"}, {})
        assert read_settings({name: f"{host}:0", "insecure": True}, {})
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "[::1]"):
        assert read_settings({name: f"{host}:0"}, {})
